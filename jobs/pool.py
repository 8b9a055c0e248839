"""How many workers of what size fit on a cluster. Knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.exits import imported
from jobs.log import say
from jobs.machine import num_cores
from jobs.settings import LabelSettings

# Follows the reason why a run ended, unless that is a mistake in the command.
CONTINUES = "; the same command continues the run"
_MOST_PER_GPU = 4  # workers
_LEAST_CORES = 2  # of a worker that shares a GPU


class ClusterError(RuntimeError):
    """The cluster could not be reached, or gave up on the job; one line for the user."""


@dataclass(frozen=True, slots=True)
class Node:
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Pool:
    """num_workers processes, each with num_cpus cores and num_gpus GPUs, from 0 to 1.

    max_workers: what the pool may grow to as the cluster does; num_workers where it may not.
    """

    num_workers: int
    max_workers: int
    num_cpus: int
    num_gpus: float


def this_machine() -> Node:
    """The cores and GPUs that this process sees."""
    torch = imported("torch")  # here: it takes longer than all else
    return Node(num_cores(), torch.cuda.device_count())


def pool_for(settings: LabelSettings, nodes: Sequence[Node], num_shards: int) -> Pool:
    """`make_pool` by a job's settings; without workers, one on all cores of the first node."""
    if settings.workers == 0:
        (node, *_) = nodes
        use_gpu = settings.device != "cpu" and node.gpus > 0
        return Pool(1, 1, _chosen(settings.cpus_per_worker) or node.cpus, int(use_gpu))
    return make_pool(
        nodes,
        device=settings.device,
        workers=_chosen(settings.workers),
        max_workers=_chosen(settings.max_workers),
        workers_per_gpu=_chosen(settings.workers_per_gpu),
        cpus_per_worker=_chosen(settings.cpus_per_worker),
        num_shards=num_shards,
        grows=settings.address != "local",
    )


def warn_of_waiting(who: str, cpus: int, gpus: float, free: tuple[float, float]) -> None:
    """Ray waits for room as long as it takes, and says nothing. free: CPUs and GPUs."""
    if free[0] < cpus or free[1] < gpus:
        say(
            f"waiting: {who} {cpus} CPUs and {gpus:g} GPUs, and {free[0]:g} CPUs and {free[1]:g}"
            " GPUs of the cluster are free; the job begins when other work ends there or nodes join"
        )


def _chosen(value: int | str) -> int | None:
    return None if isinstance(value, str) else value


def make_pool(
    nodes: Sequence[Node],
    *,
    device: str,
    workers: int | None,
    max_workers: int | None,
    workers_per_gpu: int | None,
    cpus_per_worker: int | None,
    num_shards: int,
    grows: bool = True,
) -> Pool:
    """The workers for a job on the nodes; None chooses.

    On CPUs one core a worker does most: the model's threads wait for each other, processes do not.
    On a GPU several do: a batch takes as long to decode as its largest image, and meanwhile the
    others' batches use what it leaves idle.
    With max_workers, the job begins with `workers` (or 1) and what does not fit yet is waited for.
    grows: whether nodes may join the cluster; for others no worker need wait.
    Raises ClusterError when a worker fits nowhere.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    elastic = max_workers is not None
    if device == "cuda" and not (gpus or (elastic and grows)):
        raise ClusterError("--device cuda: the cluster has no GPU; use --device cpu")
    on_gpus = device == "cuda" or (device == "auto" and gpus > 0)
    sharing = 0
    if on_gpus:
        sharing = workers_per_gpu or _sharing(nodes, cpus_per_worker, workers)
    num_cpus = cpus_per_worker or _share_of_cores(nodes, sharing)
    num_gpus = 1 / sharing if sharing else 0
    most = sum(_fitting(node, num_cpus, sharing) for node in nodes)
    if most < 1 and not (elastic and grows):
        raise ClusterError(
            f"--cpus-per-worker {num_cpus}: no node of the cluster has so many CPUs"
            f"{' and a GPU' if sharing else ''}; use fewer"
        )
    if max_workers is not None:
        most = min(max_workers, max(1, num_shards))
        return Pool(min(workers or 1, most), most, num_cpus, num_gpus)
    if workers is not None and workers > most:
        raise ClusterError(
            f"--workers {workers} with {num_cpus} CPUs and {num_gpus:g} GPUs each do not fit on"
            f" {cpus} CPUs and {gpus} GPUs: use at most {most}, or --max-workers to wait for more"
        )
    count = min(workers or most, max(1, num_shards))
    return Pool(count, count, num_cpus, num_gpus)


def workers_on_gpu(num_cpus: int) -> int:
    """How many workers share a GPU that has so many cores to itself."""
    return max(1, min(_MOST_PER_GPU, num_cpus // _LEAST_CORES))


def _sharing(nodes: Sequence[Node], cpus_per_worker: int | None, workers: int | None) -> int:
    """Workers per GPU: no more than are asked for, or Ray would put them all on the first GPU."""
    gpus = sum(node.gpus for node in nodes)
    cores = _share_of_cores(nodes, 1)
    most = cores // cpus_per_worker if cpus_per_worker else workers_on_gpu(cores)
    asked = -(-workers // max(1, gpus)) if workers else _MOST_PER_GPU
    return max(1, min(_MOST_PER_GPU, most, asked))


def _share_of_cores(nodes: Sequence[Node], sharing: int) -> int:
    """Cores per worker: a GPU's share of its node's, divided among its workers; 1 without GPUs.

    Of nodes that differ, the one with the fewest cores per GPU decides.
    """
    shares = [node.cpus // (node.gpus * sharing) for node in nodes if node.gpus and sharing]
    return max(1, min(shares, default=1))


def _fitting(node: Node, num_cpus: int, sharing: int) -> int:
    by_cpus = node.cpus // num_cpus
    return min(by_cpus, node.gpus * sharing) if sharing else by_cpus
