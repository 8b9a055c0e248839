"""Workers are only asked for where they fit, on nodes of any kind."""

from dataclasses import replace
from typing import Any

import pytest

from jobs.log import configure
from jobs.pool import ClusterError, Node, Pool, pool_for, warn_if_full, workers_on_gpu
from jobs.settings import LabelSettings

TWO_GPUS, CPUS = Node(16, 2), Node(64, 0)


def pool(*nodes: Node, **changes: Any) -> Pool:
    num_shards = changes.pop("num_shards", 1000)
    settings = LabelSettings(**{"input": "in", "output": "out", "address": "auto", **changes})
    return pool_for(settings, nodes, num_shards)


def test_workers_share_a_gpu_and_its_share_of_its_nodes_cores() -> None:
    assert pool(TWO_GPUS) == Pool(8, 8, num_cpus=2, num_gpus=0.25)
    assert pool(TWO_GPUS, CPUS) == Pool(8, 8, num_cpus=2, num_gpus=0.25)
    assert pool(Node(64, 2)) == Pool(8, 8, num_cpus=8, num_gpus=0.25)
    # Four cores a GPU on the second node: two workers each, there and so everywhere.
    assert pool(Node(64, 2), Node(16, 4)) == Pool(12, 12, num_cpus=2, num_gpus=0.5)
    assert pool(Node(3, 1)) == Pool(1, 1, num_cpus=3, num_gpus=1)
    assert pool(Node(2, 4)) == Pool(2, 2, num_cpus=1, num_gpus=1)
    assert pool(Node(2, 2), Node(16, 1)) == Pool(3, 3, num_cpus=1, num_gpus=1)
    assert workers_on_gpu(1) == 1  # as the benchmark asks
    assert pool(TWO_GPUS, num_shards=1).num_workers == 1
    # A head that is to run nothing has its GPUs all the same.
    for head in (Node(0, 1), Node(1, 4)):
        assert pool(head, Node(16, 1), Node(16, 1)).num_cpus == 4
        assert pool(head, Node(16, 1), workers=4) == Pool(4, 4, num_cpus=4, num_gpus=0.25)


def test_workers_run_on_what_is_reserved_for_them() -> None:
    """Ray hides no GPU from a worker without one: all those of a node would take its first."""
    assert pool(TWO_GPUS).device == "cuda"
    assert pool(TWO_GPUS, device="cpu").device == "cpu"
    assert pool(CPUS, max_workers=8).device == "cpu"  # a node with GPUs may join later
    assert pool(CPUS, max_workers=8, device="cuda").device == "cuda"
    # In this process, where nothing is reserved: PyTorch then says that there is no such device.
    here = {"address": "local", "workers": 0}
    assert pool(CPUS, device="cuda", **here).device == "cuda"
    assert pool(CPUS, **here).device == "cpu"
    assert pool(Node(16, 1), **here).device == "cuda"


def test_how_many_share_a_gpu_can_be_said() -> None:
    assert pool(TWO_GPUS, workers_per_gpu=1) == Pool(2, 2, num_cpus=8, num_gpus=1)
    assert pool(TWO_GPUS, workers_per_gpu=8) == Pool(16, 16, num_cpus=1, num_gpus=0.125)
    assert pool(Node(4, 1), workers_per_gpu=8) == Pool(4, 4, num_cpus=1, num_gpus=0.125)
    assert pool(TWO_GPUS, cpus_per_worker=4) == Pool(4, 4, num_cpus=4, num_gpus=0.5)
    assert pool(Node(64, 1), cpus_per_worker=1) == Pool(4, 4, num_cpus=1, num_gpus=0.25)
    # Two workers on two GPUs: Ray would put both on one if they took a quarter each.
    assert pool(TWO_GPUS, workers=2) == Pool(2, 2, num_cpus=8, num_gpus=1)
    assert pool(TWO_GPUS, workers=3) == Pool(3, 3, num_cpus=4, num_gpus=0.5)


def test_a_worker_for_each_core_without_gpus() -> None:
    assert pool(Node(16, 0)) == Pool(16, 16, num_cpus=1, num_gpus=0)
    assert pool(TWO_GPUS, CPUS, device="cpu") == Pool(80, 80, num_cpus=1, num_gpus=0)
    # Three workers of 6 cores fit on 20 cores, but not on 10 and 10.
    assert pool(Node(20, 0), cpus_per_worker=6).num_workers == 3
    assert pool(Node(10, 0), Node(10, 0), cpus_per_worker=6).num_workers == 2


def test_a_pool_that_may_grow_waits_for_what_is_not_there_yet() -> None:
    assert pool(CPUS, max_workers=8, device="cuda") == Pool(1, 8, num_cpus=1, num_gpus=1)
    assert pool(max_workers=8, workers=4, device="cuda", cpus_per_worker=12) == Pool(4, 8, 12, 1)
    assert pool(TWO_GPUS, max_workers=100) == Pool(1, 100, num_cpus=2, num_gpus=0.25)
    assert pool(CPUS, max_workers=8, workers=4, num_shards=2).num_workers == 2


def test_a_cluster_whose_nodes_have_not_joined_is_told_from_a_worker_that_is_too_large() -> None:
    """As where only the head is there, which often offers no CPUs, and an autoscaler."""
    with pytest.raises(ClusterError, match=r"^no node .* has CPUs yet: use --max-workers to wait"):
        pool()
    assert pool(max_workers=8) == Pool(1, 8, num_cpus=1, num_gpus=0)


@pytest.mark.parametrize("impossible", [{"cpus_per_worker": 17}, {"device": "cuda"}])
def test_a_ray_of_this_machine_does_not_grow(impossible: dict[str, Any]) -> None:
    settings = LabelSettings(input="in", output="out", max_workers=8, **impossible)
    with pytest.raises(ClusterError, match=r"no node .* has so many CPUs|the cluster has no GPU"):
        pool_for(settings, [Node(16, 0)], 1000)
    growing = replace(settings, address="auto")
    assert pool_for(growing, [Node(16, 0)], 1000).max_workers == 8


def test_a_ray_of_this_machine_has_no_more_workers_than_fit() -> None:
    settings = LabelSettings(input="in", output="out", workers=4, max_workers=8, cpus_per_worker=2)
    assert pool_for(settings, [Node(12, 0)], 1000) == Pool(4, 6, num_cpus=2, num_gpus=0)
    for max_workers in (8, "none"):
        crowded = replace(settings, max_workers=max_workers)
        with pytest.raises(ClusterError, match=r"--workers 4 with 2 CPUs .*: use at most 3$"):
            pool_for(crowded, [Node(6, 0)], 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"workers": 9},
            "--workers 9 with 2 CPUs and 0.25 GPUs each do not fit on 16 CPUs and 2 GPUs: use at"
            " most 8, or --max-workers",
        ),
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


@pytest.mark.parametrize(
    ("free", "waits"),
    [
        ([(2, 1)], ""),
        ([(2, 0.25)], ""),
        ([(1, 1)], "1 CPUs and 1 GPUs"),
        ([(2, 0.2)], "2 CPUs and 0.2 GPUs"),
        ([(0, 1), (3, 0.5)], ""),
        ([(1, 1), (1, 1)], "2 CPUs and 2 GPUs"),  # enough, but scattered
        ([(4, 0), (0, 1)], "4 CPUs and 1 GPUs"),
        ([], "0 CPUs and 0 GPUs"),
    ],
)
def test_a_cluster_without_room_is_not_waited_for_in_silence(
    free: list[tuple[float, float]], waits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    warn_if_full(1, 2, 0.25, free)
    said = capsys.readouterr().err
    assert f"a worker takes 2 CPUs and 0.25 GPUs of one node, and {waits} of the" in said or (
        not waits and not said
    )


def test_workers_that_start_together_wait_until_all_have_room(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure()
    warn_if_full(3, 2, 0, [(2, 0), (4, 0)])
    warn_if_full(2, 2, 1, [(2, 1), (4, 1)])
    assert not capsys.readouterr().err
    warn_if_full(3, 2, 0, [(3, 0), (3, 0)])
    assert "each of 3 workers takes 2 CPUs and 0 GPUs of one node" in capsys.readouterr().err
