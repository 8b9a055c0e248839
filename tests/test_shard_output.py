"""Attempt markers and parts on storage that fails, by a worker without Ray."""

import os
import threading
from typing import Any

import pytest
from labelers import emptied_output, make_labeler, planned_settings

from jobs.labelling.shard_labeler import ShardLabeler
from jobs.settings import LabelSettings
from pipeline.output import OutputFolder
from pipeline.shards import part_name, part_path
from pipeline.sink import read_facts, write_part
from pipeline.stores.errors import AccessError, StoreError, TransientStoreError


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LabelSettings:
    return planned_settings(tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def labeler(settings: LabelSettings) -> ShardLabeler:
    return make_labeler(settings)


@pytest.fixture
def output(settings: LabelSettings) -> OutputFolder:
    return emptied_output(settings)


def test_attempts_of_dead_processes_count(labeler: ShardLabeler, output: OutputFolder) -> None:
    for shard, attempts in ((1, 2), (2, 3)):
        for _ in range(attempts):
            output.begin_attempt(f"{part_name(shard)}.d1")
    assert labeler.label_or_exit(2).error == "the worker process died in each of 3 attempts"
    assert not part_path(output, 2).exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
    assert labeler.label_or_exit(1).error is None  # in the third


def test_attempts_of_another_driver_do_not_count(
    labeler: ShardLabeler, output: OutputFolder
) -> None:
    for _ in range(3):
        output.begin_attempt(f"{part_name(2)}.d2")
    assert labeler.label_or_exit(2).error is None


def test_a_part_of_another_run_is_labelled_again(
    labeler: ShardLabeler, output: OutputFolder
) -> None:
    """That run's folder was removed while it labelled, and this one began in its place."""
    other = make_labeler(labeler._settings, run_id="removed")
    assert other.label_or_exit(1).error is None
    assert labeler.label_or_exit(1).error is None
    assert read_facts(output, 1)["run_id"] == "run"


def test_a_worker_of_a_run_that_was_removed_ends(
    labeler: ShardLabeler, output: OutputFolder
) -> None:
    assert labeler.label_or_exit(1).error is None
    output.write_json("run.json", {"run_id": "run"})
    other = make_labeler(labeler._settings, run_id="removed")
    for shard in (0, 1):  # without a part and with one
        assert "holds another run now" in str(other.label_or_exit(shard).fatal)
    assert [part.name for part in output.labels.iterdir()] == [part_name(1)]
    assert read_facts(output, 1)["run_id"] == "run"


def test_a_failure_is_tried_again_and_then_reported(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("jobs.labelling.shard_output.write_part", fail)
    record = labeler.label_or_exit(2)
    assert record.error == "OSError: [Errno 5] Input/output error"
    assert len(calls) == 3
    monkeypatch.undo()
    output.clean()
    assert labeler.label_or_exit(2).error is None


FULL = [OSError(number, os.strerror(number)) for number in (28, 30, 122)]
REFUSED = [AccessError("HTTP 403 ExpiredToken"), StoreError("HTTP 403 AccessDenied")]


@pytest.mark.parametrize("failure", [*FULL, *REFUSED], ids=str)
@pytest.mark.parametrize("written", ["jobs.labelling.shard_output.write_part", "begin_attempt"])
def test_an_output_that_takes_no_more_files_is_fatal_at_once(
    settings: LabelSettings,
    output: OutputFolder,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    written: str,
) -> None:
    labeler = make_labeler(settings)
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise failure

    if written == "begin_attempt":
        monkeypatch.setattr(OutputFolder, written, fail)
    else:
        monkeypatch.setattr(written, fail)
    reason = getattr(failure, "strerror", None) or str(failure)
    wanted = f"cannot write to {settings.output!r}: {reason}; the same command continues the run"
    assert [labeler.label_or_exit(shard).fatal for shard in (2, 0)] == [wanted, wanted]
    assert len(calls) == 1


def test_a_store_that_answers_too_late_may_take_the_part_the_next_time(
    labeler: ShardLabeler, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [TransientStoreError("HTTP 503 SlowDown; tried 8 times in 21.4 s")]

    def fail_once(*part: Any) -> None:
        if failures:
            raise failures.pop()
        write_part(*part)

    monkeypatch.setattr("jobs.labelling.shard_output.write_part", fail_once)
    assert labeler.label_or_exit(2).error is None
