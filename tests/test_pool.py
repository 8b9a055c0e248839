"""Workers are only asked for where they fit, on nodes of any kind."""

from typing import Any

import pytest

from jobs.pool import ClusterError, Node, Pool, make_pool, pool_for
from jobs.settings import LabelSettings

TWO_GPUS, CPUS = Node(16, 2), Node(64, 0)


def pool(*nodes: Node, **changes: Any) -> Pool:
    wanted = {"device": "auto", "workers": None, "max_workers": None, "cpus_per_worker": None}
    return make_pool(nodes, **{**wanted, "num_shards": 1000, **changes})


def test_a_worker_for_each_gpu_with_its_share_of_its_nodes_cores() -> None:
    assert pool(TWO_GPUS) == Pool(2, 2, num_cpus=8, num_gpus=1)
    assert pool(TWO_GPUS, CPUS) == Pool(2, 2, num_cpus=8, num_gpus=1)
    assert pool(TWO_GPUS, Node(8, 4)) == Pool(6, 6, num_cpus=2, num_gpus=1)
    assert pool(Node(2, 4)) == Pool(2, 2, num_cpus=1, num_gpus=1)
    assert pool(TWO_GPUS, num_shards=1).num_workers == 1


def test_a_worker_for_each_core_without_gpus() -> None:
    assert pool(Node(16, 0)) == Pool(16, 16, num_cpus=1, num_gpus=0)
    assert pool(TWO_GPUS, CPUS, device="cpu") == Pool(80, 80, num_cpus=1, num_gpus=0)
    # Three workers of 6 cores fit on 20 cores, but not on 10 and 10.
    assert pool(Node(20, 0), cpus_per_worker=6).num_workers == 3
    assert pool(Node(10, 0), Node(10, 0), cpus_per_worker=6).num_workers == 2


def test_a_pool_that_may_grow_waits_for_what_is_not_there_yet() -> None:
    assert pool(CPUS, max_workers=8, device="cuda") == Pool(1, 8, num_cpus=1, num_gpus=1)
    assert pool(max_workers=8, workers=4, device="cuda", cpus_per_worker=12) == Pool(4, 8, 12, 1)
    assert pool(TWO_GPUS, max_workers=100) == Pool(1, 100, num_cpus=8, num_gpus=1)
    assert pool(CPUS, max_workers=8, workers=4, num_shards=2).num_workers == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 3}, "--workers 3 .* use at most 2, or --max-workers"),
        ({"device": "cpu", "cpus_per_worker": 17}, "--cpus-per-worker 17: no node .* CPUs; use"),
        ({"cpus_per_worker": 17}, "--cpus-per-worker 17: no node .* CPUs and a GPU; use fewer"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        pool(TWO_GPUS, **changes)


def test_cuda_is_refused_where_no_gpu_is() -> None:
    with pytest.raises(ClusterError, match="--device cuda: the cluster has no GPU"):
        pool(CPUS, device="cuda")


@pytest.mark.parametrize(
    ("device", "cpus", "expected"),
    [
        ("auto", "auto", Pool(1, 1, num_cpus=16, num_gpus=1)),
        ("cpu", "auto", Pool(1, 1, num_cpus=16, num_gpus=0)),
        ("cuda", 4, Pool(1, 1, num_cpus=4, num_gpus=1)),
    ],
)
def test_without_workers_this_process_has_the_machine(
    device: str, cpus: int | str, expected: Pool
) -> None:
    settings = LabelSettings(
        input="in", output="out", workers=0, device=device, cpus_per_worker=cpus
    )
    assert pool_for(settings, [TWO_GPUS], 1000) == expected
