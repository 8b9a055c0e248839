"""Every shard is labelled once by some worker of the pool, whatever happens to the workers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import jobs.labelling.actors
from jobs.cluster import cluster
from jobs.labelling.actors import run_shards
from jobs.pool import ClusterError, Pool

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ONE = Pool(num_workers=1, max_workers=1, num_cpus=1, num_gpus=0)
TWO = Pool(num_workers=2, max_workers=2, num_cpus=1, num_gpus=0)


class Echo:
    """A worker that has nothing to do but to say who it is."""

    def ready(self) -> None: ...

    def label_or_exit(self, shard: int) -> tuple[int, int]:
        return shard, os.getpid()


class Together(Echo):
    """Each shard ends when all of `number` are in hand somewhere."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number

    def label_or_exit(self, shard: int) -> tuple[int, int]:
        (self._folder / str(shard)).touch()
        while len(list(self._folder.iterdir())) < self._number:
            time.sleep(0.01)
        return super().label_or_exit(shard)


class Mortal(Echo):
    """Its process ends at a shard of `deadly`: each time, or once for all where `once` is."""

    def __init__(self, deadly: Iterable[int], once: Path | None = None) -> None:
        self._deadly, self._once = deadly, once

    def label_or_exit(self, shard: int) -> tuple[int, int]:
        if shard in self._deadly:
            if self._once is None:
                os._exit(1)
            try:
                (self._once / str(shard)).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os._exit(1)
        return super().label_or_exit(shard)


class Stillborn(Echo):
    """Its process ends before it can label; `failures` times in all."""

    def __init__(self, folder: Path, failures: int) -> None:
        born = len(list(folder.iterdir()))
        if born < failures:
            (folder / str(born)).touch()
            os._exit(1)


class Unmakable(Echo):
    def __init__(self) -> None:
        raise ModuleNotFoundError("No module named 'afd_model'")


class Faulty(Echo):
    def label_or_exit(self, shard: int) -> tuple[int, int]:
        raise ValueError(f"shard {shard} is a defect of ours")


def records(
    address: str,
    worker: type,
    pool: Pool = TWO,
    shards: int = 9,
    at_once: int = 2,
    **arguments: Any,
) -> Iterator[Any]:
    with cluster(address):
        yield from run_shards(
            range(shards),
            worker,
            arguments,
            pool,
            shards_at_once=at_once,
            set_aside=lambda shard, why: (shard, why),
        )


def test_each_shard_is_labelled_once(address: str) -> None:
    found = list(records(address, Echo, shards=40))
    assert sorted(shard for shard, _ in found) == list(range(40))
    assert len({pid for _, pid in found}) == 2


def test_every_worker_has_as_many_shards_in_hand_as_it_may(address: str, tmp_path: Path) -> None:
    found = list(records(address, Together, shards=4, folder=tmp_path, number=4))
    pids = [pid for _, pid in found]
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]


def test_the_shards_of_a_worker_that_died_go_to_others(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "afd")
    found = list(records(address, Mortal, deadly=(0, 4, 8), once=tmp_path))
    assert sorted(shard for shard, _ in found) == list(range(9))
    assert len(list(tmp_path.iterdir())) == 3
    died = "a worker died, perhaps for want of memory; its shards go to another"
    assert caplog.messages.count(died) == 3


def test_a_shard_that_costs_many_workers_is_set_aside(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.labelling.actors, "_MOST_LOST_WORKERS", 2)
    found = dict(records(address, Mortal, ONE, at_once=1, deadly=(3,)))
    assert sorted(found) == list(range(9))
    assert found.pop(3) == "2 workers died while they had it in hand"
    assert all(isinstance(pid, int) for pid in found.values())


def test_a_worker_that_dies_as_it_starts_is_started_again(address: str, tmp_path: Path) -> None:
    found = list(records(address, Stillborn, ONE, folder=tmp_path, failures=2))
    assert sorted(shard for shard, _ in found) == list(range(9))


def test_when_no_worker_starts_the_run_ends(address: str, tmp_path: Path) -> None:
    with pytest.raises(
        ClusterError, match=r"^4 workers in a row died while they started;.* continues the run"
    ):
        list(records(address, Stillborn, ONE, folder=tmp_path, failures=99))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_worker_that_cannot_be_made_says_what_the_node_lacks(address: str) -> None:
    with pytest.raises(ClusterError, match="No module named 'afd_model': every node needs"):
        list(records(address, Unmakable))


def test_a_defect_of_a_worker_ends_the_run_with_its_error(address: str) -> None:
    with pytest.raises(ClusterError, match=r"ValueError: shard \d is a defect of ours"):
        list(records(address, Faulty))


def test_a_pool_grows_as_the_cluster_does_and_shrinks_with_it(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        pool = Pool(num_workers=1, max_workers=3, num_cpus=1, num_gpus=0)
        running = records(nodes.address, Together, pool, 4, 1, folder=tmp_path, number=2)
        second = nodes.add_node(num_cpus=1)  # without which no shard would ever end
        first = next(running)
        nodes.remove_node(second, allow_graceful=False)
        found = dict([first, *running])
    finally:
        nodes.shutdown()
    assert sorted(found) == list(range(4))
