"""Workers run on what their pool has for them: no other GPU, and no CPU instead of one."""

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import MINIATURE
from jpegs import encode, photo
from labelers import planned_settings

from jobs.label import main
from jobs.labelling.messages import CommitRecord, WorkerConfig
from jobs.labelling.workers import label_shards
from jobs.pool import Node
from pipeline.output import OutputFolder
from pipeline.sink import read_facts

MODEL = ["--backbone", MINIATURE, "--weights", "none", "--crop", "64", "--resize", "64"]
FLAGS = [*MODEL, "--workers", "0", "--progress", "off"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "0.jpg").write_bytes(encode(photo(70, 80, seed=0)))
    return folder


def test_a_worker_that_cannot_reach_its_gpu_does_not_label_on_the_cpu_instead(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With other labels in other parts, and as the slowest of all."""
    monkeypatch.setattr("jobs.labelling.workers.this_machine", lambda: Node(2, 1))
    assert main([str(folder), "--output", str(tmp_path / "out"), *FLAGS]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "there is no device 'cuda', PyTorch sees 0 CUDA devices" in line
    assert not list(tmp_path.glob("out/labels/*"))
    monkeypatch.undo()
    for flags in ([], ["--dry-run"]):
        arguments = [*FLAGS, "--device", "cuda", *flags]
        assert main([str(folder), "--output", str(tmp_path / "out3"), *arguments]) == 1
        assert "there is no device 'cuda'" in capsys.readouterr().err
    flags = [*FLAGS, "--device", "cpu"]
    assert main([str(folder), "--output", str(tmp_path / "out2"), *flags]) == 0


def test_a_worker_for_which_no_gpu_is_reserved_takes_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.labelling.workers.this_machine", lambda: Node(2, 0))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert main([str(folder), "--output", str(tmp_path), *FLAGS]) == 0
    facts = read_facts(OutputFolder(str(tmp_path)), 0)
    assert facts["device"] == "cpu"
    assert facts["settings"]["device"] == "auto"


def test_workers_are_told_what_their_pool_has_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, and on a cluster with GPUs, which is made up here."""
    found: list[WorkerConfig] = []

    class Noted:
        def __init__(self, config: WorkerConfig) -> None:
            found.append(config)

        def label_each(self, _: Sequence[int]) -> Generator[CommitRecord, None, None]:
            yield from ()

    def run_shards(
        _: Sequence[int], worker: type[Noted], config: WorkerConfig, *rest: Any, **named: Any
    ) -> Generator[CommitRecord, None, None]:
        return worker(config).label_each([])

    monkeypatch.setattr("jobs.labelling.workers.ShardLabeler", Noted)
    monkeypatch.setattr("jobs.labelling.workers.this_machine", lambda: Node(8, 0))
    monkeypatch.setattr("jobs.cluster.cluster", nullcontext)
    monkeypatch.setattr("jobs.cluster.nodes", lambda: [Node(16, 2)])
    monkeypatch.setattr("jobs.labelling.actors.run_shards", run_shards)
    (tmp_path / "in").mkdir()
    settings = planned_settings(tmp_path / "in", tmp_path / "out")
    settings = replace(settings, device="auto")
    for chosen in (replace(settings, workers=0), replace(settings, max_workers=3)):
        assert not list(label_shards(chosen, {"run_id": "r"}, range(9), "d"))
    assert [(config.num_threads, config.num_workers, config.device) for config in found] == [
        (8, 1, "cpu"),
        (2, 3, "cuda"),
    ]
