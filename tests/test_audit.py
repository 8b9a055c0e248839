"""Every byte of a part counts: whatever is changed after the commit is found."""

import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit import damaged_parts, remove_damaged
from pipeline.output import OutputError, OutputFolder
from pipeline.records import SCHEMA, EncodedImage, ImageRef, Status
from pipeline.shards import Plan, part_path, write_plan
from pipeline.sink import ShardRows, write_part
from pipeline.stores.errors import AccessError, TransientStoreError


def commit(output: OutputFolder, index: int, *, shard: int | None = None) -> None:
    """The part of a shard, or of another one under its name."""
    planned = Plan(output).shard(index if shard is None else shard)
    rows = ShardRows(planned, None)
    for row in range(len(planned.refs)):
        image = EncodedImage(row, b"", size=(row + 10, 99))
        image.fail(Status.REJECTED if row % 3 else Status.UNREADABLE, f"test {row}")
        rows.add_image(image)
    write_part(output, index, rows.to_table(), {"counts": rows.counts})


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    """Three shards of 500 images; the last one is not labelled."""
    folder = OutputFolder(str(tmp_path))
    folder.create()
    write_plan(folder, (ImageRef(f"/{index}.jpg") for index in range(1500)), 500)
    for index in range(2):
        commit(folder, index)
    return folder


def test_sound_parts_and_missing_ones_are_not_damaged(output: OutputFolder) -> None:
    assert list(damaged_parts(output)) == []


def test_a_changed_byte_is_found_unless_no_row_depends_on_it(output: OutputFolder) -> None:
    path = part_path(output, 1)
    sound, rows = path.read_bytes(), pq.read_table(path)
    found = 0
    footer = int.from_bytes(sound[-8:-4], "little") + 8
    places = np.random.default_rng(0).integers(4, len(sound) - footer, 60)
    for place in places.tolist():
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        indices = [index for index, _ in damaged_parts(output)]
        assert indices == [1] or pq.read_table(path).equals(rows), place
        found += len(indices)
    assert found > 45  # the others lie in what a page's header says beside its size


@pytest.mark.parametrize(
    ("sound", "flipped"), [(b"\x18\x03uri", b"\x18\x03tri"), (b'"counts": ', b'"cnunts": ')]
)
def test_a_flipped_bit_in_a_name_is_found(
    output: OutputFolder, sound: bytes, flipped: bytes
) -> None:
    """No checksum covers a file's footer."""
    path = part_path(output, 0)
    path.write_bytes(path.read_bytes().replace(sound, flipped))
    assert [index for index, _ in damaged_parts(output)] == [0]


@pytest.mark.parametrize("kept", [0, 3, 1000, -1, -9])
def test_a_truncated_part_is_found(output: OutputFolder, kept: int) -> None:
    path = part_path(output, 0)
    path.write_bytes(path.read_bytes()[:kept])
    [(index, reason)] = list(damaged_parts(output))
    assert index == 0
    assert "\n" not in reason


def test_the_rows_of_another_shard_are_found(output: OutputFolder) -> None:
    commit(output, 1, shard=0)
    assert list(damaged_parts(output)) == [(1, "its 500 URIs are not the 500 of the plan")]


def test_rows_that_contradict_their_counts_are_found(output: OutputFolder) -> None:
    table = pq.read_table(part_path(output, 0))
    statuses = pa.array(["ok"] * 500).cast(SCHEMA.field("status").type)
    changed = table.set_column(table.schema.get_field_index("status"), "status", statuses)
    write_part(output, 0, changed, {"counts": {"rejected": 333, "unreadable": 167}})
    [(index, reason)] = list(damaged_parts(output))
    assert index == 0
    assert "its rows do not match its stated counts {'rejected': 333, 'unreadable': 167}" in reason


def test_the_plan_is_read_by_one_thread_at_a_time(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open Parquet file read by two threads hangs now and then."""
    readers, most, read = 0, 0, pq.ParquetFile.read_row_group

    def watched(file: pq.ParquetFile, index: int) -> pa.Table:
        nonlocal readers, most
        readers += 1
        most = max(most, readers)
        time.sleep(0.02)  # long enough for another thread to come in
        table = read(file, index)
        readers -= 1
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    assert list(damaged_parts(output)) == []
    assert most == 1


def test_a_damaged_plan_is_refused(output: OutputFolder) -> None:
    output.plan.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(OutputError, match="remove the output folder"):
        list(damaged_parts(output))


def test_no_part_is_removed_for_a_damaged_plan(output: OutputFolder) -> None:
    plan = bytearray(output.plan.read_bytes())
    groups = pq.ParquetFile(output.plan).metadata
    start = groups.row_group(1).column(0).data_page_offset
    plan[start : start + 400] = b"\xff" * 400
    output.plan.write_bytes(plan)
    with pytest.raises(OutputError, match=r"the plan .* cannot be read"):
        list(remove_damaged(output))
    assert len(list(output.labels.iterdir())) == 2


@pytest.mark.parametrize(
    "error",
    [
        TransientStoreError("504 Gateway Timeout in all the attempts"),
        AccessError("the token has expired"),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_part_is_removed_because_it_cannot_be_read_just_now(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.audit.read_facts", fail)
    with pytest.raises(type(error), match=re.escape(str(error))):
        list(remove_damaged(output))
    monkeypatch.undo()
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail)
    with pytest.raises(type(error), match=re.escape(str(error))):
        list(remove_damaged(output))
    assert len(list(output.labels.iterdir())) == 2


def test_only_the_damaged_are_removed(output: OutputFolder) -> None:
    part_path(output, 1).write_bytes(b"PAR1")
    [(name, _)] = list(remove_damaged(output))
    assert name == "part-00001.parquet"
    assert [part.name for part in output.labels.iterdir()] == ["part-00000.parquet"]
