"""How a run went, from its parts' metadata: settings, speed, and time per stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.labels_view import list_parts
from jobs.reporting.queries import Row
from pipeline.error_text import one_line
from pipeline.output import OutputError, OutputFolder
from pipeline.shards import Plan
from pipeline.sink import facts_of

# These add up to a worker's time, in this order. Other stages in the facts run in parallel.
STAGES = ("read", "decode", "dct", "model", "rows")
_TIME_BINS = 40
_THREADS = 4


@dataclass(frozen=True, slots=True)
class PartTimes:
    """One part's number of rows and its times. began_at: seconds since the epoch, if known."""

    rows: int
    began_at: float | None
    seconds: tuple[float, ...]  # of each of STAGES

    @property
    def worked_s(self) -> float:
        return sum(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's parts and facts.

    parts: those that are intact. damaged: name -> what is wrong with it.
    planned_images: in the plan, if it can be read. facts: of the first part; the others have the
    same. devices: number of parts by device and precision.
    """

    parts: list[Path]
    damaged: dict[str, str]
    planned_images: int | None
    facts: dict[str, Any]
    devices: dict[str, int]
    times: list[PartTimes]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.times)


def read_run(output: OutputFolder) -> Run:
    """Read every part's facts."""

    def facts_or_reason(path: Path) -> dict[str, Any] | str:
        try:
            return facts_of(path, path.name)
        except (OSError, ValueError) as error:
            return one_line(error)

    parts, damaged, devices = [], {}, Counter[str]()
    times: list[PartTimes] = []
    first: dict[str, Any] = {}
    found = list_parts(output)
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, facts in zip(found, pool.map(facts_or_reason, found), strict=True):
            if isinstance(facts, str):
                damaged[path.name] = facts
                continue
            parts.append(path)
            times.append(_times(facts))
            devices[f"{facts.get('device')}, {facts.get('precision')}"] += 1
            first = first or facts
    return Run(
        parts=parts,
        damaged=damaged,
        planned_images=_planned_images(output),
        facts=first,
        devices=dict(devices.most_common()),
        times=times,
    )


def _planned_images(output: OutputFolder) -> int | None:
    try:
        return Plan(output).num_images
    except OutputError:
        return None


def _times(facts: dict[str, Any]) -> PartTimes:
    seconds = facts.get("seconds", {})
    return PartTimes(
        facts["num_rows"], facts.get("began_at"), tuple(seconds.get(s, 0.0) for s in STAGES)
    )


def stage_totals(times: Sequence[PartTimes]) -> list[Row]:
    """Each stage's time, summed over the workers: {"stage", "seconds", "share", "ms_per_image"}."""
    seconds = np.sum([part.seconds for part in times], axis=0) if times else np.zeros(len(STAGES))
    rows = max(sum(part.rows for part in times), 1)
    total = max(float(seconds.sum()), 1e-9)
    return [
        {"stage": stage, "seconds": s, "share": s / total, "ms_per_image": 1000 * s / rows}
        for stage, s in zip(STAGES, seconds.tolist(), strict=True)
    ]


def timeline(times: Sequence[PartTimes]) -> list[Row]:
    """Speed and stages over the run: {"from_s", "to_s", "images_per_s", one share per stage}.

    Times in which nothing was labelled, as between an interrupted run and its continuation, are
    left out. A part's images and seconds are spread evenly over the time it took. Empty when the
    parts do not contain their start times.
    """
    if not times or any(part.began_at is None for part in times):
        return []
    began = np.array([part.began_at for part in times])  # (P,) seconds
    ended = began + np.maximum([part.worked_s for part in times], 1e-3)
    start, stop = _without_pauses(began, ended)
    edges = np.linspace(0, stop.max(), _TIME_BINS + 1)
    inside = np.minimum(stop[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
    share = np.maximum(inside, 0) / (stop - start)[:, None]  # (P, bins), rows add up to 1
    images = np.array([part.rows for part in times]) @ share
    seconds = np.array([part.seconds for part in times]).T @ share  # (stages, bins)
    per_stage = seconds / np.maximum(seconds.sum(0), 1e-12)
    return [
        {
            "from_s": float(edges[k]),
            "to_s": float(edges[k + 1]),
            "images_per_s": float(images[k] / (edges[1] - edges[0])),
            **{stage: float(per_stage[i, k]) for i, stage in enumerate(STAGES)},
        }
        for k in range(_TIME_BINS)
    ]


def _without_pauses(began: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) start and end times -> the same on a clock that stops while no part is in work."""
    order = np.argsort(began)
    busy_until = np.maximum.accumulate(ended[order])
    pauses = np.maximum(began[order][1:] - busy_until[:-1], 0)
    paused = np.concatenate([[0.0], np.cumsum(pauses)]) + began.min()  # before each part
    before = np.empty_like(paused)
    before[order] = paused
    return began - before, ended - before
