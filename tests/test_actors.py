"""Every shard is labelled once by some worker of the pool, whatever happens to the workers."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.client.worker import decode_exception

import jobs.labelling.actors
from jobs.cluster import cluster
from jobs.labelling.actors import run_shards
from jobs.labelling.messages import CommitRecord
from jobs.pool import ClusterError, Pool

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ONE = Pool(num_workers=1, max_workers=1, num_cpus=1, num_gpus=0)
TWO = Pool(num_workers=2, max_workers=2, num_cpus=1, num_gpus=0)

DIED = "a worker died, perhaps because memory ran out or its node was lost; "


class Echo:
    """A worker that has nothing to do. It calls its process its model."""

    def __init__(self, config: Any) -> None: ...

    def ready(self) -> str:
        return f"process {os.getpid()} on node-7"

    def label_or_exit(self, shard: int) -> CommitRecord:
        return CommitRecord(shard, 0.0, model={"pid": os.getpid()})


class Together(Echo):
    """No shard ends before 2 or 4 of them (`number`) are being labelled somewhere."""

    def __init__(self, config: tuple[Path, int]) -> None:
        self._folder, self._number = config

    def label_or_exit(self, shard: int) -> CommitRecord:
        (self._folder / str(shard)).touch()
        while len(list(self._folder.iterdir())) < self._number:
            time.sleep(0.01)
        return super().label_or_exit(shard)


class Survivor(Echo):
    """Shard 0 does not end before the process that labelled shard 1 has ended."""

    def __init__(self, config: Path) -> None:
        self._other = config / "other"

    def label_or_exit(self, shard: int) -> CommitRecord:
        if shard == 1:
            self._other.write_text(str(os.getpid()))
        deadline = time.monotonic() + 30
        while shard == 0 and time.monotonic() < deadline:
            if self._other.exists() and not psutil.pid_exists(int(self._other.read_text())):
                return super().label_or_exit(shard)
            time.sleep(0.05)
        return CommitRecord(shard, 0.0, error=None if shard else "the other still runs")


class Mortal(Echo):
    """Its process ends at each of the shards: every time, or once where there is a folder."""

    def __init__(self, config: tuple[tuple[int, ...], Path | None]) -> None:
        self._deadly, self._once = config

    def label_or_exit(self, shard: int) -> CommitRecord:
        if shard in self._deadly:
            if self._once is None:
                os._exit(1)
            died = self._once / str(shard)
            if not died.exists():
                died.touch()
                os._exit(1)
        return super().label_or_exit(shard)


class Stillborn(Echo):
    """Its process ends before it can label, so many times in all."""

    def __init__(self, config: tuple[Path, int]) -> None:
        folder, failures = config
        born = len(list(folder.iterdir()))
        if born < failures:
            (folder / str(born)).touch()
            os._exit(1)


class Sole(Echo):
    """The first of its kind; others end before they can label. It ends after `failures` of them."""

    def __init__(self, config: tuple[Path, int]) -> None:
        self._folder, self._failures = config
        born = len(list(self._folder.iterdir()))
        (self._folder / str(born)).touch()
        if born:
            os._exit(1)

    def label_or_exit(self, shard: int) -> CommitRecord:
        while len(list(self._folder.iterdir())) <= self._failures:
            time.sleep(0.01)
        time.sleep(1)  # until the driver knows of the last failure
        os._exit(1)


class Frail(Mortal):
    """Every other of its processes ends before it can label, and one at shard 4."""

    def __init__(self, folder: Path) -> None:
        born = len(list(folder.glob("start-*")))
        (folder / f"start-{born}").touch()
        if born % 2 == 0:
            os._exit(1)
        super().__init__(((4,), folder))


class Stuck(Echo):
    """Shard 1 does not end before the driver has said that it waits (a file says so)."""

    def __init__(self, config: Path) -> None:
        self._said = config

    def label_or_exit(self, shard: int) -> CommitRecord:
        while shard == 1 and not self._said.exists():
            time.sleep(0.01)
        return super().label_or_exit(shard)


class Unmakable(Echo):
    def __init__(self, config: Any) -> None:
        raise ModuleNotFoundError("No module named 'afd_model'")


class Faulty(Echo):
    def label_or_exit(self, shard: int) -> CommitRecord:
        raise ValueError(f"shard {shard} is a defect of ours")


def records(
    address: str,
    worker: type,
    config: Any = None,
    pool: Pool = TWO,
    shards: int = 9,
    at_once: int = 2,
) -> Iterator[CommitRecord]:
    with (
        cluster(address),
        closing(run_shards(range(shards), worker, config, pool, shards_at_once=at_once)) as found,
    ):
        yield from found


def shards_of(found: Iterable[CommitRecord]) -> list[int]:
    return sorted(record.shard for record in found)


def test_each_shard_is_labelled_once(address: str) -> None:
    assert shards_of(records(address, Echo, shards=40)) == list(range(40))


def test_every_worker_labels_as_many_shards_at_once_as_it_may(address: str, tmp_path: Path) -> None:
    pids = Counter(
        record.model["pid"] for record in records(address, Together, (tmp_path, 4), shards=4)
    )
    assert list(pids.values()) == [2, 2]


def test_no_shard_waits_for_a_busy_worker_while_another_starts(
    address: str, tmp_path: Path
) -> None:
    """The first that is ready would take them all."""
    pids = {record.model["pid"] for record in records(address, Together, (tmp_path, 2), shards=2)}
    assert len(pids) == 2


def test_why_a_worker_died_is_said_where_ray_knows() -> None:
    words = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node"
        " (IP: 192.0.2.2, ID: c5cf) was 22.9GB used / 23.5GB limit (0.97)\nOOM kill reason: ..."
    )
    assert jobs.labelling.actors._why_it_died(ray.exceptions.OutOfMemoryError(words)) == (
        "because Ray found its node short of memory: IP: 192.0.2.2 was 22.9GB used / 23.5GB limit;"
        " give workers more --cpus-per-worker"
    )
    other = ray.exceptions.OutOfMemoryError("words of another release of Ray")
    assert "short of memory; give" in jobs.labelling.actors._why_it_died(other)


def test_a_worker_is_ended_when_no_shard_is_left_for_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold its GPU, and nobody would hear that it died before a shard is given to it."""
    call, starts = jobs.labelling.actors._Call, []

    def noted_call(actor: Any, shard: int | None) -> Any:
        starts.append(shard)
        return call(actor, shard)

    monkeypatch.setattr(jobs.labelling.actors, "_Call", noted_call)
    found = list(records(address, Survivor, tmp_path, shards=2, at_once=1))
    assert [(record.shard, record.error) for record in found] == [(1, None), (0, None)]
    assert starts.count(None) == 2  # and none is started in its place


def test_a_run_that_is_broken_off_leaves_no_thread_that_might_use_ray(address: str) -> None:
    """Ray ends the process of one that does so after `ray.shutdown`."""
    with cluster(address):
        before = set(threading.enumerate())
        found = run_shards(range(9), Echo, None, ONE, shards_at_once=2)
        next(found)
        found.close()
        assert set(threading.enumerate()) <= before


def test_the_shards_of_a_worker_that_died_go_to_others(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "afd")
    found = records(address, Mortal, ((0, 4, 8), tmp_path))
    assert shards_of(found) == list(range(9))
    assert len(list(tmp_path.iterdir())) == 3
    # The other worker may still be starting.
    rest = ("other workers label its shards", "its shards wait until another one starts")
    assert sum(caplog.messages.count(DIED + after) for after in rest) == 3


def test_when_the_only_worker_dies_no_other_is_said_to_go_on(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "afd")
    assert shards_of(records(address, Mortal, ((4,), tmp_path), ONE)) == list(range(9))
    assert caplog.messages == [DIED + "its shards wait until another one starts"]


def test_a_shard_that_costs_many_workers_is_set_aside(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.labelling.actors, "_MAX_LOST_WORKERS", 2)
    found = list(records(address, Mortal, ((3,), None), ONE, at_once=1))
    assert shards_of(found) == list(range(9))
    errors = {record.shard: record.error for record in found if record.error}
    assert errors == {3: "2 workers died while they labelled it"}


def test_a_worker_that_dies_as_it_starts_is_started_again(address: str, tmp_path: Path) -> None:
    found = records(address, Stillborn, (tmp_path, 2), ONE)
    assert shards_of(found) == list(range(9))


def test_only_starts_that_fail_in_a_row_end_the_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.labelling.actors, "_MAX_FAILED_STARTS", 1)  # two in a row
    assert shards_of(records(address, Frail, tmp_path, ONE)) == list(range(9))
    assert len(list(tmp_path.glob("start-*"))) == 4


def test_when_no_worker_starts_the_run_ends(address: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"^4 workers in a row died .* continues the run$"):
        list(records(address, Stillborn, (tmp_path, 99), ONE))
    assert len(list(tmp_path.iterdir())) == 4


def test_when_the_last_worker_dies_and_no_other_starts_the_run_ends(
    address: str, tmp_path: Path
) -> None:
    growing = Pool(num_workers=1, max_workers=2, num_cpus=1, num_gpus=0)
    with pytest.raises(ClusterError, match=r"^5 workers in a row died .* continues the run$"):
        list(records(address, Sole, (tmp_path, 5), growing, at_once=1))


def test_a_worker_that_cannot_be_made_says_what_the_node_lacks(address: str) -> None:
    with pytest.raises(ClusterError, match="No module named 'afd_model': every node needs"):
        list(records(address, Unmakable))


def test_a_defect_of_a_worker_ends_the_run_with_its_error(address: str) -> None:
    with pytest.raises(ClusterError, match=r"ValueError: shard \d is a defect of ours"):
        list(records(address, Faulty))


@pytest.mark.parametrize("decode", [None, decode_exception])
def test_the_loss_of_ray_clients_server_is_one_line(
    decode: Callable[[grpc.RpcError], Exception] | None,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray Client hands on some of gRPC's errors, whose own text has many lines; it wraps others."""

    def wait(*_: object, **__: object) -> None:
        with grpc.insecure_channel("127.0.0.1:1") as channel:
            try:
                channel.unary_unary("/ray.rpc.RayletDriver/WaitObject")(b"")
            except grpc.RpcError as error:
                raise decode(error) if decode else error  # noqa: B904  as Ray Client's worker.py

    monkeypatch.setattr(ray, "wait", wait)
    with pytest.raises(ClusterError, match=r"^the connection to the cluster was lost: .*127.+:1\b"):
        list(records(address, Echo))


def test_what_is_waited_for_is_said_where_a_worker_hangs(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does whose disk is on a network and does not answer: for ever, without a word."""
    lines: list[str] = []

    def noted(line: str, **_: Any) -> None:
        lines.append(line)
        if "part-00001" in line:
            (tmp_path / "said").touch()

    monkeypatch.setattr(jobs.labelling.actors, "say", noted)
    monkeypatch.setattr(jobs.labelling.actors, "_patience_s", lambda longest: 0.2)
    found = list(records(address, Stuck, tmp_path / "said", ONE, shards=3))
    assert shards_of(found) == [0, 1, 2]
    assert re.fullmatch("nothing was labelled for .* s: 1 worker has not started yet", lines[0])
    (pid,) = {record.model["pid"] for record in found}
    assert re.fullmatch(
        rf"nothing was labelled for .* s: part-00001.parquet( and part-00002.parquet)? in process"
        rf" {pid} on node-7; if one hangs, as on a disk that does not answer, end it with kill -9:"
        " others label its shards",
        lines[-1],
    )


def test_of_many_workers_that_hang_a_few_are_named() -> None:
    labelling = {f"process {n} on a": [2 * n, 2 * n + 1] for n in range(9)}
    words = jobs.labelling.actors._at_work(labelling)
    assert words == (
        "part-00000.parquet and part-00001.parquet in process 0 on a,"
        " part-00002.parquet and part-00003.parquet in process 1 on a,"
        " part-00004.parquet and part-00005.parquet in process 2 on a, and 6 more workers"
    )


def test_a_driver_is_patient_with_large_shards() -> None:
    patience = jobs.labelling.actors._patience_s
    assert patience(None) == 300  # nobody knows yet how long a shard takes
    assert [patience(longest) for longest in (1, 100, 10_000)] == [120, 400, 1800]


def test_a_pool_grows_as_the_cluster_does_and_shrinks_with_it(
    head: Cluster, tmp_path: Path
) -> None:
    pool = Pool(num_workers=1, max_workers=3, num_cpus=2, num_gpus=0)  # a worker fills a node
    running = records(head.address, Together, (tmp_path, 2), pool, shards=4, at_once=1)
    second = head.add_node(num_cpus=2)  # without which no shard would ever end
    try:
        first = next(running)
    finally:
        head.remove_node(second, allow_graceful=False)
    assert shards_of([first, *running]) == list(range(4))
