"""`afd benchmark`: measures each stage alone, the whole job, and this machine's limit.

It does not use Ray, and needs a network only to download a backbone's weights. Nothing else should
run on the machine; its load average at the start is in the result.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from afd_model.checkpoint import shipped_checkpoint
from afd_model.inference.device import resolve_device
from jobs.benchmark_settings import NO_RECORD, OWN, TEMPORARY, BenchmarkSettings
from jobs.benchmarking.corpus import make_corpus
from jobs.benchmarking.figures import Round, figures, table
from jobs.benchmarking.machine import corpus_facts, machine_facts, software
from jobs.benchmarking.stages import Stages
from jobs.benchmarking.workers import Workers
from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, print_answer
from jobs.log import say
from jobs.machine import num_cores
from jobs.model import backbone_of
from jobs.pool import workers_on_gpu
from jobs.run_job import run_job
from jobs.settings import LabelSettings
from pipeline.records import ImageRef
from pipeline.sources import list_images

FORMAT = 1
_IMAGES = {"cpu": 500, "cuda": 8000}
_MAX_IMAGES_PER_SHARD = 2000
_SWEEP_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of each setting that can be swept."""

    workers: int | Literal["auto"]
    threads: int | Literal["auto"]
    hw_decoder_load: float
    batch_size: int | Literal["auto"]


def benchmark(settings: BenchmarkSettings) -> dict[str, Any]:
    """Measure; returns the JSON document.

    Raises ValueError, worded for the user, when it cannot start; RuntimeError when an image was
    lost, because then the figures mean nothing.
    """
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    device = resolve_device(settings.device)
    facts = machine_facts(device)
    with tempfile.TemporaryDirectory(prefix="afd-benchmark-") as folder:
        refs = _images(settings, device, Path(folder))
        corpus = {"own": settings.input == OWN, **corpus_facts(refs)}
        bench = _Bench(settings, device, refs, Path(folder))
        choice, tried = _sweep(settings, bench)
        rounds, model, num_workers = bench.measure(choice)
    measured = figures(
        rounds,
        cuda=device.type == "cuda",
        cores=num_cores(),
        with_module=settings.afd != "none",
    )
    _check_own(settings, measured)
    return {
        "benchmark": "afd",
        "format": FORMAT,
        "began": began,
        "machine": facts,
        "versions": software(),
        "model": model,
        "settings": {
            **asdict(choice),
            "workers": num_workers,
            "threads": bench.num_threads(choice),
            "read_threads": settings.read_threads,
            "prefetch_batches": settings.prefetch_batches,
            "integrity": settings.integrity,
            "images_per_shard": bench.images_per_shard(choice),
        },
        "corpus": corpus,
        **measured,
        "tried": tried,
    }


class _Bench:
    """Runs the measurements of one benchmark."""

    def __init__(
        self,
        settings: BenchmarkSettings,
        device: torch.device,
        refs: Sequence[ImageRef],
        folder: Path,
    ) -> None:
        self._settings, self._device = settings, device
        self._refs, self._folder = refs, folder
        self._num_runs = 0
        self._afd = _measured_afd(settings)
        self._cuda = device.type == "cuda"

    def num_workers(self, choice: Choice) -> int:
        if isinstance(choice.workers, int):
            return choice.workers
        if self._cuda:
            return workers_on_gpu(num_cores())
        return max(1, num_cores() // (choice.threads if isinstance(choice.threads, int) else 1))

    def num_threads(self, choice: Choice) -> int:
        if isinstance(choice.threads, int):
            return choice.threads
        return max(1, num_cores() // self.num_workers(choice)) if self._cuda else 1

    def images_per_shard(self, choice: Choice) -> int:
        """So that the workers get about the same number of shards of at most 2000 images."""
        if self._settings.images_per_shard != "auto":
            return self._settings.images_per_shard
        images, workers = len(self._refs), self.num_workers(choice)
        shards_per_worker = -(-images // (workers * _MAX_IMAGES_PER_SHARD))
        return -(-images // (workers * shards_per_worker))

    def measure(self, choice: Choice) -> tuple[list[Round], dict[str, Any], int]:
        """(rounds of each stage alone and then the whole job, facts about the model, workers).

        There are fewer workers than in `choice` where there are fewer shards.
        """
        settings = self._label_settings(choice)
        stages = Stages(
            settings,
            self._refs,
            num_threads=self.num_threads(choice) if self._cuda else 1,
            scratch=self._folder,
        )
        rounds = []
        with self._workers(choice) as workers:
            decode = workers.decode_alone if self._cuda else None
            for number in range(self._settings.rounds + 1):
                done = Round(stages.measure(decode), workers.run())
                if number:  # the first warms up
                    rounds.append(done)
                    say(f"round {number}: {done.job.images_per_s:.4g} images/s")
        facts = {**_without_folders(stages.facts), **stages.host}
        return rounds, facts, workers.num_workers

    def speed(self, choice: Choice) -> float:
        """Images/s of the whole job, median of a few runs."""
        with self._workers(choice) as workers:
            return statistics.median(workers.run().images_per_s for _ in range(_SWEEP_ROUNDS))

    def _workers(self, choice: Choice) -> Workers:
        return Workers(
            self._label_settings(choice),
            self._refs,
            num_workers=self.num_workers(choice),
            num_threads=self.num_threads(choice),
        )

    def _label_settings(self, choice: Choice) -> LabelSettings:
        self._num_runs += 1
        settings = self._settings
        engine = settings.engine
        if engine == "auto":
            engine = "inductor" if self._cuda else "torch"
        return LabelSettings(
            input=settings.input,
            output=str(self._folder / f"run-{self._num_runs}"),
            backbone=settings.backbone,
            weights=settings.weights,
            stem_layer=settings.stem_layer,
            afd=self._afd,
            device=settings.device,
            precision=settings.precision,
            engine=engine,
            batch_size=choice.batch_size,
            hw_decoder_load=choice.hw_decoder_load,
            read_threads=settings.read_threads,
            prefetch_batches=settings.prefetch_batches,
            integrity=settings.integrity,
            images_per_shard=self.images_per_shard(choice),
        )


def _measured_afd(settings: BenchmarkSettings) -> str:
    """--afd, with an untrained module, which costs as much, when none ships for the backbone."""
    ships = settings.afd != "default" or shipped_checkpoint(backbone_of(settings)) is not None
    return settings.afd if ships else "untrained"


def _sweep(settings: BenchmarkSettings, bench: _Bench) -> tuple[Choice, list[dict[str, Any]]]:
    """(the fastest choice, the speed of every choice). One setting is varied after the other."""
    best = Choice(*(getattr(settings, field.name)[0] for field in fields(Choice)))
    speeds: dict[Choice, float] = {}
    for name in (field.name for field in fields(Choice)):
        values = getattr(settings, name)
        choices = [replace(best, **{name: value}) for value in values] if len(values) > 1 else []
        for choice in choices:
            if choice not in speeds:
                speeds[choice] = bench.speed(choice)
                say(f"{asdict(choice)}: {speeds[choice]:.4g} images/s")
        best = max(choices, key=speeds.__getitem__, default=best)
    tried = [{**asdict(c), "images_per_s": round(speed, 2)} for c, speed in speeds.items()]
    return best, tried


def _images(settings: BenchmarkSettings, device: torch.device, folder: Path) -> list[ImageRef]:
    count = _IMAGES[device.type] if settings.num_images == "auto" else settings.num_images
    location = settings.input
    if location == OWN:
        own = folder / "images" if settings.corpus == TEMPORARY else Path(settings.corpus)
        make_corpus(own, count, settings.seed)
        location = str(own)
    return list(islice(list_images(location), count))


def _check_own(settings: BenchmarkSettings, measured: dict[str, Any]) -> None:
    """Raise RuntimeError when one of the benchmark's own, intact images was not labelled as ok."""
    job = measured["whole_job"]
    if settings.input == OWN and job["counts"] != {"ok": job["images"]}:
        raise RuntimeError(f"{job['images']} intact images gave {job['counts']}")


def _without_folders(facts: dict[str, str | None]) -> dict[str, str | None]:
    """Files by name only: the document must not show the machine's folders."""
    return {
        name: os.path.basename(value) if value and name in ("weights", "afd") else value
        for name, value in facts.items()
    }


def _append(record: str, text: str) -> None:
    with open(record, "a", encoding="utf-8") as file:
        file.write(text)


def main(arguments: Sequence[str]) -> int:
    """`afd benchmark`: exit code 0 with a document, 1 if nothing was measured, 2 for bad usage."""
    settings = parse(BenchmarkSettings, arguments, prog="afd benchmark")
    return run_job("afd benchmark", lambda: run(settings), errors=(RuntimeError,))


def run(settings: BenchmarkSettings) -> int:
    """Measure, print and record. Raises the errors of `benchmark`, or returns an exit code."""
    if settings.record != NO_RECORD:
        _append(settings.record, "")  # fails now rather than after the measurement
    result = benchmark(settings)
    for row in table(result).splitlines():
        say(row)
    line = json.dumps(result)
    print_answer(line)
    if settings.record != NO_RECORD:
        _append(settings.record, line + "\n")
    return EXIT_COMPLETE
