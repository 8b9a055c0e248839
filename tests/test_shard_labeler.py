"""The worker on its own, without Ray: one record for every shard, whatever happens."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from checkpoints import MINIATURE
from labelers import emptied_output, make_labeler, planned_settings
from reading import JPEG, reading

from jobs.labelling.messages import CommitRecord
from jobs.labelling.shard_labeler import STOPPED, ShardLabeler
from jobs.settings import LabelSettings
from pipeline.label_shard import LabelledShard
from pipeline.output import OutputFolder
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import ImageRef, Shard
from pipeline.shards import part_name, part_path
from pipeline.sink import read_facts, write_part


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LabelSettings:
    return planned_settings(tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def labeler(settings: LabelSettings) -> ShardLabeler:
    return make_labeler(settings)


@pytest.fixture
def output(settings: LabelSettings) -> OutputFolder:
    return emptied_output(settings)


def test_a_shard_is_committed_and_counted(labeler: ShardLabeler, output: OutputFolder) -> None:
    began = time.time()
    record = labeler.label_or_exit(1)
    assert record.error is None
    assert record.fatal is None
    assert record.counts == {"ok": 2, "damaged": 0, "rejected": 0, "unreadable": 0}
    assert record.model["backbone"] == MINIATURE
    assert {"read", "decode", "dct", "model", "rows", "write"} <= record.seconds.keys()
    table = pq.read_table(part_path(output, 1))
    assert [Path(uri).name for uri in table["uri"].to_pylist()] == ["2.jpg", "3.jpg"]
    assert table["shard"].to_pylist() == [1, 1]
    facts = read_facts(output, 1)
    assert began <= facts["began_at"] <= time.time() - facts["seconds"]["model"]
    assert record.seconds["model"] < record.spent_s < time.time() - began
    assert not list((output.path / ".attempts").iterdir())


def test_a_shard_run_twice_gives_the_same_part(labeler: ShardLabeler, output: OutputFolder) -> None:
    labeler.label_or_exit(0)
    first = pq.read_table(part_path(output, 0))
    part_path(output, 0).unlink()
    labeler.label_or_exit(0)
    assert pq.read_table(part_path(output, 0)).equals(first)


def test_a_committed_shard_is_not_labelled_again(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = labeler.label_or_exit(0)
    written = part_path(output, 0).stat()
    monkeypatch.setattr(labeler, "_read_and_label", None)
    assert labeler.label_or_exit(0).counts == first.counts
    found = part_path(output, 0).stat()  # reading it may change the time of its last access
    assert (found.st_ino, found.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_worker_keeps_no_shard_and_passes_on_what_its_model_has_to_say(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    release = "jobs.labelling.shard_labeler.release_free_memory"
    monkeypatch.setattr(release, lambda: released.append(1))
    monkeypatch.setattr(labeler, "_released_at", -math.inf)
    monkeypatch.setattr(labeler.pipeline.model.predictor, "notice", "4 images at a time")
    assert [labeler.label(shard).notice for shard in (0, 1)] == ["4 images at a time"] * 2
    assert len(released) == 1  # at once, and then every half minute
    monkeypatch.setattr(labeler.pipeline, "label", None)
    assert labeler.label(2).error is not None
    assert not labeler._being_read


def test_two_at_a_time_give_the_rows_that_one_at_a_time_gives(
    labeler: ShardLabeler, output: OutputFolder
) -> None:
    for shard in range(3):
        labeler.label_or_exit(shard)
    alone = [pq.read_table(part_path(output, shard)) for shard in range(3)]
    for part in output.labels.iterdir():
        part.unlink()
    assert [record.shard for record in labeler.label_each([2, 0, 1])] == [2, 0, 1]
    assert [pq.read_table(part_path(output, shard)) for shard in range(3)] == alone


def test_a_shard_is_read_while_one_is_classified_and_one_classified_while_one_is_written(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for the other in vain if they were done one after the other."""
    begun, read, classified, written = (threading.Event() for _ in range(4))
    threads: list[str] = []

    def attempts() -> set[str]:
        return {path.name for path in (output.path / ".attempts").iterdir()}

    read_shard, label_shard = labeler.pipeline.read, labeler.pipeline.label

    def noted_read(shard: Shard) -> ReadAhead:
        if shard.index == 1:
            assert begun.wait(30)
            read.set()
        return read_shard(shard)

    def noted_label(shard: Shard, images: ReadAhead) -> LabelledShard:
        threads.append(threading.current_thread().name)
        if shard.index == 0:
            begun.set()
            assert read.wait(30)
            # The shard that waits has begun no attempt.
            assert attempts() == {f"{part_name(0)}.d1.1"}
        if shard.index == 1:
            classified.set()
            assert written.wait(30)
        return label_shard(shard, images)

    def noted_write(output: OutputFolder, shard: int, *part: Any) -> None:
        if shard == 0:
            assert classified.wait(30)
            # If the process dies now, only the shard that is being classified can be why.
            assert attempts() == {f"{part_name(1)}.d1.1"}
        write_part(output, shard, *part)
        written.set()

    monkeypatch.setattr(labeler.pipeline, "read", noted_read)
    monkeypatch.setattr(labeler.pipeline, "label", noted_label)
    monkeypatch.setattr("jobs.labelling.shard_output.write_part", noted_write)
    assert [record.error for record in labeler.label_each([0, 1])] == [None, None]
    assert len(set(threads)) == 1


def test_unfinished_shards_are_abandoned_when_the_caller_stops(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()

    def read_for_ever(ref: ImageRef) -> bytes:
        if Path(ref.uri).name == "2.jpg":
            assert stuck.wait(30)
        return Path(ref.uri).read_bytes()

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.reading.reading_tasks.read_image", read_for_ever)
        records = labeler.label_each(range(3))
        assert next(records).error is None
        threading.Timer(0.2, stuck.set).start()
        records.close()
    assert part_path(output, 0).exists()
    output.clean()
    assert [record.error for record in labeler.label_each(range(3))] == [None] * 3


@pytest.mark.parametrize("shards", [[0], [0, 1]])
def test_an_interrupt_stops_every_unfinished_shard(
    settings: LabelSettings,
    output: OutputFolder,
    monkeypatch: pytest.MonkeyPatch,
    shards: list[int],
) -> None:
    """Also the last one, and one that waits for the model: no worker process died."""
    labeler = make_labeler(settings)  # a stopped one labels nothing more
    ended: list[CommitRecord] = []
    label, label_read, stop = labeler.label, labeler.pipeline.label, labeler._stop
    labelling, stopped = threading.Event(), threading.Event()

    def noted_label(shard: int) -> CommitRecord:
        ended.append(label(shard))
        return ended[-1]

    def noted_stop() -> None:
        threading.Timer(0.3, stopped.set).start()  # stopping waits for images that are being read
        stop()

    def noted_label_read(shard: Shard, images: ReadAhead) -> LabelledShard:
        labelling.set()
        return label_read(shard, images)

    def read_slowly(ref: ImageRef) -> bytes:
        assert stopped.wait(30)
        return Path(ref.uri).read_bytes()

    def interrupted_shards() -> Iterator[int]:
        """Not by a signal: the process that runs the tests might get it in any other code."""
        yield from shards
        assert labelling.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.labelling.shard_labeler.SHARDS_AT_ONCE", 3)
    monkeypatch.setattr(labeler, "label", noted_label)
    monkeypatch.setattr(labeler, "_stop", noted_stop)
    monkeypatch.setattr(labeler.pipeline, "label", noted_label_read)
    monkeypatch.setattr("pipeline.reading.reading_tasks.read_image", read_slowly)
    with pytest.raises(KeyboardInterrupt):
        list(labeler.label_each(interrupted_shards()))
    assert [record.error for record in ended] == [STOPPED] * len(shards)
    assert not list(output.labels.iterdir())


def test_every_shard_is_stopped_before_any_is_waited_for(
    labeler: ShardLabeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, reading_ends = threading.Semaphore(0), threading.Event()

    def read_slowly(ref: ImageRef) -> bytes:
        arrived.release()
        assert reading_ends.wait(30)
        return JPEG

    monkeypatch.setattr("pipeline.reading.reading_tasks.read_image", read_slowly)
    both = [reading([ImageRef("x")]) for _ in range(2)]
    monkeypatch.setattr(labeler, "_being_read", set(both))
    monkeypatch.setattr(labeler, "_stopping", False)  # as it is again after the test
    for images in both:
        images.start_early()
        assert arrived.acquire(timeout=30)
    stopping = threading.Thread(target=labeler._stop)
    stopping.start()
    stopping.join(5)
    assert [images._closed for images in both] == [True, True]
    reading_ends.set()
    stopping.join()
