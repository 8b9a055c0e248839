"""Runs the whole label job without Ray, in worker processes of this program.

As in the label job, each process has a `ShardLabeler`, which labels and commits a share of the
shards.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch

from jobs.benchmarking.stages import Cost
from jobs.labelling.messages import CommitRecord, WorkerConfig
from jobs.labelling.shard_labeler import ShardLabeler
from jobs.settings import LabelSettings
from pipeline.output import OutputFolder
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import ImageRef
from pipeline.shards import Plan, part_path, write_plan
from pipeline.sink import read_facts
from pipeline.stage_clock import StageClock

_START_TIMEOUT_S = 600.0
_NAME = "benchmark"  # of the run and of the driver

_labeler: ShardLabeler | None = None  # of this worker process
_all_ready: Any = None


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of the whole job.

    wall_s: from the start of the first shard to the last commit. cpu_s: sum over the workers.
    counts: rows per status. seconds: per stage, see `LabelledShard`, sum over the workers.
    """

    images: int
    wall_s: float
    cpu_s: float
    counts: dict[str, int]
    seconds: dict[str, float]

    @property
    def images_per_s(self) -> float:
        return self.images / self.wall_s


class Workers:
    """The job's worker processes. Each call of `run` runs the whole job, after a first warm-up.

    settings.output: a folder that nothing else uses.
    `run` raises ValueError when a worker cannot load its model, RuntimeError when an image is
    missing or a shard fails.
    """

    def __init__(
        self,
        settings: LabelSettings,
        refs: Sequence[ImageRef],
        *,
        num_workers: int,
        num_threads: int,
    ) -> None:
        self._output = OutputFolder(settings.output)
        self._output.create()
        self._images = len(refs)
        write_plan(self._output, refs, settings.images_per_shard)
        self._shards = Plan(self._output).num_shards
        self.num_workers = min(num_workers, self._shards)
        context = multiprocessing.get_context("spawn")
        with _safe_import_path():  # for a helper process of the barrier
            barrier = context.Barrier(self.num_workers)
        self._pool = ProcessPoolExecutor(
            self.num_workers,
            mp_context=context,
            initializer=_start,
            initargs=(settings, num_threads, barrier),
        )
        self._is_warm = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for what they are at
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def run(self) -> JobRun:
        """Label every image and commit every shard, without the parts of an earlier run."""
        if not self._is_warm:
            one_each = [[worker] for worker in range(self.num_workers)]
            with _without_ctrl_c(), _safe_import_path():
                first_shares = self._pool.map(_label, one_each)  # starts the processes
            self._checked([done.records for done in first_shares])
            self._is_warm = True
        self._remove_parts()
        began = time.perf_counter()
        shares = list(self._pool.map(_label, self._shares()))
        wall_s = time.perf_counter() - began
        records = self._checked([share.records for share in shares])
        counts: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for record in records:
            counts.update(record.counts)
            seconds.update(record.seconds)
        self._check_rows(counts.total())
        return JobRun(
            images=self._images,
            wall_s=wall_s,
            cpu_s=sum(share.cpu_s for share in shares),
            counts=dict(counts),
            seconds=dict(seconds),
        )

    def decode_alone(self) -> Cost:
        """The cost of decoding when all workers decode at once, and do nothing else."""
        if not self._is_warm:
            self.run()
        done = list(self._pool.map(_decode, self._shares()))
        wall_s = max(share.ended_at for share in done) - min(share.began_at for share in done)
        images = sum(share.images for share in done)
        return Cost(images, sum(share.cpu_s for share in done), wall_s)

    def _shares(self) -> list[range]:
        """The shards of each worker."""
        return [range(k, self._shards, self.num_workers) for k in range(self.num_workers)]

    def _remove_parts(self) -> None:
        for shard in range(self._shards):
            part_path(self._output, shard).unlink(missing_ok=True)

    def _checked(self, shares: list[list[CommitRecord]]) -> list[CommitRecord]:
        """All records. Raises ValueError or RuntimeError when one of them reports an error."""
        records = [record for share in shares for record in share]
        for record in records:
            if record.fatal is not None:
                raise ValueError(record.fatal)
            if record.error is not None:
                raise RuntimeError(f"shard {record.shard} failed: {record.error}")
        return records

    def _check_rows(self, counted: int) -> None:
        rows = sum(read_facts(self._output, shard)["num_rows"] for shard in range(self._shards))
        if not rows == counted == self._images == Plan(self._output).num_images:
            raise RuntimeError(f"{rows} rows and {counted} outcomes for {self._images} images")


@contextmanager
def _safe_import_path() -> Iterator[None]:
    """Processes that are started inside import nothing from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH", "")  # "" is the same as not set
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C; this one sees it when the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(settings: LabelSettings, num_threads: int, all_ready: threading.Barrier) -> None:
    global _labeler, _all_ready
    config = WorkerConfig(
        settings=settings,
        run_id=_NAME,
        driver=_NAME,
        num_threads=num_threads,
    )
    _labeler = ShardLabeler(config)
    _all_ready = all_ready


class _LabelledShare(NamedTuple):
    """cpu_s: CPU time of the process."""

    records: list[CommitRecord]
    cpu_s: float


def _label(shards: Iterable[int]) -> _LabelledShare:
    """Label a share of the shards, once all workers are ready.

    Without the barrier one worker could take two shares.
    """
    assert _labeler is not None
    _all_ready.wait(_START_TIMEOUT_S)
    began = time.process_time()
    records = list(_labeler.label_each(shards))
    return _LabelledShare(records, time.process_time() - began)


class _DecodedShare(NamedTuple):
    """began_at, ended_at: seconds on a clock that all processes of the machine share."""

    images: int
    cpu_s: float
    began_at: float
    ended_at: float


def _decode(shards: Iterable[int]) -> _DecodedShare:
    """Read and screen a share of the images, wait for the other workers, then decode."""
    assert _labeler is not None
    refs = [ref for shard in shards for ref in _labeler.plan.shard(shard).refs]
    reading = ReadAhead(refs, _labeler.pipeline.limits, num_threads=4, max_images=len(refs))
    images = list(reading)
    _all_ready.wait(_START_TIMEOUT_S)
    began_at, cpu = time.perf_counter(), time.process_time()
    count = 0
    for batch in _labeler.pipeline.model.decoder.decode(images, StageClock()):
        if batch.pixels.is_cuda:
            torch.cuda.synchronize(batch.pixels.device)
        count += len(batch.images)
    return _DecodedShare(count, time.process_time() - cpu, began_at, time.perf_counter())
