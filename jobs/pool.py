"""How many workers of what size fit on a cluster. Knows no Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.settings import LabelSettings


class ClusterError(RuntimeError):
    """The cluster could not be reached, or gave up on the job; one line for the user."""


@dataclass(frozen=True, slots=True)
class Node:
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Pool:
    """num_workers processes, each with num_cpus cores and num_gpus GPUs (0 or 1).

    max_workers: what the pool may grow to as the cluster does; num_workers where it may not.
    """

    num_workers: int
    max_workers: int
    num_cpus: int
    num_gpus: int


def this_machine() -> Node:
    """The cores and GPUs that this process sees."""
    import torch  # takes longer than all else here

    return Node(os.cpu_count() or 1, torch.cuda.device_count())


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
        cpus_per_worker=_chosen(settings.cpus_per_worker),
        num_shards=num_shards,
    )


def _chosen(value: int | str) -> int | None:
    return None if isinstance(value, str) else value


def make_pool(
    nodes: Sequence[Node],
    *,
    device: str,
    workers: int | None,
    max_workers: int | None,
    cpus_per_worker: int | None,
    num_shards: int,
) -> Pool:
    """The workers for a job on the nodes; None chooses.

    On CPUs one core a worker does most: the model's threads wait for each other, processes do not.
    With max_workers, the job begins with `workers` (or 1) and what does not fit yet is waited for.
    Raises ClusterError when a worker fits nowhere.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    elastic = max_workers is not None
    if device == "cuda" and not (gpus or elastic):
        raise ClusterError("--device cuda: the cluster has no GPU; use --device cpu")
    num_gpus = 1 if device == "cuda" or (device == "auto" and gpus) else 0
    num_cpus = cpus_per_worker or _share_of_cores(nodes, num_gpus)
    if max_workers is not None:
        most = min(max_workers, max(1, num_shards))
        return Pool(min(workers or 1, most), most, num_cpus, num_gpus)
    most = sum(_fitting(node, num_cpus, num_gpus) for node in nodes)
    if most < 1:
        raise ClusterError(
            f"--cpus-per-worker {num_cpus}: no node of the cluster has so many CPUs"
            f"{' and a GPU' if num_gpus else ''}; use fewer"
        )
    if workers is not None and workers > most:
        raise ClusterError(
            f"--workers {workers} with {num_cpus} CPUs and {num_gpus} GPUs each do not fit on"
            f" {cpus} CPUs and {gpus} GPUs: use at most {most}, or --max-workers to wait for more"
        )
    count = min(workers or most, max(1, num_shards))
    return Pool(count, count, num_cpus, num_gpus)


def _share_of_cores(nodes: Sequence[Node], num_gpus: int) -> int:
    """Cores a worker: each GPU's share of its own node, where it has least."""
    shares = [node.cpus // node.gpus for node in nodes if node.gpus]
    return max(1, min(shares)) if num_gpus and shares else 1


def _fitting(node: Node, num_cpus: int, num_gpus: int) -> int:
    by_cpus = node.cpus // num_cpus
    return min(by_cpus, node.gpus) if num_gpus else by_cpus
