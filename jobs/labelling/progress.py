"""Shows a run's progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any, Literal, Self

import rich.progress
from rich.console import Console

from jobs.labelling.messages import CommitRecord
from jobs.log import is_json, say
from jobs.quantities import duration
from pipeline.error_text import printable
from pipeline.shards import part_name

_PLAIN_INTERVAL_S = 10.0

Style = Literal["auto", "bar", "plain", "off"]


class Progress:
    """Counts images as shards are committed. Use as a context manager.

    total: images of the run. done: how many of them an earlier run has labelled.
    """

    def __init__(self, total: int, done: int, style: Style) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() and not is_json() else "plain"
        self._style = style
        self._total, self._done, self._bad = total, done, 0
        self._started_done = done
        self._noticed: set[str] = set()
        self._started = math.inf
        self._printed = time.monotonic()
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Self:
        if self._style == "bar":
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("images {task.fields[text]}"),
                rich.progress.TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=self._total, completed=self._done, text="")
            self._bar.start()
        elif self._style == "plain":
            self._say(f"{self._total - self._done} images to label")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, images: int, record: CommitRecord) -> None:
        """Count the images of a shard that was committed; show a worker's notice once.

        images: in the shard.
        """
        _log_shard(record)
        if record.error is None:
            self._done += images
            self._bad += images - record.counts["ok"]
        if record.notice is not None and record.notice not in self._noticed:
            self._noticed.add(record.notice)
            self._say(record.notice)
        # The speed is measured from the first shard's start, so without the start-up time.
        self._started = min(self._started, time.monotonic() - record.spent_s)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=self._pace())
        now = time.monotonic()
        finished = self._done == self._total
        if self._style == "plain" and (finished or now - self._printed > _PLAIN_INTERVAL_S):
            self._printed = now
            self._say(
                f"{self._done}/{self._total} images, {self._pace()}",
                done=self._done,
                total=self._total,
                bad=self._bad,
                images_per_s=round(self._rate(), 2),
            )

    def _rate(self) -> float:
        return (self._done - self._started_done) / max(time.monotonic() - self._started, 1e-9)

    def _pace(self) -> str:
        rate = self._rate()
        left = (self._total - self._done) / rate if rate else 0.0
        return f"{rate:.1f} images/s, {duration(left)} left, {self._bad} bad"

    def _say(self, line: str, **fields: Any) -> None:
        if self._bar is not None:
            shown = printable(line)
            self._bar.console.print(shown, markup=False, emoji=False, highlight=False)  # above it
        else:
            say(line, **fields)


def _log_shard(commit: CommitRecord) -> None:
    """One line at debug level: what a shard contained, and the seconds it took."""
    name = part_name(commit.shard)
    seconds = {stage: round(spent_s, 3) for stage, spent_s in commit.seconds.items()}
    fields = {"part": name, "counts": commit.counts, "seconds": seconds, "error": commit.error}
    found = ", ".join(f"{count} {status}" for status, count in commit.counts.items() if count)
    spent = ", ".join(f"{stage} {spent_s} s" for stage, spent_s in seconds.items())
    line = f"{name}: {commit.error or found}" + (f" ({spent})" if spent else "")
    say(line, level=logging.DEBUG, **fields)
