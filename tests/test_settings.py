"""Settings: what cannot work is refused before anything starts."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from jobs.checked_settings import flag_of
from jobs.compress_settings import CompressSettings
from jobs.settings import CollectionSettings, LabelSettings
from jobs.train_settings import TrainSettings

# Values that cannot work, and the settings that refuse them.
IMPOSSIBLE: dict[type[CollectionSettings], dict[float, str]] = {
    LabelSettings: {
        0: "top_k resize crop images_per_shard attempts_per_shard max_pixels batch_size"
        " workers_per_gpu max_workers cpus_per_worker read_threads prefetch_batches",
        -1: "images_per_shard workers hw_decoder_load",
        1.5: "hw_decoder_load",
    },
    TrainSettings: {
        0: "batch_size max_steps max_time_s stem_learning_rate learning_rate clip_norm"
        " held_out_images validate_every_steps save_every_steps log_every_steps flip_passes"
        " cpus_per_worker attempts read_threads prefetch_batches max_pixels",
        -1: "workers stem_steps warmup_steps feature_stages corrected_stages weight_decay seed"
        " flip_images start_share",
        1.5: "start_share",
    },
    CompressSettings: {0: "workers", -1: "times", 21: "times"},
}
# What a row, a file or the weights of an output depend on.
CONTENT: dict[type[CollectionSettings], str] = {
    LabelSettings: "input backbone weights stem_layer class_names afd top_k resize crop"
    " images_per_shard max_pixels integrity precision",
    TrainSettings: "input backbone weights stem_layer crop afd afd_size fdm dct_input"
    " corrected_stages kl_weight root_kl_weight kl_temperature logit_weight embedding_weight"
    " feature_weight distance feature_stages stem_l1_weight clean_share high_quality_share"
    " multiple_share paper_share imagenet_c_share max_compressions min_area recoloured_share"
    " upside_down_share reduced_share batch_size max_steps stem_steps optimizer"
    " stem_learning_rate learning_rate warmup_steps weight_decay ema_decay start_share clip_norm"
    " seed held_out_images keep validate_every_steps precision max_pixels",
    CompressSettings: "input subsampling shift_grid protocol resize crop interpolation seed",
}


@pytest.mark.parametrize(
    ("job", "name", "value"),
    [
        (job, name, value)
        for job, impossible in IMPOSSIBLE.items()
        for value, names in impossible.items()
        for name in names.split()
    ],
)
def test_a_value_that_cannot_work_is_named(
    job: type[CollectionSettings], name: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"^{flag_of(name)} {value} is "):
        job(input="in", output="out", **{name: value})


@pytest.mark.parametrize("job", CONTENT)
def test_what_the_content_depends_on_may_not_change(job: type[CollectionSettings]) -> None:
    """A new setting is one of these, or may differ when an output is continued."""
    settings = job(input="in", output="out")
    assert settings.content_settings.keys() == set(CONTENT[job].split())


def test_a_pool_has_no_more_workers_than_it_may_grow_to() -> None:
    LabelSettings(input="in", output="out", workers=4, max_workers=4)
    with pytest.raises(ValueError, match=r"^--workers 5 is more than --max-workers 4$"):
        LabelSettings(input="in", output="out", workers=5, max_workers=4)


def test_a_bar_is_no_json() -> None:
    with pytest.raises(ValueError, match=r"^--progress bar .* with --log-format json use plain$"):
        LabelSettings(input="in", output="out", progress="bar", log_format="json")


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
    for missing in ("nowhere/weights.pth", "nowhere/weights"):
        settings = LabelSettings(input="in", output="out", weights=missing)
        with pytest.raises(ValueError, match=f"--weights '{missing}': no such file"):
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
