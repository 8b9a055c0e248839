"""Settings: what cannot work is refused before anything starts."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from jobs.compress_settings import CompressSettings
from jobs.settings import CollectionSettings, LabelSettings
from jobs.train_settings import TrainSettings


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 0},
        {"images_per_shard": -1},
        {"batch_size": 0},
        {"workers": -1},
        {"crop": 0},
        {"read_threads": 0},
        {"hw_decoder_load": 1.5},
    ],
)
def test_a_value_that_cannot_work_is_named(change: dict[str, float]) -> None:
    [(name, value)] = change.items()
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value} "):
        LabelSettings(input="in", output="out", **change)


@pytest.mark.parametrize("change", [{"address": "auto"}, {"max_workers": 4}])
def test_without_workers_there_is_no_cluster(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="--workers 0 labels in this process: leave out"):
        LabelSettings(input="in", output="out", workers=0, **change)


def test_paths_become_absolute_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights.pth", "default", "none", "auto"):
        (tmp_path / name).touch()
    settings = LabelSettings(input="in", output="out", weights="weights.pth").located()
    assert settings.input == str(tmp_path / "in")
    assert settings.output == str(tmp_path / "out")
    assert settings.weights == str(tmp_path / "weights.pth")
    assert (settings.afd, settings.class_names) == ("default", "auto")  # words, not the files


def test_absolute_paths_in_braces_stay_as_they_are_given() -> None:
    settings = LabelSettings(input="{/a/x.tar,/b/y.tar}", output="out").located()
    assert settings.input == "{/a/x.tar,/b/y.tar}"


def test_a_missing_weights_file_is_found_before_anything_starts() -> None:
    settings = LabelSettings(input="in", output="out", weights="nowhere/weights.pth")
    with pytest.raises(ValueError, match=r"--weights 'nowhere/weights\.pth': no such file"):
        settings.located()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "weights.pth"}, r"--weights 'weights.pth': no such file"),
        ({"afd": "nothere.safetensors"}, "--afd 'nothere.safetensors': no such file"),
        ({"afd": "unrtained"}, "'unrtained': no such file, and none of default, none, untrained"),
        ({"class_names": "birds"}, "--class-names 'birds': no such file"),
    ],
)
def test_a_missing_file_need_not_have_a_folder_to_be_found(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        LabelSettings(input="in", output="out", **change).located()


def test_the_name_of_published_weights_is_no_missing_file() -> None:
    for name in ("IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V2"):  # the second is answered later
        settings = LabelSettings(input="in", output="out", weights=name).located()
        assert settings.weights == name


def test_credentials_in_the_input_are_refused_before_they_are_written_anywhere() -> None:
    settings = LabelSettings(input="https://me:hunter2@host/x.tar", output="out")
    with pytest.raises(
        ValueError, match=r"'https://host/x.tar' was given with credentials"
    ) as caught:
        settings.located()
    assert "hunter2" not in str(caught.value)


def test_what_is_elsewhere_stays_as_it_is_given() -> None:
    settings = LabelSettings(input="s3://bucket/photos/", output="out").located()
    assert settings.input == "s3://bucket/photos/"


@pytest.mark.parametrize("job", [LabelSettings, TrainSettings, CompressSettings])
def test_what_may_change_in_a_continued_run_is_a_setting(job: type[CollectionSettings]) -> None:
    assert {field.name for field in fields(job)} >= job.MAY_CHANGE
