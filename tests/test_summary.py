"""The summary is an audit: it believes the parts on storage, not what was said about them."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from servers import Bucket, Proxy

from jobs.labelling.messages import CommitRecord
from jobs.labelling.mounts import OutputGoneError
from jobs.labelling.summary import (
    Tally,
    committed_shards,
    finished_summary,
    summarise,
    write_summary,
)
from jobs.log import configure
from pipeline.output import OutputFolder
from pipeline.records import ImageRef
from pipeline.shards import Plan, part_path, write_plan
from pipeline.sink import write_part
from pipeline.stores.errors import AccessError, TransientStoreError

COUNTS = {"ok": 2, "damaged": 0, "rejected": 1, "unreadable": 0}


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    """A plan of two full shards and one of a single image; nothing labelled."""
    folder = OutputFolder(str(tmp_path / "out"))
    folder.create()
    write_plan(folder, (ImageRef(f"/{index}.jpg") for index in range(7)), 3)
    return folder


def commit(output: OutputFolder, shard: int, *, num_rows: int = 3, **facts: Any) -> CommitRecord:
    counts = COUNTS if num_rows == 3 else {**COUNTS, "ok": num_rows, "rejected": 0}
    facts = {"run_id": "run", "counts": counts, **facts}
    write_part(output, shard, pa.table({"uri": ["x"] * num_rows}), facts)
    return CommitRecord(shard, 2.0, counts, {"model": 1.5})


def summed_up(output: OutputFolder, *records: CommitRecord, exit_reason: str = "complete") -> Any:
    began = time.monotonic() - 10
    tally, sizes = Tally(), Plan(output).shard_sizes
    for record in records:
        tally.add(record, sizes[record.shard])
    summary = summarise(output, "run", tally, began=began, exit_reason=exit_reason)
    write_summary(output, summary)
    return summary


def test_a_whole_run_is_complete(output: OutputFolder) -> None:
    records = [commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1)]
    summary = summed_up(output, *records)
    assert summary.complete
    assert summary.counts == {"ok": 5, "damaged": 0, "rejected": 2, "unreadable": 0}
    assert (summary.images, summary.planned_images, summary.shards) == (7, 7, 3)
    assert summary.seconds == {"model": 4.5}
    assert summary.start_up_s == pytest.approx(8, abs=1)  # the first shard took two seconds
    assert summary.wall_s == pytest.approx(10, abs=1)
    assert summary.images_per_s == pytest.approx(7 / 2, abs=1)
    assert finished_summary(output) == summary


def test_a_part_of_another_model_is_removed(output: OutputFolder) -> None:
    """A second driver with other weights may commit one more shard before it learns of them."""
    model = {"backbone": "resnet50", "weights_sha256": "a"}
    output.write_json("run.json", {"model": model})
    other = {**model, "weights_sha256": "b"}
    records = [commit(output, 0, **model), commit(output, 1, **other)]
    records.append(commit(output, 2, num_rows=1, **model))
    summary = summed_up(output, *records)
    assert summary.failed == {
        "part-00001.parquet": "removed, as it is of another model: weights-sha256 was 'a', is"
        " now 'b'"
    }
    assert (summary.images, summary.exit_reason) == (4, "failed shards")
    assert committed_shards(output, 3) == {0, 2}


def test_a_part_of_a_run_that_was_removed_is_removed(output: OutputFolder) -> None:
    """As where the folder is deleted, and labelled anew, while that run's worker still labels."""
    records = [commit(output, 0), commit(output, 2, num_rows=1)]
    commit(output, 1, run_id="removed")
    summary = summed_up(output, *records)
    assert summary.failed == {"part-00001.parquet": "removed, as it is of another run"}
    assert committed_shards(output, 3) == {0, 2}


def test_a_run_that_was_removed_leaves_the_next_ones_output_alone(output: OutputFolder) -> None:
    summary = summed_up(output, commit(output, 0))
    commit(output, 1, run_id="next")
    output.write_json("run.json", {"run_id": "next", "model": None})
    with pytest.raises(OutputGoneError, match="holds another run now"):
        summarise(output, "run", Tally(), began=time.monotonic(), exit_reason="complete")
    (output.path / "summary.json").unlink()
    with pytest.raises(OutputGoneError, match="holds another run now"):
        write_summary(output, summary)
    assert not (output.path / "summary.json").exists()
    assert committed_shards(output, 3) == {0, 1}


def test_a_tally_is_no_larger_for_ten_thousand_shards() -> None:
    tally = Tally()
    sizes = set()
    for shard in range(10_000):
        tally.add(CommitRecord(shard, 2.0, COUNTS, {"model": 0.5}), num_images=3)
        sizes.add(sum(map(sys.getsizeof, (tally, tally.seconds, tally.errors))))
    assert len(sizes) == 1
    assert (tally.images, tally.seconds) == (30_000, {"model": 5000.0})


def test_shards_of_an_earlier_run_count_in_the_rows_but_not_in_the_speed(
    output: OutputFolder,
) -> None:
    commit(output, 0)
    records = [commit(output, 1), commit(output, 2, num_rows=1)]
    summary = summed_up(output, *records)
    assert summary.complete
    assert (summary.images, summary.images_this_run) == (7, 4)


def test_shards_that_another_driver_committed_first_are_not_in_the_speed(
    output: OutputFolder,
) -> None:
    records = [commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1)]
    records[1] = CommitRecord(1, 0.0, COUNTS)
    summary = summed_up(output, *records)
    assert (summary.images, summary.images_this_run) == (7, 4)


def test_a_part_that_was_reported_but_is_not_there_fails_the_run(output: OutputFolder) -> None:
    records = [commit(output, 0), commit(output, 1), CommitRecord(2, 0.0, COUNTS)]
    summary = summed_up(output, *records)
    assert not summary.complete
    assert summary.failed == {"part-00002.parquet": "not labelled yet"}


def test_a_truncated_part_fails_the_run(output: OutputFolder) -> None:
    records = [commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1)]
    path = part_path(output, 1)
    path.write_bytes(path.read_bytes()[:-20])
    summary = summed_up(output, *records)
    assert summary.exit_reason == "failed shards"
    reason = summary.failed["part-00001.parquet"]
    assert reason.startswith("damaged: ")
    assert reason.endswith("; --verify labels it again")  # the same command would not
    assert (summary.shards, summary.planned_shards) == (2, 3)
    assert finished_summary(output) is None  # although every shard has a part


def test_a_part_with_a_broken_footer_has_its_reason_in_one_line(output: OutputFolder) -> None:
    """The messages of Parquet's parser end with a line break."""
    records = [commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1)]
    path = part_path(output, 1)
    data = path.read_bytes()
    footer_bytes = int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[: -8 - footer_bytes] + b"\xff" * footer_bytes + data[-8:])
    reason = summed_up(output, *records).failed["part-00001.parquet"]
    assert reason.startswith("damaged: Couldn't deserialize thrift: ")
    assert reason.splitlines() == [reason]


@pytest.mark.parametrize("rows", [2, 4])
def test_a_part_with_too_few_or_many_rows_fails_the_run(output: OutputFolder, rows: int) -> None:
    records = [commit(output, 0), commit(output, 1, num_rows=rows), commit(output, 2, num_rows=1)]
    failed = summed_up(output, *records).failed
    reason = f"damaged: {rows} rows for 3 planned images; --verify labels it again"
    assert failed == {"part-00001.parquet": reason}


def test_a_failed_shard_keeps_its_reason(output: OutputFolder) -> None:
    records = [commit(output, 0), commit(output, 1), CommitRecord(2, 0.0, error="OSError: full")]
    assert summed_up(output, *records).failed == {"part-00002.parquet": "OSError: full"}


def test_an_output_that_is_gone_has_no_summary(output: OutputFolder, tmp_path: Path) -> None:
    """An empty folder is left in its place, as at a mount point."""
    summary = summed_up(output, commit(output, 0))
    output.path.rename(tmp_path / "moved")
    output.path.mkdir()
    with pytest.raises(OutputGoneError, match="mount the output again, or move it back"):
        summarise(output, "run", Tally(), began=time.monotonic(), exit_reason="complete")
    with pytest.raises(OutputGoneError):
        write_summary(output, summary)
    assert not list(output.path.iterdir())


def test_an_interrupted_run_is_not_finished(output: OutputFolder) -> None:
    summary = summed_up(output, commit(output, 0), exit_reason="interrupted")
    assert not summary.complete
    assert json.loads((output.path / "summary.json").read_text())["exit_reason"] == "interrupted"
    assert finished_summary(output) is None


def test_only_a_complete_run_needs_its_summary(
    output: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, the same command does not know that there is nothing to do."""
    configure()
    records = [commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1)]
    (output.path / "summary.json").mkdir()
    with pytest.raises(IsADirectoryError):
        summed_up(output, *records)
    assert not summed_up(output, *records, exit_reason="interrupted").complete
    assert capsys.readouterr().err.startswith("summary.json is not written: Is a directory")


def test_a_run_that_lost_a_part_is_not_finished(output: OutputFolder) -> None:
    summed_up(output, commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1))
    assert finished_summary(output) is not None
    part_path(output, 1).unlink()
    assert committed_shards(output, 3) == {0, 2}
    assert finished_summary(output) is None


@pytest.mark.parametrize("change", ["cut", "[]", {"unit": "images"}, {"counts": None}])
def test_a_summary_that_cannot_be_used_is_none(output: OutputFolder, change: Any) -> None:
    """It is made of the parts: of another version or damaged, it is no reason to refuse the run."""
    summed_up(output, commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1))
    path = output.path / "summary.json"
    stored = json.loads(path.read_text())
    if isinstance(change, dict):
        stored = {k: v for k, v in (stored | change).items() if v is not None}
        path.write_text(json.dumps(stored))
    else:
        path.write_text(path.read_text()[:40] if change == "cut" else change)
    assert finished_summary(output) is None
    summary = summed_up(output)
    assert summary.complete
    assert finished_summary(output) == summary


@pytest.mark.usefixtures("impatient")
def test_a_store_that_fails_in_the_audit_is_no_damage(s3: Bucket, proxy: Proxy) -> None:
    """Two parts of three could be read: the third says why not, or the store is what is wrong."""
    output = OutputFolder(f"{s3.url}/out")
    write_plan(output, (ImageRef(f"/{index}.jpg") for index in range(7)), 3)
    records = [commit(output, 0), commit(output, 1), commit(output, 2, num_rows=1)]
    proxy.faults["part-00001"] = ["403:AccessDenied"]
    failed = summed_up(output, *records).failed
    assert failed == {"part-00001.parquet": "cannot be read: HTTP 403 AccessDenied"}
    for fault, error in (("503:SlowDown", TransientStoreError), ("400:ExpiredToken", AccessError)):
        proxy.faults["part-00001"] = [fault] * 3
        with pytest.raises(error, match=fault.partition(":")[2]):
            summed_up(output, *records)


def test_a_run_that_expired_credentials_ended_needs_no_summary(
    s3: Bucket, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ended it is the error to tell."""
    configure()
    output = OutputFolder(f"{s3.url}/out")
    write_plan(output, [ImageRef("/0.jpg")], 3)
    proxy.faults["PUT .*summary.json"] = ["403:ExpiredToken"]
    assert not summed_up(output, exit_reason="HTTP 403 ExpiredToken").complete
    assert capsys.readouterr().err.startswith("summary.json is not written: HTTP 403 ExpiredToken")
