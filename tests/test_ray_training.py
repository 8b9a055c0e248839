"""Several workers train as one, and a run ends where it would have, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import FLAGS, STEPS, make_collection, records, train

from jobs.pool import ClusterError, Node
from jobs.train_settings import TrainSettings

ROOT = Path(__file__).parents[1]


@contextmanager
def started(collection: Path, output: Path, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The job in a process group of its own, of which nothing is left behind."""
    command = [sys.executable, "-m", "jobs.cli", "train", str(collection), "--output", str(output)]
    process = subprocess.Popen([*command, *FLAGS, *flags], cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[Any]") -> None:
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
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("sound"))


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
from jobs.training.worker import run_worker
from pipeline.pairs.training_data import Rank

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
settings = parse(TrainSettings, sys.argv[3:], prog="test")
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


@pytest.mark.slow
def test_ctrl_c_is_answered_with_one_line_and_the_way_out(sound: Path, tmp_path: Path) -> None:
    """Ray Train's own handler would leave without a word."""
    pytest.importorskip("ray.train")
    output = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", "train", str(sound), "--output", str(output)]
    with subprocess.Popen(
        [*command, *FLAGS, "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_step(output, 1, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert said.endswith("afd train: interrupted; the same command continues the run\n")


@pytest.mark.parametrize(
    ("workers", "cpus", "use_gpu", "fitting"),
    [(3, 2, False, 3), (1, 5, False, 0), (3, 3, False, 2), (1, 2, True, 1), (2, 2, True, 1)],
)
def test_workers_that_never_fit_are_refused(
    workers: int, cpus: int, use_gpu: bool, fitting: int
) -> None:
    """A worker is on one node, of which the larger has 4 CPUs: Ray would wait for ever."""
    pytest.importorskip("ray.train")
    from jobs.training.ray_training import _check_room

    settings = TrainSettings(
        input="in", output="out", batch_size=12, workers=workers, cpus_per_worker=cpus
    )
    room = [Node(3, 0), Node(4, 1)]
    if fitting == workers:
        _check_room(settings, room, use_gpu=use_gpu)
        return
    with pytest.raises(ClusterError, match=f": {fitting} fit on .* 7 CPUs and 1 GPUs together"):
        _check_room(settings, room, use_gpu=use_gpu)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits_for_a_cluster_that_others_use(
    sound: Path, tmp_path: Path, address: str
) -> None:
    """Ray's controller answers nothing while it waits, and Ray Train's own handler asks it."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.train")
    ray.init(address=address, log_to_driver=False)

    class Other:
        def holds(self) -> bool:
            return True

    def controllers() -> set[str]:
        actors = ray._private.state.actors().values()
        return {actor["State"] for actor in actors if actor["ActorClassName"] == "TrainController"}

    def wait_for(states: set[str]) -> None:
        until = time.monotonic() + 60
        while controllers() != states:
            assert time.monotonic() < until, controllers()
            time.sleep(0.1)

    command = [sys.executable, "-m", "jobs.cli", "train", str(sound), "--output"]
    command += [str(tmp_path / "out"), *FLAGS, "--address", address]
    command += ["--workers", "1", "--cpus-per-worker", "1"]
    try:
        other = ray.remote(num_cpus=2)(Other).remote()
        assert ray.get(other.holds.remote())
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_for({"ALIVE"})
                time.sleep(2)  # until it waits
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)
            finally:
                process.kill()
        wait_for({"DEAD"})
    finally:
        ray.shutdown()
    assert process.returncode == 1
    assert said.startswith("waiting: a worker takes 1 CPUs")
    assert said.endswith("afd train: interrupted; the same command continues the run\n")


def test_what_keeps_ctrl_c_from_ray_train_overrides_what_takes_it() -> None:
    """Ray's own name, which another version may drop."""
    pytest.importorskip("ray.train")
    from jobs.training.ray_training import TorchTrainer, _Trainer

    before = signal.getsignal(signal.SIGINT)
    try:
        for trainer, takes_it in ((_Trainer, False), (TorchTrainer, True)):
            trainer._register_sigint_handler(None, None)
            assert (signal.getsignal(signal.SIGINT) is not before) is takes_it
    finally:
        signal.signal(signal.SIGINT, before)
