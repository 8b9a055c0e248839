"""Ray is started quietly, and what keeps it from starting is said in one line."""

import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import ray
from servers import WebServer

import jobs.cluster
from jobs.cluster import _connect, _threads_ended, check_address, cluster, run_shards
from jobs.labelling.workers import label_shards
from jobs.pool import ClusterError, Pool
from jobs.settings import LabelSettings


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:  # finding out for real takes Ray a minute
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(jobs.cluster.ray, "init", refuse)
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster at 'auto'.*--address local"),
        cluster("auto"),
    ):
        pass


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_cluster_is_named_at_once(scheme: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"  # taken, but nobody listens
        with (
            pytest.raises(ClusterError, match=rf"'{address}' \(Connection refused\): start"),
            cluster(address),
        ):
            pass


def test_a_port_of_rays_that_is_not_ray_clients_is_told_at_once() -> None:
    server = grpc.server(ThreadPoolExecutor(1))  # as the GCS, which knows other methods
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ClusterError, match=rf"port 10001 .*--address 127.0.0.1:{port}$"):
            check_address(f"ray://127.0.0.1:{port}")
    finally:
        server.stop(None)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_dashboards_port_is_no_clusters(scheme: str) -> None:
    web = WebServer({})
    with web.running():
        address = scheme + web.url.removeprefix("http://")
        with pytest.raises(ClusterError, match=r"a web server answers at.*HOST:6379"):
            _connect({"address": address})


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "10.0.0.1", "10.0.0.1:port", "none", "ray://10.0.0.1"]
)
def test_what_is_no_address_is_refused_with_those_that_are(address: str) -> None:
    with (
        pytest.raises(ClusterError, match=rf"'{address}' is not .*: use local, auto, HOST:6379 or"),
        cluster(address),
    ):
        pass


def test_a_cluster_that_refuses_gives_its_whole_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError(
            "Version mismatch: the cluster has\n    Ray: 2.1\nthis process\n    Ray: 3"
        )

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"'{address}': Version .* Ray: 2.1 this .* Ray: 3$"):
            _connect({"address": address})


@pytest.mark.parametrize(("failures", "calls"), [(2, 3), (9, 3)])
def test_a_local_start_that_times_out_is_tried_again(
    failures: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def init(**_: Any) -> None:
        assert all(process.wait(10) for process in made), "the last start's processes live"
        made.append(subprocess.Popen(["sleep", "100"]))
        if len(made) <= failures:
            raise Exception("The current node timed out during startup.")  # Ray's own type

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    if failures < calls:
        _connect({"address": "local"})
    else:
        with pytest.raises(ClusterError, match="did not start: The current node timed out"):
            _connect({"address": "local"})
    assert len(made) == calls
    made[-1].kill()
    made[-1].wait()


class Echo:
    """A worker that has nothing to do."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"record": [json.dumps({"shard": int(batch["shard"][0])})]}


def test_a_run_that_is_broken_off_leaves_no_thread_that_might_use_ray(address: str) -> None:
    """Ray ends the process of one that does so after `ray.shutdown`."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pool = Pool(num_workers=1, max_workers=1, num_cpus=1, num_gpus=0)
    with cluster(address):
        before = set(threading.enumerate())
        records = run_shards(range(9), Echo, {}, pool, shards_at_once=2)
        assert next(records)["shard"] in range(9)
        records.close()
        left = {thread.name for thread in set(threading.enumerate()) - before}
    assert left <= {"data-usage-metrics-poller"}


def test_slow_threads_are_waited_for_but_not_endless_ones() -> None:
    """Ray Data waits two seconds for its own, which on a busy machine may not be enough."""
    ended = threading.Event()
    slow = threading.Thread(target=time.sleep, args=(0.2,))
    endless = threading.Thread(target=ended.wait, name="data-usage-metrics-poller")
    with _threads_ended():
        slow.start()
        endless.start()
    assert not slow.is_alive()
    assert endless.is_alive()
    ended.set()


class Failing:
    """A worker whose shards all fail."""

    def __init__(self, **_: object) -> None: ...

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        record = {"shard": int(batch["shard"][0]), "started_at": 0.0, "error": "no"}
        return {"record": [json.dumps(record)]}


@pytest.mark.parametrize("ending", ["interrupted", "hopeless"])
def test_a_run_that_is_broken_off_has_left_ray_data_before_ray(
    address: str, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("jobs.labelling.workers._MOST_FAILED_IN_A_ROW", 1)
    monkeypatch.setattr("jobs.labelling.workers.ShardLabeler", Failing)
    monkeypatch.setattr("jobs.labelling.workers._witness", lambda *_: None)
    left: list[str] = []
    shutdown = ray.shutdown

    def noted() -> None:
        left.extend(thread.name for thread in threading.enumerate())
        shutdown()

    monkeypatch.setattr(ray, "shutdown", noted)
    settings = LabelSettings(input="photos", output="out", address=address, workers=1)
    run = {"run_id": "run", "model": None}
    commits = label_shards(settings, run, range(40), "driver")
    if ending == "interrupted":
        assert next(commits).error == "no"
        commits.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(ClusterError, match="5 shards failed in a row, the last with: no"):
            list(commits)
    assert left
    assert not [name for name in left if name.startswith(("StreamingExecutor", "ray-data"))]
