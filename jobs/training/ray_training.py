"""A training run on Ray Train's workers, which Ray starts and restarts.

The training loop saves its own state in the output folder, which every worker must be able to read
and write. The same file resumes the run after a worker, the driver or the whole cluster died. Ray's
snapshots get a new name at each start, because Ray resumes silently from one of the same name.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from jobs.cluster import cluster, free, nodes
from jobs.machine import num_cores
from jobs.pool import ClusterError, Node, num_fitting, warn_if_full
from jobs.train_settings import TrainSettings
from pipeline.pairs.training_data import Rank

_RAY = ".ray"


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to this process, whose end also ends Ray's controller of the run.

    Ray Train's own handler waits for the controller, which does not answer while it waits for
    resources, as at the start on a busy cluster or after a node is lost.
    """

    def _register_sigint_handler(self, controller: object) -> None:
        pass


def run_on_cluster(settings: TrainSettings) -> None:
    """Train with `settings.workers` workers.

    Raises ClusterError when they do not fit, or when they failed `settings.attempts` times.
    """
    use_gpu = settings.device == "cuda"
    # A private cluster may declare more CPUs than there are: two workers may share a core.
    needed = settings.workers * settings.cpus_per_worker
    with cluster(settings.address, num_cpus=max(needed, num_cores())):
        machines = nodes()
        on_gpus = any(machine.gpus for machine in machines)
        use_gpu = use_gpu or (settings.device == "auto" and on_gpus)
        _check_room(settings, machines, use_gpu=use_gpu)
        if settings.address != "local":
            warn_if_full(settings.workers, settings.cpus_per_worker, int(use_gpu), free())
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        trainer = _Trainer(
            _run_on_worker,
            train_loop_config=asdict(settings),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings.workers,
                use_gpu=use_gpu,
                resources_per_worker={
                    "CPU": settings.cpus_per_worker,
                    **({"GPU": 1} if use_gpu else {}),
                },
            ),
            run_config=ray.train.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(Path(settings.output) / _RAY),
                failure_config=ray.train.FailureConfig(max_failures=settings.attempts - 1),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise ClusterError(_last_line(error)) from error


def _run_on_worker(config: dict[str, Any]) -> None:
    # Imported on the worker only: the driver does not need DALI.
    from jobs.training.worker import run_worker

    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size())
    run_worker(TrainSettings(**config), rank, get_device())


def _check_room(settings: TrainSettings, machines: Sequence[Node], *, use_gpu: bool) -> None:
    """Raise ClusterError when the workers do not fit: Ray would wait for ever."""
    num_cpus, per_gpu = settings.cpus_per_worker, int(use_gpu)
    fitting = sum(num_fitting(machine, num_cpus, per_gpu) for machine in machines)
    if fitting < settings.workers:
        cpus, gpus = (sum(m.cpus for m in machines), sum(m.gpus for m in machines))
        raise ClusterError(
            f"--workers {settings.workers} with {num_cpus} CPUs{' and a GPU' if use_gpu else ''}"
            f" each: {fitting} fit on the cluster's nodes, which have {cpus} CPUs and {gpus} GPUs"
            " together; use fewer"
        )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
