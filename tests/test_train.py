"""The train job end to end: a checkpoint from a folder of pictures."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import room_for
from safetensors.torch import load_file
from torchvision.models import mobilenet_v3_small
from training_runs import FLAGS, make_collection, records, train

from afd_model.backbones import load_backbone
from afd_model.checkpoint import load_checkpoint
from jobs.pool import ClusterError
from jobs.train import main
from jobs.train_settings import TrainSettings
from jobs.training import worker
from jobs.training.worker import prepare
from pipeline.pairs.training_data import PairLoader
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def collection(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    (folder / "bad.jpg").write_bytes(b"<html>")
    return folder


def test_a_run_ends_with_a_checkpoint_its_card_and_its_log(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    short = ("--max-steps", "4", "--validate-every-steps", "2")
    assert train(collection, output, *short) == 0
    module, facts = load_checkpoint(
        output / "afd.safetensors", load_backbone("mobilenet_v3_small", "none")
    )
    assert facts.flip_model is not None
    assert not module.is_identity
    card = json.loads((output / "afd.json").read_text())
    assert card["data"]["training_images"] == 12
    assert card["settings"]["input"] == collection.name  # a machine's folders are nobody's business
    assert "--max-steps 4" in card["command"]
    assert [r["step"] for r in records(output, "step")] == [1, 2, 3, 4]
    assert [r["step"] for r in records(output, "validation")] == [2, 4]
    told = capsys.readouterr().err
    assert "held out" in told
    # Those of the best validation, or of the last one with --keep last.
    assert f"all steps, weights of step {card['best_step']}; held-out images" in told
    # The same command again does nothing, and other settings are refused.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert train(collection, output, *short) == 0
    told = capsys.readouterr().err
    assert f"{output} is complete (4 steps): nothing to do" in told
    assert "continuing" not in told
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    # More passes fit the flip model again; the weights stay.
    weights = load_file(output / "afd.safetensors")
    assert train(collection, output, *short, "--flip-passes", "2") == 0
    after = load_file(output / "afd.safetensors")
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    card = json.loads((output / "afd.json").read_text())
    assert card["settings"]["flip_passes"] == 2
    assert train(collection, output, *short, "--kl-weight", "2") == 1
    assert "kl-weight was 0.0, is now 2.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "in_a_job", "told"),
    [
        ("127.0.0.1:1", False, "no Ray cluster at '127.0.0.1:1' (Connection refused)"),
        ("local", True, "this is a job of a Ray cluster: use --address auto to run on the cluster"),
    ],
)
def test_a_wrong_address_is_told_before_anything_is_written(
    address: str,
    in_a_job: bool,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if in_a_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    output = tmp_path / "out"
    assert train("not even listed", output, "--workers", "1", "--address", address) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"afd train: {told}")
    assert line.endswith("the same command continues the run") is not in_a_job
    assert not output.exists()


def test_a_card_names_files_of_weights_without_their_folders(sound: Path, tmp_path: Path) -> None:
    weights = tmp_path / "own.pth"
    torch.save(mobilenet_v3_small(num_classes=3).state_dict(), weights)
    output = tmp_path / "out"
    assert train(sound, output, "--max-steps", "1", "--weights", str(weights)) == 0
    card = json.loads((output / "afd.json").read_text())
    assert "--weights own.pth" in card["command"]
    assert str(tmp_path) not in json.dumps(card)


def test_shares_of_no_held_out_images_are_dashes(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(sound, tmp_path, "--max-steps", "1", "--held-out-images", "1") == 0
    told = capsys.readouterr().err
    assert "held out: compressed – have the clean picture's label (without the module –)" in told
    assert "held-out images, compressed: – have the clean picture's label (– without" in told
    card = json.loads((tmp_path / "afd.json").read_text())
    assert card["held_out_scores"].keys() == {"agreement", "clean_agreement", "kl"}


def test_the_flip_model_sees_training_images_from_all_over_and_thumbnails(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[list[ImageRef]] = []
    thumbnails: list[float] = []
    flags = ("--max-steps", "1", "--flip-images", "3", "--seed", "2", "--max-pixels", "9999")

    class Noted(PairLoader):
        def __init__(
            self, refs: Sequence[ImageRef], geometry: Any, options: Any, mix: Any, **named: Any
        ) -> None:
            assert (named["seed"], named["limits"]) == (2, Limits(9999))
            lists.append(list(refs))
            thumbnails.append(mix.thumbnail_share)
            super().__init__(refs, geometry, options, mix, **named)

    monkeypatch.setattr(worker, "PairLoader", Noted)
    assert train(sound, tmp_path, *flags) == 0
    training, held_out, fitted_too = lists
    assert (len(training), len(held_out)) == (11, 5)
    assert fitted_too == [training[0], training[3], training[7]]
    assert thumbnails == [0, 1 / 3, 1 / 3]


def assert_holds(output: Path, start: str) -> None:
    """The run's weights have all of the checkpoint's, unmoved."""
    weights = load_file(output / "afd.safetensors")
    for name, value in load_file(start).items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9)


GATE = ("--fdm", "full+channel", "--dct-input", "log")


@pytest.fixture(scope="module")
def paper(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the paper's size, which corrects the stem alone."""
    folder = tmp_path_factory.mktemp("paper")
    assert train(sound, folder, "--max-steps", "2", "--afd-size", "paper", *GATE) == 0
    return str(folder / "afd.safetensors")


def test_a_run_starts_from_a_checkpoint(
    sound: Path, paper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So small a rate moves nothing: what comes out is what went in.
    still = ("--stem-steps", "0", "--learning-rate", "1e-12", "--max-steps", "1")
    flags = ("--afd", paper, "--afd-size", "paper", *GATE, *still, "--optimizer", "muon")
    assert train(sound, tmp_path, *flags) == 0
    assert_holds(tmp_path, paper)
    card = json.loads((tmp_path / "afd.json").read_text())
    earlier = json.loads(Path(paper).with_suffix(".json").read_text())
    assert card["started_from"]["sha256"] == earlier["sha256"]
    assert card["started_from"]["command"] == earlier["command"]
    assert "--afd afd.safetensors" in card["command"]
    assert str(tmp_path) not in json.dumps(card)
    capsys.readouterr()
    assert train(sound, tmp_path / "x", "--afd", paper) == 1
    assert "use --afd-size paper --fdm full+channel" in capsys.readouterr().err


def test_a_deep_module_starts_from_the_papers_size(sound: Path, paper: str, tmp_path: Path) -> None:
    flags = ("--afd", paper, "--afd-size", "deep", "--stem-steps", "0", "--max-steps", "1")
    assert train(sound, tmp_path, *flags, "--learning-rate", "1e-12") == 0
    assert_holds(tmp_path, paper)
    backbone = load_backbone("mobilenet_v3_small", "none")
    module, _ = load_checkpoint(tmp_path / "afd.safetensors", backbone)
    assert module.config.size == "deep"
    assert module.config.down_blocks
    assert not module.config.stages


def test_stages_are_corrected_in_a_module_that_had_none(
    sound: Path, paper: str, tmp_path: Path
) -> None:
    flags = ("--afd", paper, "--afd-size", "paper", *GATE, "--stem-steps", "0")
    corrected = ("--corrected-stages", "2", "--max-steps", "1")
    flips = ("--flip-passes", "1", "--flip-images", "3")
    assert train(sound, tmp_path, *flags, *corrected, *flips) == 0
    card = json.loads((tmp_path / "afd.json").read_text())
    assert " ".join(flips) in card["command"]
    checkpoint = tmp_path / "afd.safetensors"
    module, _ = load_checkpoint(checkpoint, load_backbone("mobilenet_v3_small", "none"))
    assert [place.layer for place in module.config.stages] == ["features.8", "features.11"]
    assert all(correction.up.weight.any() for correction in module.stage_corrections)
    # They stay, unless it is said that they shall not; and cannot be others.
    settings = TrainSettings(
        input=str(sound),
        output="x",
        backbone="mobilenet_v3_small",
        weights="none",
        afd=str(checkpoint),
        afd_size="paper",
        fdm="full+channel",
        dct_input="log",
        held_out_images=5,
    )
    cpu = torch.device("cpu")
    assert prepare(settings, cpu).afd.config == module.config
    deeper = prepare(replace(settings, afd_size="deep"), cpu).afd.config
    assert (deeper.stages, deeper.stage_width) == (module.config.stages, module.config.stage_width)
    assert prepare(replace(settings, afd_size="deep", corrected_stages=2), cpu).afd.config == deeper
    assert not prepare(replace(settings, corrected_stages=0), cpu).afd.config.stages
    with pytest.raises(ValueError, match="--corrected-stages 2"):
        prepare(replace(settings, corrected_stages=1), cpu)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clean-share", "2"], "clean_share 2.0 is not between 0 and 1"),
        (["--learning-rate", "0"], "--learning-rate 0.0 is not positive"),
        (["--max-time-s", "-1"], "--max-time-s -1.0 is not positive"),
        (["--workers", "3"], "--batch-size 4 cannot be divided equally among 3 workers"),
        (["--precision", "fp16"], "--precision 'fp16' is not one of: auto, bf16, fp32"),
        (["--ema-decay", "1"], "--ema-decay 1.0"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["in", "--output", "out", *FLAGS, *flags])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--held-out-images", "17"], "17 held-out images of 17"),
        (["--crop", "100"], "crop 100 is not a multiple of 8"),
        (
            ["--logit-weight", "0", "--feature-weight", "0", "--embedding-weight", "0"],
            "nothing to train on",
        ),
        (["--backbone", "resnet19"], "did you mean 'resnet1"),
        (
            ["--backbone", "squeezenet1_1", "--embedding-weight", "1"],
            "no linear layer to take an embedding from: use --embedding-weight 0",
        ),
        (["--afd", "none"], "--afd none: no weights to start from"),
        (["--afd", "default"], "--afd default: no weights to start from"),
        (["--afd", "gone/afd.safetensors"], "--afd 'gone/afd.safetensors': no such file"),
    ],
)
def test_a_run_that_cannot_start_says_why(
    collection: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(collection, tmp_path / "out", *flags) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_the_output_of_another_job_is_refused(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"run_id": "1", "settings": {"top_k": 5}}')
    assert train(sound, tmp_path) == 1
    assert "run.json' belongs to another job: choose another --output" in capsys.readouterr().err
    assert "top_k" in (tmp_path / "run.json").read_text()


def test_a_disk_that_is_full_is_named_with_the_way_on(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with room_for(100_000):
        assert train(sound, tmp_path, "--max-steps", "2") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"afd train: cannot go on with the output {tmp_path}: [Errno 27] File too large;"
        " the same command continues the run"
    )


def test_a_token_that_expires_is_one_line(
    expired: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(expired, tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines() == [
        "11 images to train on, 5 held out",
        "afd train: HTTP 403 ExpiredToken: the credentials in the environment have expired;"
        " the same command continues the run",
    ]


def test_more_held_out_than_trained_on_is_told_with_its_flag(
    expired: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(expired, tmp_path / "out", "--held-out-images", "9")
    first = capsys.readouterr().err.splitlines()[0]
    expected = "7 images to train on, 9 held out (most of them: --held-out-images sets how many)"
    assert first == expected


def test_a_cluster_that_fails_is_one_line(
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ray.train")
    from jobs.training import ray_training

    def fail(settings: TrainSettings) -> None:
        raise ClusterError("no Ray cluster at 'here'")

    monkeypatch.setattr(ray_training, "run_on_cluster", fail)
    assert train(sound, tmp_path / "out", "--workers", "2") == 1
    assert capsys.readouterr().err == (
        "afd train: no Ray cluster at 'here'; the same command continues the run\n"
    )
