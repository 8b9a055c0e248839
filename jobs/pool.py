"""How many workers of what size fit on a cluster. Does not use Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.exits import import_in_thread
from jobs.log import say
from jobs.machine import num_cores
from jobs.settings import LabelSettings

_MAX_WORKERS_PER_GPU = 4
_MIN_CORES_PER_WORKER = 2  # of workers that share a GPU


class ClusterError(RuntimeError):
    """The cluster could not be reached, or gave up on the job; one line for the user."""


class MistakeError(ValueError):
    """A user's mistake that a worker or a connection to Ray found; one line."""


@dataclass(frozen=True, slots=True)
class Node:
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Pool:
    """num_workers processes, each with num_cpus cores and num_gpus GPUs (0 to 1).

    max_workers: what the pool may grow to when the cluster grows; else equal to num_workers.
    """

    num_workers: int
    max_workers: int
    num_cpus: int
    num_gpus: float

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """What its workers run on: Ray hides no GPU from those for which none is reserved."""
        return "cuda" if self.num_gpus else "cpu"


def this_machine() -> Node:
    """The cores and GPUs that this process may use."""
    torch = import_in_thread("torch")  # not at the top: it takes longer than all other imports
    return Node(num_cores(), torch.cuda.device_count())


def pool_for(settings: LabelSettings, nodes: Sequence[Node], num_shards: int) -> Pool:
    """The workers of a job on these nodes.

    With --workers 0, it is one worker on the first node with all of its cores and one GPU. With
    --max-workers, the job starts with --workers (or 1) and waits for what does not fit yet. On a
    private cluster, to which no node can be added, every worker has to fit now.
    num_shards: those to label, at least 1. Raises ClusterError when a worker fits on no node.
    """
    if settings.workers == 0:
        use_gpu = settings.device == "cuda" or (settings.device == "auto" and nodes[0].gpus > 0)
        return Pool(1, 1, _number(settings.cpus_per_worker) or nodes[0].cpus, int(use_gpu))
    workers, max_workers = _number(settings.workers), _number(settings.max_workers)
    can_wait = max_workers is not None and settings.address != "local"
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if settings.device == "cuda" and not (gpus or can_wait):
        raise ClusterError("--device cuda: the cluster has no GPU; use --device cpu")
    on_gpus = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
    per_gpu = _workers_per_gpu(settings, nodes) if on_gpus else 0
    # Without GPUs, one core per worker is fastest: threads of one model wait for each other, and
    # processes do not.
    num_cpus = _number(settings.cpus_per_worker) or _cores_per_worker(nodes, per_gpu)
    num_gpus = 1 / per_gpu if per_gpu else 0
    fitting = sum(num_fitting(node, num_cpus, per_gpu) for node in nodes)
    if not nodes and not can_wait:
        raise ClusterError(
            "no node of the cluster has CPUs yet: use --max-workers to wait for the first one"
        )
    if fitting < 1 and not can_wait:
        raise ClusterError(
            f"--cpus-per-worker {num_cpus}: no node of the cluster has so many CPUs"
            f"{' and a GPU' if per_gpu else ''}; use fewer"
        )
    if workers is not None and workers > fitting and not can_wait:
        way_out = "" if settings.address == "local" else ", or --max-workers to wait for more"
        raise ClusterError(
            f"--workers {workers} with {num_cpus} CPUs and {num_gpus:g} GPUs each do not fit on"
            f" {cpus} CPUs and {gpus} GPUs: use at most {fitting}{way_out}"
        )
    if max_workers is not None:
        most = max_workers if can_wait else min(max_workers, fitting)
        most = min(most, num_shards)
        return Pool(min(workers or 1, most), most, num_cpus, num_gpus)
    count = min(workers or fitting, num_shards)
    return Pool(count, count, num_cpus, num_gpus)


def workers_on_gpu(num_cpus: int) -> int:
    """How many workers should share a GPU when num_cpus cores serve that GPU.

    Several are faster than one: a batch takes as long to decode as its largest image, and the
    others use the GPU meanwhile.
    """
    return max(1, min(_MAX_WORKERS_PER_GPU, num_cpus // _MIN_CORES_PER_WORKER))


def warn_if_full(workers: int, cpus: int, gpus: float, free: Sequence[tuple[float, float]]) -> None:
    """Say that a job has to wait, which Ray does silently and without end.

    workers: those without which it does not start, each with `cpus` CPUs and `gpus` GPUs.
    free: CPUs and GPUs of each node.
    """
    fitting = sum(min(c // cpus, g // gpus if gpus else c // cpus) for c, g in free)
    if fitting < workers:
        who = "a worker takes" if workers == 1 else f"each of {workers} workers takes"
        say(
            f"waiting: {who} {cpus} CPUs and {gpus:g} GPUs of one node, and"
            f" {sum(c for c, _ in free):g} CPUs and {sum(g for _, g in free):g} GPUs of the whole"
            " cluster are free; the job starts when other jobs end or nodes join"
        )


def _number(value: int | str) -> int | None:
    """None for "auto" and "none"."""
    return None if isinstance(value, str) else value


def _workers_per_gpu(settings: LabelSettings, nodes: Sequence[Node]) -> int:
    """No more than --workers needs: Ray would put all of them on the first GPU."""
    if (chosen := _number(settings.workers_per_gpu)) is not None:
        return chosen
    cores_per_gpu = _cores_per_worker(nodes, 1)
    if cpus_per_worker := _number(settings.cpus_per_worker):
        most = min(_MAX_WORKERS_PER_GPU, cores_per_gpu // cpus_per_worker)
    else:
        most = workers_on_gpu(cores_per_gpu)
    if workers := _number(settings.workers):
        gpus = sum(node.gpus for node in _with_cores_for_gpus(nodes))
        most = min(most, -(-workers // max(1, gpus)))
    return max(1, most)


def _cores_per_worker(nodes: Sequence[Node], per_gpu: int) -> int:
    """The cores of a node divided among the workers on its GPUs; 1 without GPUs.

    When nodes differ, the one with the fewest cores per GPU decides.
    """
    able = _with_cores_for_gpus(nodes) if per_gpu else []
    return max(1, min((node.cpus // (node.gpus * per_gpu) for node in able), default=1))


def _with_cores_for_gpus(nodes: Sequence[Node]) -> list[Node]:
    """Without those that lack a core for each GPU, as the head of a cluster that runs nothing."""
    return [node for node in nodes if 0 < node.gpus <= node.cpus]


def num_fitting(node: Node, num_cpus: int, per_gpu: int) -> int:
    """How many workers the node holds; per_gpu: how many share a GPU, 0: they need none."""
    by_cpus = node.cpus // num_cpus
    return min(by_cpus, node.gpus * per_gpu) if per_gpu else by_cpus
