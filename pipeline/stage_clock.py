"""Where the time of a shard goes: seconds per stage, each second counted once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Item = TypeVar("_Item")


class StageClock:
    """Exclusive seconds per stage of one thread: an inner stage stops the clock of the outer one.

    So the stages add up to the time between the first start and the last stop.

    now: what is counted, in seconds; `time.thread_time` counts the thread's processor time. None:
        the time that passes.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now or time.perf_counter
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def iterate(self, name: str, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, with the time it takes to get each counted as `name`."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _switch(self) -> None:
        now = self._now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
