"""Runs shards on a pool of Ray actors.

Ray Data could do this too. It would need 3 s more to start, on two cores, and 5 ms more per shard.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from jobs.cluster import logs_folder, root_cause
from jobs.exits import SAME_COMMAND_CONTINUES
from jobs.labelling.messages import CommitRecord
from jobs.log import say
from jobs.pool import ClusterError, Pool
from jobs.quantities import duration
from pipeline.error_text import one_line
from pipeline.shards import part_name

# Workers count the attempts at a shard. This limit is for workers that die before they can count.
_MAX_LOST_WORKERS = 10  # per shard
_MAX_FAILED_STARTS = 3  # in a row; plus one for each worker of the pool
_MEMORY_OF_NODE = re.compile(r"the node \((IP: [^,)]+).*?(was \S+ used / \S+ limit)")
# Until the driver says for what it waits. A shard may take minutes, the first also loads the model.
_PATIENCE_S, _FIRST_PATIENCE_S, _MAX_PATIENCE_S = 120.0, 300.0, 1800.0
_NAMED_WORKERS = 3


def run_shards(
    shards: Iterable[int], worker: type, config: Any, pool: Pool, *, shards_at_once: int
) -> Generator[CommitRecord, None, None]:
    """Label each shard on one of the pool's workers; yields the records as they end.

    worker: the actors' class. `worker(config)` must not raise; `ready()` returns when it can label,
        with the name of its process for the user; `label_or_exit(shard)` returns the record, and
        is called from `shards_at_once` threads.
    When a process or a node dies, its shards are given to other workers, and new workers start as
    soon as the cluster has room for them.
    Raises ClusterError when no worker can be started, a worker raises or the cluster is lost.
    """
    actors = _ActorPool(worker, config, pool, shards_at_once)
    try:
        yield from actors.run(deque(shards))
    except ray.exceptions.RayError as error:
        reason = root_cause(error)
        if _failed_in_constructor(error):
            reason += ": every node needs this package, in the same version as the driver's"
        raise ClusterError(reason) from error
    except _client_errors() as error:
        raise ClusterError(f"the connection to the cluster was lost: {_lost(error)}") from error


def _client_errors() -> tuple[type[BaseException], ...]:
    """Of Ray Client whose server is lost: it hands on gRPC's errors of some calls."""
    grpc = sys.modules.get("grpc")  # imported by Ray Client where it is used
    return (ConnectionError, grpc.RpcError) if grpc else (ConnectionError,)


def _lost(error: BaseException) -> str:
    """Why, in one line. gRPC's own text, which Ray Client also puts into its errors, has many."""
    for cause in (error, error.__cause__, error.__context__):
        if details := getattr(cause, "details", None):
            return one_line(details() or "")
    return root_cause(error)


@dataclass(frozen=True, slots=True)
class _Call:
    """A pending call of an actor. shard: None for `ready()`."""

    actor: Any
    shard: int | None


class _ActorPool:
    def __init__(self, worker: type, config: Any, pool: Pool, shards_at_once: int) -> None:
        actor_class: Any = ray.remote(worker)
        self._actor_class = actor_class.options(
            num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_concurrency=shards_at_once
        )
        self._config = config
        self._pool = pool
        self._shards_at_once = shards_at_once
        self._free_slots: dict[Any, int] = {}  # ready actor -> shards that it can still take
        self._processes: dict[Any, str] = {}  # of the ready actors, as the user can find them
        self._calls: dict[Any, _Call] = {}  # by the reference to their result
        self._longest_s: float | None = None  # of a shard
        self._lost_workers = Counter[int]()  # by the shard that they were labelling
        self._failed_starts = 0  # in a row
        self._max_failed_starts = pool.max_workers + _MAX_FAILED_STARTS

    def run(self, waiting: deque[int]) -> Generator[CommitRecord, None, None]:
        while waiting or any(call.shard is not None for call in self._calls.values()):
            self._start_actors(len(waiting))
            self._assign(waiting)
            self._release_idle()
            if not self._calls:
                raise ClusterError(
                    f"{self._failed_starts} workers in a row died while they started; Ray's logs in"
                    f" {logs_folder()} on their nodes may say why{SAME_COMMAND_CONTINUES}"
                )
            record = self._next_record(waiting)
            if record is not None:
                yield record

    def _next_record(self, waiting: deque[int]) -> CommitRecord | None:
        """Wait until a call ends; returns its record, if it labelled a shard or gave it up.

        The shard of a worker that died is put back among those that are waiting.
        """
        ended = self._next_ended()
        call = self._calls.pop(ended)
        try:
            result: CommitRecord | str = ray.get(ended)
        except ray.exceptions.RayTaskError:  # the worker raised: a defect
            raise
        except ray.exceptions.RayError as error:
            self._remove(call, error)
            if call.shard is None:
                return None
            self._lost_workers[call.shard] += 1
            if (lost := self._lost_workers[call.shard]) >= _MAX_LOST_WORKERS:
                died = f"{lost} workers died while they labelled it"
                return CommitRecord(call.shard, 0.0, error=died)
            waiting.appendleft(call.shard)
            return None
        if isinstance(result, str):
            self._free_slots[call.actor] = self._shards_at_once
            self._processes[call.actor] = result
            self._failed_starts = 0
            return None
        if call.actor in self._free_slots:
            self._free_slots[call.actor] += 1
        self._longest_s = max(self._longest_s or 0.0, result.spent_s)
        return result

    def _next_ended(self) -> Any:
        """Wait until a call ends. Says so after a while, and whenever that has doubled."""
        began, wait_s = time.monotonic(), _patience_s(self._longest_s)
        while True:
            ended, _ = ray.wait(list(self._calls), timeout=wait_s)
            if ended:
                return ended[0]
            wait_s = time.monotonic() - began
            say(f"nothing was labelled for {duration(wait_s)}: {self._awaited()}")

    def _awaited(self) -> str:
        labelling = defaultdict[str, list[int]](list)
        for call in self._calls.values():
            if call.shard is not None:
                process = self._processes.get(call.actor, "a worker that died")
                labelling[process].append(call.shard)
        if not labelling:
            count = self._num_starting()
            return f"{count} worker{' has' if count == 1 else 's have'} not started yet"
        return (
            f"{_at_work(labelling)}; if one hangs, as on a disk that does not answer, end it with"
            " kill -9: others label its shards"
        )

    def _start_actors(self, num_waiting: int) -> None:
        """Start the actors that the pool lacks. Ray queues those that do not fit yet.

        At most as many start at once as are ready: a pool that can become large grows in steps.
        """
        wanted = min(
            num_waiting,
            self._pool.max_workers - len(self._free_slots),
            max(self._pool.num_workers, len(self._free_slots)),
            self._max_failed_starts - self._failed_starts,
        )
        for _ in range(wanted - self._num_starting()):
            actor = self._actor_class.remote(self._config)
            self._calls[actor.ready.remote()] = _Call(actor, None)

    def _num_starting(self) -> int:
        return sum(call.shard is None for call in self._calls.values())

    def _assign(self, waiting: deque[int]) -> None:
        """Give shards to the actors with the most free slots, until there is none.

        Only the first shard of an actor is labelled at once; others may wait for an actor that is
        starting, and would lie in a queue of one that is busy while that one finds nothing to do.
        """
        starting = self._num_starting()
        while waiting and self._free_slots:
            actor = max(self._free_slots, key=self._free_slots.__getitem__)
            slots = self._free_slots[actor]
            if not slots or (slots < self._shards_at_once and len(waiting) <= starting):
                break
            shard = waiting.popleft()
            self._free_slots[actor] -= 1
            self._calls[actor.label_or_exit.remote(shard)] = _Call(actor, shard)

    def _release_idle(self) -> None:
        """End the actors without a shard: none waits for them, and other jobs can use their room.

        Also, nobody hears that an actor without a pending call has died. A shard that has to be
        labelled again would be given to one dead actor after another, and then be given up.
        """
        for actor, slots in tuple(self._free_slots.items()):
            if slots == self._shards_at_once:
                del self._free_slots[actor], self._processes[actor]

    def _remove(self, call: _Call, error: ray.exceptions.RayError) -> None:
        """Remove an actor that died. Raises when none of its class can be created."""
        if call.shard is not None:
            self._processes.pop(call.actor, None)
            if self._free_slots.pop(call.actor, None) is not None:  # the first of its calls to fail
                others = "other workers label its shards"
                rest = others if self._free_slots else "its shards wait until another one starts"
                say(f"a worker died, {_why_it_died(error)}; {rest}")
            return
        if _failed_in_constructor(error) or isinstance(error, ray.exceptions.RuntimeEnvSetupError):
            raise error
        self._failed_starts += 1
        say(f"a worker died while it started, {_why_it_died(error)}")


def _patience_s(longest_s: float | None) -> float:
    """How long to wait for a shard without a word.

    longest_s: how long one has taken so far; None: none has ended yet.
    """
    if longest_s is None:
        return _FIRST_PATIENCE_S
    return min(max(_PATIENCE_S, 4 * longest_s), _MAX_PATIENCE_S)


def _at_work(labelling: Mapping[str, Sequence[int]]) -> str:
    """labelling: the shards of each worker, by the name of its process."""
    workers = [
        f"{' and '.join(map(part_name, shards))} in {process}"
        for process, shards in labelling.items()
    ]
    more = len(workers) - _NAMED_WORKERS
    others = [f"and {more} more worker{'' if more == 1 else 's'}"] if more > 0 else []
    return ", ".join([*workers[:_NAMED_WORKERS], *others])


def _why_it_died(error: ray.exceptions.RayError) -> str:
    if not isinstance(error, ray.exceptions.OutOfMemoryError):
        return "perhaps because memory ran out or its node was lost"  # Ray often knows no more
    found = _MEMORY_OF_NODE.search(str(error))
    node = f": {' '.join(found.groups())}" if found else ""
    return f"because Ray found its node short of memory{node}; give workers more --cpus-per-worker"


def _failed_in_constructor(error: BaseException) -> bool:
    """Whether an actor died because its class could not be imported or created."""
    return isinstance(error, ray.exceptions.ActorDiedError) and "creation task" in str(error)
