"""The worker: holds a loaded model, labels the shards it is handed, commits each as it ends.

Two at a time: while one is decoded and classified, the next one's images are read and the last one
is written, which with a store at a distance takes as long as labelling some thousand images.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from jobs.labelling.metrics import ShardMetrics
from jobs.machine import release_free_memory
from jobs.pool import CONTINUES
from jobs.run_record import other_model, versions
from jobs.settings import LabelSettings
from pipeline.error_text import named, reason_of
from pipeline.output import OutputFolder
from pipeline.records import Shard
from pipeline.shards import Plan, part_name
from pipeline.sink import read_facts, write_part
from pipeline.stores.errors import AccessError, refuses_all_writing

if TYPE_CHECKING:
    from pipeline.label_shard import LabelledShard
    from pipeline.reading.read_ahead import ReadAhead

SHARDS_AT_ONCE = 2
EXIT_DEVICE_LOST = 70  # EX_SOFTWARE
_RELEASE_EVERY_S = 30  # to give free memory back takes a thousandth of this


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What a worker tells the driver about a shard. `error` is None when its part is committed.

    started_at: seconds since the epoch. seconds: see `LabelledShard`, and `write`.
    model: the facts of the model that the worker holds. fatal: why no shard can be labelled.
    notice: what a user should know of the worker, though it goes on.
    """

    shard: int
    started_at: float
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    fatal: str | None = None
    notice: str | None = None


class ShardLabeler:
    """Built once in each worker process; called by Ray Data with one shard descriptor at a time.

    Serves `SHARDS_AT_ONCE` threads. It never raises: Ray would retry, and print its own traceback.
    A model that cannot be built is reported by the first record instead, as `fatal`; so is a device
    that this process has lost, but on Ray, where another process takes this one's place, and an
    output that takes no more files.
    """

    def __init__(
        self,
        settings: LabelSettings,
        run_id: str,
        expected_model: Mapping[str, Any] | None,
        num_threads: int,
        driver: str,
        num_workers: int = 1,
        witness: str | None = None,
    ) -> None:
        """expected_model: the facts of the model that the run was begun with, if it is known.

        num_workers: that share the job.
        driver: the name of the driver, see `pipeline.presence`; each counts its own attempts.
        witness: a file of the input that is on a disk of the driver's, if any is.
        """
        self._settings = settings
        self._output = OutputFolder(settings.output)
        self._driver = driver
        self._metrics = ShardMetrics()
        self._released_at = 0.0
        self._fatal: str | None = None
        self._device_fault: str | None = None
        # The decoder and the model are one thread's, whoever calls: PyTorch keeps its own threads
        # for each that it is called from.
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="turn")
        self._in_hand: set[ReadAhead] = set()
        self._stopping = False
        try:
            _check_mounts(self._output, witness)
            self._turns.submit(
                self._load, run_id, expected_model, num_threads, num_workers
            ).result()
        except Exception as error:
            self._fatal = str(error) if isinstance(error, ValueError) else named(error)

    def _load(
        self,
        run_id: str,
        expected_model: Mapping[str, Any] | None,
        num_threads: int,
        num_workers: int,
    ) -> None:
        # Imported here: the driver imports this module too, and does without PyTorch and DALI,
        # which take longer to import than everything else takes to start.
        from jobs.model import load_model
        from pipeline.screening.screen import Limits

        settings = self._settings
        self.plan = Plan(self._output)
        self.limits = Limits(settings.max_pixels, settings.integrity)
        self.model = load_model(
            settings,
            num_threads=num_threads,
            images_to_label=self.plan.size.num_images // num_workers,
        )
        if expected_model and (changed := other_model(expected_model, self.model.facts)):
            raise ValueError(f"the model is not the one the run was begun with: {changed}")
        self._facts = {
            "run_id": run_id,
            "settings": asdict(settings),
            **self.model.facts,
            **self.model.host,
            "versions": versions(),
        }

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """{"shard": (1,)} -> {"record": [JSON of a `CommitRecord`]}. Never raises for a shard."""
        record = self.label(int(batch["shard"][0]))
        if self._device_fault is not None:
            # Else a worker whose every shard fails at once would be handed all that are left.
            print(self._device_fault, file=sys.stderr, flush=True)
            os._exit(EXIT_DEVICE_LOST)
        return {"record": [json.dumps(asdict(record))]}

    def label_each(self, shards: Iterable[int]) -> Generator[CommitRecord, None, None]:
        """Label the shards as a worker of Ray's does; records in the order of the shards.

        When it is closed before its end, the shards in hand are given up.
        """
        self._stopping = False
        with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as threads:
            running: deque[Future[CommitRecord]] = deque()
            try:
                for shard in shards:
                    running.append(threads.submit(self.label, shard))
                    if len(running) == SHARDS_AT_ONCE:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                self._stopping = bool(running)
                for reading in tuple(self._in_hand):
                    reading.close()

    def label(self, shard: int) -> CommitRecord:
        """Try until the part is committed or the attempts are used up."""
        started_at = time.time()
        if self._fatal is not None:
            return CommitRecord(shard, started_at, fatal=self._fatal)
        allowed = self._settings.attempts_per_shard
        error = f"the worker process died in each of {allowed} attempts"
        try:
            for _ in range(allowed):
                if (counts := self._committed_counts(shard)) is not None:
                    return CommitRecord(shard, started_at, counts)
                try:
                    if (labelled := self._labelled(shard)) is None:
                        break
                    record = self._commit(shard, started_at, labelled)
                except Exception as failure:
                    error = named(failure)
                    if self._fatal is not None or self._has_lost_device():
                        return CommitRecord(shard, started_at, fatal=self._fatal)
                else:
                    self._output.end_attempts(self._attempts_name(shard))
                    return record
                if self._stopping:
                    break
        except Exception as failure:  # of the output itself
            error = named(failure)
        self._metrics.failed()
        return CommitRecord(shard, started_at, error=error)

    def _has_lost_device(self) -> bool:
        from afd_model.inference.device import fault_of

        self._device_fault = self._device_fault or fault_of(self.model.predictor.device)
        if self._device_fault is None:
            return False
        self._fatal = f"{self._device_fault}{CONTINUES}"
        return True

    def _committed_counts(self, shard: int) -> dict[str, int] | None:
        """Of a shard that another worker committed, and died before it said so."""
        try:
            counts: dict[str, int] = read_facts(self._output, shard)["counts"]
        except FileNotFoundError:
            return None
        return counts

    def _attempts_name(self, shard: int) -> str:
        return f"{part_name(shard)}.{self._driver}"

    def _labelled(self, shard: int) -> LabelledShard | None:
        """Read the shard's images ahead until it is its turn. None: see `_turn`."""
        planned = self.plan.shard(shard)
        with closing(self._reading(planned)) as reading:
            self._in_hand.add(reading)
            try:
                reading.start_early()
                return self._turns.submit(self._turn, planned, reading).result()
            finally:
                self._in_hand.discard(reading)

    def _turn(self, shard: Shard, reading: ReadAhead) -> LabelledShard | None:
        """Label a shard whose turn it is; None: no attempt is left, or the worker is stopping.

        Attempts are counted on storage, so that one in which the whole process dies counts too. It
        begins here: a shard that was only waiting for its turn has used none up.
        """
        if self._stopping:
            return None
        with self._writing():
            attempt = self._output.begin_attempt(self._attempts_name(shard.index))
        if attempt > self._settings.attempts_per_shard:
            return None
        return self._classified(shard, reading)

    def _reading(self, shard: Shard) -> ReadAhead:
        from pipeline.label_shard import read_shard

        return read_shard(shard, self.model.decoder, self.limits, self._settings.read_threads)

    def _classified(self, shard: Shard, reading: ReadAhead) -> LabelledShard:
        from pipeline.label_shard import label_images

        return label_images(
            shard,
            reading,
            decoder=self.model.decoder,
            classifier=self.model.predictor,
            class_names=self.model.class_names,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around a write: a full disk ends the run, or the rest would be labelled in vain."""
        try:
            yield
        except (OSError, AccessError) as error:
            if refuses_all_writing(error):
                where = self._output.location
                self._fatal = f"cannot write to {where!r}: {reason_of(error)}{CONTINUES}"
            raise

    def _commit(self, shard: int, started_at: float, labelled: LabelledShard) -> CommitRecord:
        began = time.perf_counter()
        facts = {
            **self._facts,
            "began_at": labelled.began_at,  # seconds since the epoch
            "counts": labelled.counts,
            "seconds": labelled.seconds,
        }
        with self._writing():
            write_part(self._output, shard, labelled.table, facts)
        seconds = {**labelled.seconds, "write": time.perf_counter() - began}
        num_bytes = pc.sum(labelled.table["num_bytes"]).as_py() or 0
        self._metrics.committed(labelled, num_bytes, seconds)
        if time.monotonic() - self._released_at > _RELEASE_EVERY_S:
            release_free_memory()
            self._released_at = time.monotonic()
        return CommitRecord(
            shard,
            started_at,
            labelled.counts,
            seconds,
            self.model.facts,
            notice=self.model.predictor.notice,
        )


def _check_mounts(output: OutputFolder, witness: str | None) -> None:
    """Raise ValueError where this node lacks a disk that the driver has.

    Without the input every row would be `unreadable`, which no later run would make good, and a
    worker whose rows all are takes most of the shards.
    """
    plan = None if "://" in output.location else str(output.plan)
    for what, path in (("output", plan), ("input", witness)):
        if path is not None and not os.path.exists(path):
            raise ValueError(
                f"{path!r} is not there on the node {socket.gethostname()}: mount the {what} at the"
                " same path on every node"
            )
