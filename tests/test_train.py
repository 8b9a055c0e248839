"""The train job end to end: a checkpoint from a folder of pictures, whatever is killed."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from jpegs import encode, photo
from safetensors.torch import load_file

from afd_model.backbones import load_backbone
from afd_model.checkpoint import load_checkpoint
from jobs.train import main
from jobs.train_settings import TrainSettings
from jobs.training_log import LOG, TrainingLog
from jobs.training_run import prepare

ROOT = Path(__file__).parents[1]
STEPS = 20
FLAGS = [
    *("--backbone", "resnet18", "--weights", "none", "--crop", "32", "--batch-size", "4"),
    *("--max-steps", str(STEPS), "--warmup-steps", "2", "--held-out-images", "5"),
    *("--validate-every-steps", "10", "--save-every-steps", "3", "--log-every-steps", "1"),
    *("--flip-passes", "1", "--read-threads", "1", "--device", "cpu", "--precision", "fp32"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    for k in range(16):
        (folder / f"{k}.jpg").write_bytes(encode(photo(60 + k, 90 - k, k), quality=92))
    return folder


@pytest.fixture(scope="module")
def collection(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    (folder / "bad.jpg").write_bytes(b"<html>")
    return folder


def train(collection: Path, output: Path, *flags: str) -> int:
    threads = torch.get_num_threads()
    try:
        return main([str(collection), "--output", str(output), *FLAGS, *flags])
    finally:
        torch.set_num_threads(threads)


def records(output: Path, kind: str) -> list[dict[str, float]]:
    lines = (output / LOG).read_text().splitlines() if (output / LOG).exists() else []
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_a_run_ends_with_a_checkpoint_its_card_and_its_log(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    short = ("--max-steps", "4", "--validate-every-steps", "2")
    assert train(collection, output, *short) == 0
    module, facts = load_checkpoint(output / "afd.safetensors", load_backbone("resnet18", "none"))
    assert facts.flip_model is not None
    assert not module.is_identity
    card = json.loads((output / "afd.json").read_text())
    assert card["data"]["training_images"] == 12
    assert card["settings"]["input"] == collection.name  # a machine's folders are nobody's business
    assert "--max-steps 4" in card["command"]
    assert [r["step"] for r in records(output, "step")] == [1, 2, 3, 4]
    assert [r["step"] for r in records(output, "validation")] == [2, 4]
    assert "held out" in capsys.readouterr().err
    # The same command again has nothing to train, and other settings are refused.
    before = load_file(output / "afd.safetensors")
    assert train(collection, output, *short) == 0
    after = load_file(output / "afd.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert train(collection, output, *short, "--kl-weight", "2") == 1
    assert "kl-weight was 0.0, is now 2.0" in capsys.readouterr().err


def test_a_finished_run_goes_on_for_more_steps(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    for steps in (2, 3, 4):
        assert train(sound, output, "--max-steps", str(steps)) == 0
    assert "for 4 steps instead of 3" in capsys.readouterr().err
    assert [r["step"] for r in records(output, "step")] == [1, 2, 3, 4]
    card = json.loads((output / "afd.json").read_text())
    assert (card["settings"]["max_steps"], card["earlier_max_steps"]) == (4, [2, 3])
    assert train(sound, output, "--max-steps", "3") == 1
    assert "a run of 4 steps, more than --max-steps 3" in capsys.readouterr().err


def test_the_job_starts_without_ray() -> None:
    """No module that it imports at its top, and none of theirs, imports Ray there."""
    seen, todo = set(), ["jobs.train"]
    while todo:
        name = todo.pop()
        path = ROOT / Path(*name.split(".")).with_suffix(".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                todo.append(str(node.module))
        assert not [name for name in todo if name.split(".")[0] == "ray"]
    assert "afd_model.training" in seen


def test_records_of_lost_steps_are_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(
        '{"kind": "step", "step": 3, "loss": 1.0}\n{"kind": "step", "step": 4}\n{"kind": "st'
    )
    log = TrainingLog(tmp_path, first_step=3)
    log({"kind": "step", "step": 4, "loss": 0.5})
    log.close()
    assert [r["step"] for r in records(tmp_path, "step")] == [3, 4]
    assert records(tmp_path, "step")[1]["loss"] == 0.5


def test_a_smaller_crop_keeps_the_presets_share_of_the_picture(collection: Path) -> None:
    settings = TrainSettings(
        input=str(collection),
        output="x",
        backbone="resnet18",
        weights="none",
        crop=56,
        held_out_images=5,
    )
    geometry = prepare(settings, torch.device("cpu")).geometry
    assert (geometry.resize, geometry.crop) == (64, 56)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clean-share", "2"], "clean_share 2.0 is not between 0 and 1"),
        (["--learning-rate", "0"], "--learning-rate 0.0 is not positive"),
        (["--workers", "3"], "--batch-size 4 cannot be dealt out to 3 workers"),
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
        (["--logit-weight", "0", "--feature-weight", "0"], "nothing to train on"),
        (["--backbone", "resnet19"], "did you mean 'resnet1"),
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


@contextmanager
def started(collection: Path, output: Path, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The job in a process group of its own, of which nothing is left behind."""
    command = [sys.executable, "-m", "jobs.train", str(collection), "--output", str(output)]
    process = subprocess.Popen([*command, *FLAGS, *flags], cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 400  # Ray starts a dozen processes first
    while time.monotonic() < until:
        if any(r["step"] >= step for r in records(output, "step")):
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.1)
    raise AssertionError("the run does not come on")


def assert_same_end(found: Path, expected: Path) -> None:
    """The weights after the last step, trained and averaged."""
    mine, theirs = (torch.load(path / "state.pt", weights_only=True) for path in (found, expected))
    assert mine["step"] == theirs["step"] == STEPS
    for part in ("afd", "average"):
        for name, value in theirs[part].items():
            torch.testing.assert_close(mine[part][name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def unkilled(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unkilled") / "out"
    assert train(sound, output) == 0
    return output


_ONE_OF_TWO = """
import sys
import torch.distributed as dist
from jobs.command_line import parse
from jobs.train_settings import TrainSettings
from jobs.training_run import run_worker
from pipeline.training_data import Rank

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
settings = parse(TrainSettings, sys.argv[3:], prog="test", positional=["input"])
run_worker(settings.located(), Rank(rank, 2))
"""


@pytest.fixture(scope="module")
def unkilled_pair(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two gloo workers without Ray."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "out").mkdir()
    arguments = [f"file://{folder}/meeting", str(sound), "--output", str(folder / "out"), *FLAGS]
    workers = [
        subprocess.Popen([sys.executable, "-c", _ONE_OF_TWO, str(rank), *arguments], cwd=ROOT)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    return folder / "out"


def losses(output: Path) -> list[float]:
    return [record["loss"] for record in records(output, "step")]


@pytest.mark.slow
def test_two_workers_train_as_one(unkilled: Path, unkilled_pair: Path) -> None:
    """Up to rounding, which AdamW enlarges where a gradient is all but zero."""
    assert losses(unkilled_pair) == pytest.approx(losses(unkilled), rel=0.01)


@pytest.mark.slow
def test_a_driver_killed_in_the_middle_ends_where_an_unkilled_one_does(
    sound: Path, unkilled: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with started(sound, output) as process:
        wait_for_step(output, 8, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert records(output, "step")[-1]["step"] != STEPS
    assert train(sound, output) == 0
    assert_same_end(output, unkilled)
    assert [r["step"] for r in records(output, "step")] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_ray_worker_is_replaced_and_nothing_is_lost(
    sound: Path, unkilled_pair: Path, tmp_path: Path
) -> None:
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("ray.train")
    output = tmp_path / "out"
    with started(sound, output, "--workers", "2") as process:
        wait_for_step(output, 8, process)
        mine = psutil.Process(process.pid).children(recursive=True)
        workers = [p for p in mine if "RayTrainWorker" in "".join(p.cmdline())]
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        assert process.wait(timeout=400) == 0
    assert_same_end(output, unkilled_pair)
    assert [r["step"] for r in records(output, "step")] == list(range(1, STEPS + 1))
