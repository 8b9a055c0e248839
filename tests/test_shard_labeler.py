"""The worker on its own, without Ray: one record for every shard, whatever happens."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from jpegs import encode, photo

from jobs.settings import LabelSettings
from jobs.shard_labeler import CommitRecord, ShardLabeler
from pipeline.output import OutputFolder
from pipeline.shards import part_name, part_path, write_plan
from pipeline.sink import read_facts
from pipeline.sources import list_images


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LabelSettings:
    """Five images in three shards, planned."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(5):
        (folder / f"{index}.jpg").write_bytes(encode(photo(70, 80, seed=index)))
    settings = LabelSettings(
        input=str(folder),
        output=str(tmp_path_factory.mktemp("out")),
        backbone="mobilenet_v3_small",
        weights="none",
        resize=64,
        crop=64,
        images_per_shard=2,
        device="cpu",
    )
    output = OutputFolder(settings.output)
    output.create()
    write_plan(output, list_images(settings.input), settings.images_per_shard)
    return settings


@pytest.fixture(scope="module")
def labeler(settings: LabelSettings) -> ShardLabeler:
    return ShardLabeler(settings, "run", None, num_threads=1, driver="d1")


@pytest.fixture
def output(settings: LabelSettings) -> OutputFolder:
    """The planned folder with nothing labelled and nothing attempted."""
    folder = OutputFolder(settings.output)
    for part in folder.labels.iterdir():
        part.unlink()
    folder.clean()
    return folder


def call(labeler: ShardLabeler, shard: int) -> CommitRecord:
    [record] = labeler({"shard": np.array([shard])})["record"]
    return CommitRecord(**json.loads(record))


def test_a_shard_is_committed_and_counted(labeler: ShardLabeler, output: OutputFolder) -> None:
    record = call(labeler, 1)
    assert record.error is None
    assert record.fatal is None
    assert record.counts == {"ok": 2, "damaged": 0, "rejected": 0, "unreadable": 0}
    assert record.model["backbone"] == "mobilenet_v3_small"
    assert {"read", "decode", "dct", "model", "rows", "write"} <= record.seconds.keys()
    table = pq.read_table(part_path(output, 1))
    assert [Path(uri).name for uri in table["uri"].to_pylist()] == ["2.jpg", "3.jpg"]
    assert table["shard"].to_pylist() == [1, 1]
    facts = read_facts(output, 1)
    assert record.started_at <= facts["began_at"] <= time.time() - facts["seconds"]["model"]
    assert not list((output.path / ".attempts").iterdir())


def test_a_shard_run_twice_gives_the_same_part(labeler: ShardLabeler, output: OutputFolder) -> None:
    call(labeler, 0)
    first = pq.read_table(part_path(output, 0))
    part_path(output, 0).unlink()
    call(labeler, 0)
    assert pq.read_table(part_path(output, 0)).equals(first)


def test_a_committed_shard_is_not_labelled_again(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call(labeler, 0)
    written = part_path(output, 0).stat()
    monkeypatch.setattr(labeler, "_label_shard", None)
    assert call(labeler, 0).counts == first.counts
    found = part_path(output, 0).stat()  # reading it may change the time of its last access
    assert (found.st_ino, found.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_attempts_of_dead_processes_count(labeler: ShardLabeler, output: OutputFolder) -> None:
    for _ in range(3):
        output.begin_attempt(f"{part_name(2)}.d1")
    assert call(labeler, 2).error == "the worker process died in each of 3 attempts"
    assert not part_path(output, 2).exists()


def test_attempts_of_another_driver_do_not_count(
    labeler: ShardLabeler, output: OutputFolder
) -> None:
    for _ in range(3):
        output.begin_attempt(f"{part_name(2)}.d2")
    assert call(labeler, 2).error is None


def test_a_failure_is_tried_again_and_then_reported(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.shard_labeler.write_part", fail)
    record = call(labeler, 2)
    assert record.error == "OSError: [Errno 28] No space left on device"
    assert len(calls) == 3
    monkeypatch.undo()
    output.clean()
    assert call(labeler, 2).error is None


def test_a_model_that_cannot_be_built_is_fatal_and_worded(settings: LabelSettings) -> None:
    values = {**vars_of(settings), "backbone": "mobilenet_v3_smal"}
    record = call(ShardLabeler(LabelSettings(**values), "run", None, num_threads=1, driver="d1"), 0)
    assert (
        record.fatal == "unknown backbone 'mobilenet_v3_smal': did you mean 'mobilenet_v3_small'?"
    )


def test_another_model_than_the_runs_is_fatal(
    settings: LabelSettings, labeler: ShardLabeler, output: OutputFolder
) -> None:
    expected = {**call(labeler, 0).model, "weights_sha256": "0123"}
    record = call(ShardLabeler(settings, "run", expected, num_threads=1, driver="d1"), 0)
    assert record.fatal is not None
    assert "weights-sha256 was '0123', is now None" in record.fatal


def vars_of(settings: LabelSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}
