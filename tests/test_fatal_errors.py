"""What every further shard would fail of, which ends the run, and a worker that lost its GPU."""

import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelers import make_labeler, planned_settings

from jobs.label import label
from jobs.labelling.messages import CommitRecord
from jobs.labelling.mounts import existing_input_files
from jobs.labelling.shard_labeler import EXIT_DEVICE_LOST, ShardLabeler
from jobs.pool import ClusterError
from jobs.settings import LabelSettings
from pipeline.label_shard import LabelledShard
from pipeline.output import RUN, OutputFolder
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import Shard
from pipeline.shards import Plan, part_path


@pytest.fixture
def settings(tmp_path: Path) -> LabelSettings:
    (tmp_path / "images").mkdir()
    return planned_settings(tmp_path / "images", tmp_path / "out")


@pytest.fixture
def output(settings: LabelSettings) -> OutputFolder:
    return OutputFolder(settings.output)


def test_a_node_without_the_drivers_output_labels_nothing(
    settings: LabelSettings, output: OutputFolder, tmp_path: Path
) -> None:
    labeler = make_labeler(replace(settings, output=str(tmp_path)))
    assert labeler.label_or_exit(0).fatal == (
        f"{str(tmp_path / 'plan.parquet')!r} does not exist on the node {socket.gethostname()}:"
        " mount the output at the same path on every node"
    )
    assert not list(output.labels.iterdir())


@pytest.mark.parametrize("is_mount_point", [False, True])
def test_an_output_that_vanishes_ends_the_run_and_is_not_made_again(
    settings: LabelSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_mount_point: bool,
) -> None:
    labeler = make_labeler(settings)
    output, moved, label = Path(settings.output), tmp_path / "moved", labeler.pipeline.label

    def lose_output(shard: Shard, images: ReadAhead) -> LabelledShard:
        output.rename(moved)
        if is_mount_point:
            output.mkdir()
        return label(shard, images)

    monkeypatch.setattr(labeler.pipeline, "label", lose_output)
    wanted = (
        f"{str(output / 'plan.parquet')!r} does not exist any more on the node"
        f" {socket.gethostname()}: mount the output again, or move it back"
    )
    assert [labeler.label_or_exit(shard).fatal for shard in (0, 1)] == [wanted, wanted]
    assert output.exists() == is_mount_point
    assert not list(output.rglob("*"))


def test_an_output_that_is_gone_takes_no_attempt(settings: LabelSettings, tmp_path: Path) -> None:
    labeler = make_labeler(settings)
    output = Path(settings.output)
    output.rename(tmp_path / "moved")
    output.mkdir()
    fatal = labeler.label_or_exit(0).fatal
    assert fatal is not None
    assert "plan.parquet' does not exist any more" in fatal
    assert not list(output.iterdir())


def test_an_input_that_vanishes_ends_the_run_and_is_no_row(
    settings: LabelSettings, output: OutputFolder, tmp_path: Path
) -> None:
    labeler = make_labeler(settings, input_files=existing_input_files(Plan(output)))
    images = Path(settings.input)
    (images / "2.jpg").rename(tmp_path / "2.jpg")
    counts = labeler.label_or_exit(1).counts
    assert counts == {"ok": 1, "damaged": 0, "rejected": 0, "unreadable": 1}
    (tmp_path / "2.jpg").rename(images / "2.jpg")
    images.rename(tmp_path / "moved")
    fatal = labeler.label_or_exit(0).fatal
    (tmp_path / "moved").rename(images)
    assert fatal is not None
    assert fatal.startswith(f"{str(images / '0.jpg')!r} does not exist on the node")
    assert not part_path(output, 0).exists()


def test_a_model_that_cannot_be_built_is_fatal_and_worded(settings: LabelSettings) -> None:
    record = make_labeler(replace(settings, backbone="mobilenet_v3_smal")).label_or_exit(0)
    assert (
        record.fatal == "unknown backbone 'mobilenet_v3_smal': did you mean 'mobilenet_v3_small'?"
    )


@pytest.fixture
def without_libjpeg(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a worker says that misses a library."""

    def broken(*_: Any) -> None:
        raise ImportError("libjpeg.so.62: cannot open shared object file")

    monkeypatch.setattr(ShardLabeler, "_load", broken)
    return "ImportError: libjpeg.so.62: cannot open shared object file"


def test_of_several_nodes_the_one_that_lacks_something_is_named(
    settings: LabelSettings, without_libjpeg: str
) -> None:
    on_a_cluster = replace(settings, address="auto", workers="auto")
    for changed, node in ((settings, ""), (on_a_cluster, f" (on the node {socket.gethostname()})")):
        assert make_labeler(changed).label_or_exit(0).fatal == without_libjpeg + node


def test_another_model_than_the_runs_is_fatal(
    settings: LabelSettings, output: OutputFolder
) -> None:
    expected = {**make_labeler(settings).label_or_exit(0).model, "weights_sha256": "0123"}
    output.write_json(RUN, {"model": expected})
    record = make_labeler(settings).label_or_exit(0)
    output.remove(RUN)
    assert record.fatal is not None
    assert "weights-sha256 was '0123', is now None" in record.fatal


def test_a_lost_device_is_fatal_here_and_ends_a_worker_of_rays(
    settings: LabelSettings, output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeler = make_labeler(settings)
    tried = []

    def fail(*_: Any) -> None:
        tried.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    exits: list[int] = []
    monkeypatch.setattr(labeler.pipeline, "label", fail)
    monkeypatch.setattr(labeler.pipeline, "device_fault", lambda: "cpu is lost")
    monkeypatch.setattr("os._exit", exits.append)
    wanted = "cpu is lost; the same command continues the run"
    assert [record.fatal for record in labeler.label_each([0, 1])] == [wanted, wanted]
    assert len(tried) <= 2  # one attempt each, where they ran side by side
    assert exits == []
    labeler.label_or_exit(2)
    assert exits == [EXIT_DEVICE_LOST]
    monkeypatch.undo()
    output.clean()
    assert make_labeler(settings).label_or_exit(0).error is None


@pytest.fixture
def to_label(settings: LabelSettings, tmp_path: Path) -> LabelSettings:
    """Settings for a run of its own, in this process."""
    return replace(settings, output=str(tmp_path / "run"), workers=0, progress="off")


def test_a_mistake_that_only_a_worker_finds_is_a_value_error(to_label: LabelSettings) -> None:
    """It was told as the cluster's, though there is none."""
    with pytest.raises(ValueError, match=r"^unknown backbone 'resnet5': did you mean 'resnet50'"):
        label(replace(to_label, backbone="resnet5"))


def test_what_is_no_mistake_of_the_users_is_no_value_error(
    to_label: LabelSettings, without_libjpeg: str
) -> None:
    with pytest.raises(ClusterError, match=f"^{re.escape(without_libjpeg)}"):
        label(to_label)


def test_a_mistake_that_a_later_worker_finds_is_in_the_summary(
    to_label: LabelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of the one node that lacks the file of weights."""
    first = ShardLabeler.label

    def label_shard(labeler: ShardLabeler, shard: int) -> CommitRecord:
        if shard == 0:
            return first(labeler, shard)
        return CommitRecord(shard, 0.0, fatal="no such file", is_mistake=True)

    monkeypatch.setattr(ShardLabeler, "label", label_shard)
    summary = label(to_label)
    assert (summary.exit_reason, summary.complete, summary.images) == ("no such file", False, 2)
