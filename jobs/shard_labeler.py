"""The worker: holds a loaded model, labels the shards it is handed, commits each as it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from jobs.machine import release_free_memory
from jobs.metrics import ShardMetrics
from jobs.run_record import differences, versions
from jobs.settings import LabelSettings
from pipeline.attempts import AccessError
from pipeline.output import OutputFolder
from pipeline.shards import Plan, part_name
from pipeline.sink import read_facts, write_part

_RELEASE_EVERY_S = 30  # of free memory: a thousandth of the time


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

    It never raises: Ray would retry, and print its own traceback. A model that cannot be built is
    reported by the first record instead, as `fatal`.
    """

    def __init__(
        self,
        settings: LabelSettings,
        run_id: str,
        expected_model: Mapping[str, Any] | None,
        num_threads: int,
        driver: str,
    ) -> None:
        """expected_model: the facts of the model that the run was begun with, if it is known.

        driver: the name of the driver, see `pipeline.presence`; each counts its own attempts.
        """
        self._settings = settings
        self._output = OutputFolder(settings.output)
        self._driver = driver
        self._metrics = ShardMetrics()
        self._released_at = 0.0
        self._fatal: str | None = None
        try:
            self._load(run_id, expected_model, num_threads)
        except Exception as error:
            self._fatal = str(error) if isinstance(error, ValueError) else _one_line(error)

    def _load(
        self, run_id: str, expected_model: Mapping[str, Any] | None, num_threads: int
    ) -> None:
        # Imported here: the driver imports this module too, and does without PyTorch and DALI,
        # which take longer to import than everything else takes to start.
        from jobs.model import load_model
        from pipeline.label_shard import label_shard
        from pipeline.screen import Limits

        settings = self._settings
        self._label_shard = label_shard
        self.plan = Plan(self._output)
        self.limits = Limits(settings.max_pixels, settings.integrity)
        self.model = load_model(
            settings, num_threads=num_threads, num_images=self.plan.size.num_images
        )
        if expected_model and (changed := differences(expected_model, self.model.facts)):
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
        shard = int(batch["shard"][0])
        if self._fatal is not None:
            record = CommitRecord(shard, time.time(), fatal=self._fatal)
        else:
            record = self._label(shard)
        return {"record": [json.dumps(asdict(record))]}

    def _label(self, shard: int) -> CommitRecord:
        """Try until the part is committed or the attempts are used up.

        The attempts are counted on storage: those in which the whole process died count too.
        """
        started_at = time.time()
        name = f"{part_name(shard)}.{self._driver}"
        allowed = self._settings.attempts_per_shard
        error = f"the worker process died in each of {allowed} attempts"
        try:
            while self._output.begin_attempt(name) <= allowed:
                try:
                    record = self._commit(shard, started_at)
                except Exception as failure:
                    error = _one_line(failure)
                else:
                    self._output.end_attempts(name)
                    return record
        except (OSError, AccessError) as failure:
            error = _one_line(failure)
        self._metrics.failed()
        return CommitRecord(shard, started_at, error=error)

    def _commit(self, shard: int, started_at: float) -> CommitRecord:
        with suppress(FileNotFoundError):  # else a worker committed it and died before it said so
            return CommitRecord(shard, started_at, read_facts(self._output, shard)["counts"])
        began_at = time.time()
        labelled = self._label_shard(
            self.plan.shard(shard),
            decoder=self.model.decoder,
            classifier=self.model.predictor,
            class_names=self.model.class_names,
            limits=self.limits,
            read_threads=self._settings.read_threads,
        )
        began = time.perf_counter()
        facts = {
            **self._facts,
            "began_at": began_at,  # seconds since the epoch
            "counts": labelled.counts,
            "seconds": labelled.seconds,
        }
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


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
