"""Ray is started quietly, and workers are only asked for where they fit."""

import subprocess
from typing import Any

import pytest

import jobs.cluster
from jobs.cluster import ClusterError, Pool, _connect, cluster, make_pool


@pytest.fixture
def resources(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found = {"CPU": 16.0, "GPU": 2.0}
    monkeypatch.setattr(jobs.cluster.ray, "cluster_resources", lambda: found)
    return found


def pool(**changes: Any) -> Pool:
    wanted = {"device": "auto", "workers": None, "cpus_per_worker": None, "num_shards": 100}
    return make_pool(**{**wanted, **changes})


def test_a_worker_for_each_gpu_with_its_share_of_the_cores(resources: dict[str, float]) -> None:
    assert pool() == Pool(num_workers=2, num_cpus=8, num_gpus=1)
    assert pool(num_shards=1).num_workers == 1


def test_a_worker_for_each_core_without_gpus(resources: dict[str, float]) -> None:
    assert pool(device="cpu") == Pool(num_workers=16, num_cpus=1, num_gpus=0)
    assert pool(device="cpu", cpus_per_worker=4).num_workers == 4
    del resources["GPU"]
    assert pool() == Pool(num_workers=16, num_cpus=1, num_gpus=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 3}, "--workers 3 .* use at most 2"),
        ({"device": "cpu", "cpus_per_worker": 17}, "--cpus-per-worker 17: the cluster has 16"),
    ],
)
def test_what_does_not_fit_is_refused(
    resources: dict[str, float], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        pool(**changes)


def test_cuda_is_refused_where_no_gpu_is(resources: dict[str, float]) -> None:
    del resources["GPU"]
    with pytest.raises(ClusterError, match="--device cuda: the cluster has no GPU"):
        pool(device="cuda")


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:  # finding out for real takes Ray a minute
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(jobs.cluster.ray, "init", refuse)
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster at 'auto'.*--address local"),
        cluster("auto"),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "failures", "calls"), [("local", 2, 3), ("local", 9, 3), ("10.0.0.1:1", 9, 1)]
)
def test_a_local_start_that_times_out_is_tried_again(
    address: str, failures: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def init(**_: Any) -> None:
        assert all(process.wait(10) for process in made), "the last start's processes live"
        made.append(subprocess.Popen(["sleep", "100"]))
        if len(made) <= failures:
            raise Exception("The current node timed out during startup.")  # Ray's own type

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    if failures < calls:
        _connect({"address": address})
    else:
        with pytest.raises(ClusterError, match="did not start: The current node timed out"):
            _connect({"address": address})
    assert len(made) == calls
    made[-1].kill()
    made[-1].wait()
