"""Shards handed to a pool of Ray actors, each the worker of a run in a process of its own.

A shard whose worker dies, alone or with its node, is handed to another, and a new worker takes the
dead one's place as soon as the cluster has room for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from jobs.cluster import root_cause
from jobs.log import say
from jobs.pool import CONTINUES, ClusterError, Pool

# Attempts at a shard are counted by the workers. This is for one that dies before it can count.
_MOST_LOST_WORKERS = 10
_FAILED_STARTS_BEYOND_POOL = 3
_RAY_LOGS = "/tmp/ray/session_latest/logs"


def run_shards(
    shards: Iterable[int],
    worker: type,
    arguments: dict[str, Any],
    pool: Pool,
    *,
    shards_at_once: int,
    set_aside: Callable[[int, str], Any],
) -> Generator[Any, None, None]:
    """Yield what `worker(**arguments).label_or_exit(shard)` returns for each shard, as they end.

    worker: has `ready()`, which returns when it can label; its methods are called by
    `shards_at_once` threads.
    set_aside: shard, reason -> what is yielded for a shard that has cost too many workers.
    Raises ClusterError when no worker can be started, or a worker raises.
    """
    actors = _ActorPool(worker, arguments, pool, shards_at_once)
    try:
        yield from actors.run(deque(shards), set_aside)
    except ray.exceptions.RayError as error:
        reason = root_cause(error)
        if _is_in_constructor(error):  # `worker` itself raises nothing when it is made
            reason += ": every node needs this package, in the same version as the driver's"
        raise ClusterError(reason) from error


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of an actor's that has not ended. shard: None while the actor starts."""

    actor: Any
    shard: int | None


class _ActorPool:
    def __init__(
        self, worker: type, arguments: dict[str, Any], pool: Pool, shards_at_once: int
    ) -> None:
        actor_class: Any = ray.remote(worker)
        self._actor_class = actor_class.options(
            num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_concurrency=shards_at_once
        )
        self._arguments = arguments
        self._pool = pool
        self._shards_at_once = shards_at_once
        self._room: dict[Any, int] = {}  # actor that has started -> shards that it could take
        self._calls: dict[Any, _Call] = {}
        self._failed_starts = 0  # since the last that succeeded
        self._most_failed_starts = pool.max_workers + _FAILED_STARTS_BEYOND_POOL

    def run(
        self, waiting: deque[int], set_aside: Callable[[int, str], Any]
    ) -> Generator[Any, None, None]:
        workers_lost = Counter[int]()  # by the shard that they had in hand
        while waiting or any(call.shard is not None for call in self._calls.values()):
            self._start_actors(len(waiting))
            self._hand_out(waiting)
            (ended, *_), _ = ray.wait(list(self._calls))
            call = self._calls.pop(ended)
            try:
                result = ray.get(ended)
            except ray.exceptions.RayTaskError:  # raised by the worker
                raise
            except ray.exceptions.RayError as error:
                self._forget(call, error)
                if call.shard is None:
                    continue
                workers_lost[call.shard] += 1
                if (lost := workers_lost[call.shard]) < _MOST_LOST_WORKERS:
                    waiting.appendleft(call.shard)
                else:
                    yield set_aside(call.shard, f"{lost} workers died while they had it in hand")
                continue
            if call.shard is None:
                self._room[call.actor] = self._shards_at_once
                self._failed_starts = 0
                continue
            if call.actor in self._room:
                self._room[call.actor] += 1
            yield result

    def _start_actors(self, wanted: int) -> None:
        """Start what the pool lacks. What does not fit waits in Ray's queue until it does.

        No more wait there than have started already: a pool that may grow far grows in steps.
        """
        starting = sum(call.shard is None for call in self._calls.values())
        most = min(
            self._pool.max_workers - len(self._room),
            max(self._pool.num_workers, len(self._room)),
            wanted,
            self._most_failed_starts - self._failed_starts,
        )
        for _ in range(most - starting):
            actor = self._actor_class.remote(**self._arguments)
            self._calls[actor.ready.remote()] = _Call(actor, None)

    def _hand_out(self, waiting: deque[int]) -> None:
        """Give the shards to the actors that have most room, as far as there is any."""
        while waiting and self._room:
            actor = max(self._room, key=self._room.__getitem__)
            if not self._room[actor]:
                break
            shard = waiting.popleft()
            self._room[actor] -= 1
            self._calls[actor.label_or_exit.remote(shard)] = _Call(actor, shard)

    def _forget(self, call: _Call, error: ray.exceptions.RayError) -> None:
        """An actor has died. Raises where no other is left and none can be started."""
        why = "with its node" if "node has died" in str(error) else "perhaps for want of memory"
        if call.shard is not None:
            if self._room.pop(call.actor, None) is not None:
                say(f"a worker died, {why}; its shards go to another")
            return
        if _is_in_constructor(error):
            raise error
        self._failed_starts += 1
        say(f"a worker died while it started, {why}")
        if self._failed_starts == self._most_failed_starts and not self._room:
            raise ClusterError(
                f"{self._failed_starts} workers in a row died while they started; Ray's logs, under"
                f" {_RAY_LOGS} on their nodes, may say why{CONTINUES}"
            )


def _is_in_constructor(error: BaseException) -> bool:
    """Whether an actor died because its class could not be loaded or made."""
    return isinstance(error, ray.exceptions.ActorDiedError) and "creation task" in str(error)
