"""The record of a run: continued with the same settings, refused with others."""

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.labelling.mounts import OutputGoneError
from jobs.run_record import (
    differences,
    join_run,
    model_differences,
    open_run,
    record_model,
    start_run,
    versions,
)
from jobs.settings import LabelSettings
from pipeline.output import OutputError, OutputFolder
from pipeline.own_files import own_files
from pipeline.presence import Presence
from pipeline.records import ImageRef
from pipeline.shards import Plan, write_plan
from pipeline.sources import list_images


@pytest.fixture
def settings(tmp_path: Path) -> LabelSettings:
    return LabelSettings(input=str(tmp_path / "in"), output=str(tmp_path / "out"))


@pytest.fixture
def output(settings: LabelSettings) -> OutputFolder:
    folder = OutputFolder(settings.output)
    folder.create()
    return folder


def commit_something(output: OutputFolder) -> None:
    (output.labels / "part-00000.parquet").touch()


def test_a_new_folder_has_no_run(output: OutputFolder, settings: LabelSettings) -> None:
    assert open_run(output, settings) is None


def test_the_same_settings_continue_the_run(output: OutputFolder, settings: LabelSettings) -> None:
    record = start_run(output, settings)
    commit_something(output)
    assert open_run(output, settings) == record


@pytest.mark.parametrize("change", [{"workers": 3}, {"batch_size": 7}, {"progress": "off"}])
def test_how_fast_a_run_goes_may_change(
    output: OutputFolder, settings: LabelSettings, change: dict[str, object]
) -> None:
    start_run(output, settings)
    commit_something(output)
    assert open_run(output, dataclasses.replace(settings, **change)) is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone": "resnet18"}, "backbone was 'resnet50', is now 'resnet18'"),
        ({"images_per_shard": 7}, "images-per-shard was 'auto', is now 7"),
        ({"resize": "none"}, "resize was 'auto', is now 'none'"),
    ],
)
def test_what_the_rows_are_may_not_change(
    output: OutputFolder, settings: LabelSettings, change: dict[str, object], named: str
) -> None:
    start_run(output, settings)
    commit_something(output)
    with pytest.raises(OutputError, match=named):
        open_run(output, dataclasses.replace(settings, **change))


def test_rows_of_another_schema_are_not_added_to(
    output: OutputFolder, settings: LabelSettings
) -> None:
    record = start_run(output, settings)
    output.write_json("run.json", {**record, "schema_version": 0})
    assert open_run(output, settings) is None  # nothing is labelled yet
    commit_something(output)
    with pytest.raises(
        OutputError, match="holds rows of schema version 0, and this release writes"
    ):
        open_run(output, settings)


def test_the_same_weights_may_be_in_another_folder_and_others_under_the_same_name() -> None:
    begun = {
        "backbone": "resnet50",
        "weights": "/a/own.pth",
        "weights_sha256": "w",
        "afd": "/a/shipped.safetensors",
        "afd_sha256": "m",
    }
    assert not model_differences(
        begun, begun | {"weights": "/b/own.pth", "afd": "/b/s.safetensors"}
    )
    assert model_differences(begun, begun | {"afd_sha256": "n"}) == "afd-sha256 was 'm', is now 'n'"
    random = begun | {"weights": "none", "weights_sha256": None}
    assert "weights was 'none', is now 'other'" in model_differences(
        random, random | {"weights": "other"}
    )
    assert "backbone was" in model_differences(begun, begun | {"backbone": "resnet18"})
    named = begun | {"class_names_sha256": "a"}
    assert "class-names-sha256 was" in model_differences(named, named | {"class_names_sha256": "b"})
    without = begun | {"afd": "none", "afd_sha256": None}
    assert "afd was 'none', is now '/a" in model_differences(without, begun | {"afd_sha256": None})


def test_a_run_that_committed_nothing_may_begin_anew(
    output: OutputFolder, settings: LabelSettings
) -> None:
    start_run(output, settings)
    assert open_run(output, dataclasses.replace(settings, backbone="resnet18")) is None


def test_the_output_of_another_job_is_refused(
    output: OutputFolder, settings: LabelSettings
) -> None:
    """Its record would be lost, and with it the way to continue that job."""
    output.write_json("run.json", {"settings": {"max_steps": 5}})
    with pytest.raises(
        OutputError, match=r"run\.json' belongs to another job: choose another --output"
    ):
        open_run(output, settings)


def test_a_run_does_not_label_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    settings = LabelSettings(input=str(tmp_path), output=str(tmp_path / "out"))
    output = OutputFolder(settings.output)
    output.create()
    refs = list_images(settings.input, own_files(settings.input, output))
    with Presence(output) as presence:
        join_run(output, settings, presence, refs)
    plan = Plan(output)
    assert plan.num_images == 1
    assert [ref.uri for ref in plan.shard(0).refs] == [str(tmp_path / "a.jpg")]


def test_a_later_driver_waits_for_the_plan_of_the_first(
    output: OutputFolder, settings: LabelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.run_record._POLL_S", 0.01)
    with Presence(output), Presence(output) as second, ThreadPoolExecutor(1) as thread:
        joined = thread.submit(join_run, output, settings, second, iter([ImageRef("/b.jpg")]))
        time.sleep(0.2)
        write_plan(output, [ImageRef("/a.jpg")], 1)
        record = start_run(output, settings)
        assert joined.result(timeout=30) == record
    assert [ref.uri for ref in Plan(output).shard(0).refs] == ["/a.jpg"]


def test_a_run_that_the_first_driver_starts_as_it_ends_is_joined(
    output: OutputFolder, settings: LabelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the second has looked for a run, and before it looks for other drivers."""
    records = []

    def leads(_: Presence) -> bool:
        write_plan(output, [ImageRef("/a.jpg")], 1)
        records.append(start_run(output, settings))
        return True

    with Presence(output) as second:
        monkeypatch.setattr(Presence, "leads", leads)
        assert join_run(output, settings, second, iter([ImageRef("/b.jpg")])) == records[0]
    assert [ref.uri for ref in Plan(output).shard(0).refs] == ["/a.jpg"]


def test_labels_without_a_record_are_refused(output: OutputFolder, settings: LabelSettings) -> None:
    commit_something(output)
    with pytest.raises(OutputError, match=r"holds labels but no run\.json"):
        open_run(output, settings)


def test_a_damaged_record_is_refused(output: OutputFolder, settings: LabelSettings) -> None:
    start_run(output, settings)
    commit_something(output)
    for content in ('{"run_id": ', '{"run_id": "1"}', '{"run_id": "1", "settings": []}'):
        (output.path / "run.json").write_text(content)
        with pytest.raises(OutputError, match=r"run\.json' (is damaged|belongs to another job)"):
            open_run(output, settings)


def test_the_first_model_is_recorded_and_stays(
    output: OutputFolder, settings: LabelSettings
) -> None:
    write_plan(output, [ImageRef("/0.jpg")], 1)
    record = start_run(output, settings)
    assert record_model(output, record, {"weights_sha256": "a"})
    assert not record_model(output, record, {"weights_sha256": "b"})
    stored = json.loads((output.path / "run.json").read_text())
    assert stored["model"] == {"weights_sha256": "a"}


def test_of_two_drivers_models_the_first_to_be_recorded_stays(
    output: OutputFolder, settings: LabelSettings
) -> None:
    """Each driver read run.json when it named no model, and has since loaded other weights."""
    write_plan(output, [ImageRef("/0.jpg")], 1)
    first = start_run(output, settings)
    second = dict(first)
    assert record_model(output, first, {"weights_sha256": "a"})
    assert not record_model(output, second, {"weights_sha256": "b"})
    assert second["model"] == {"weights_sha256": "a"}
    assert output.read_json("run.json") == first


def test_a_model_is_not_recorded_where_the_output_was(
    output: OutputFolder, settings: LabelSettings, tmp_path: Path
) -> None:
    record = start_run(output, settings)
    output.path.rename(tmp_path / "moved")
    output.path.mkdir()  # as a mount point is left
    with pytest.raises(OutputGoneError, match=r"plan\.parquet' does not exist any more"):
        record_model(output, record, {"weights_sha256": "a"})
    assert not list(output.path.iterdir())


def test_differences_name_both_sides() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b was 2, is now 3"
    assert differences({"a": 1}, {"a": 1}) == ""


def test_versions_name_what_the_labels_depend_on() -> None:
    assert {"torch", "nvidia-dali-cuda130", "ray"} <= versions().keys()
