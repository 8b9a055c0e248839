"""A training run on Ray Train's workers, which Ray starts and restarts.

The training loop saves its own state in the output folder, which every worker must be able to read
and write. The same file resumes the run after a worker, the driver or the whole cluster died. Ray's
snapshots get a new name at each start, because Ray resumes silently from one of the same name.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from jobs.cluster import cluster, free
from jobs.machine import num_cores
from jobs.pool import ClusterError, warn_if_full
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
        use_gpu = use_gpu or (settings.device == "auto" and _cluster_total("GPU") > 0)
        _check_room(settings, use_gpu=use_gpu)
        if settings.address != "local":
            num_gpus = settings.workers if use_gpu else 0
            warn_if_full("the workers take", needed, num_gpus, free())
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


def _check_room(settings: TrainSettings, *, use_gpu: bool) -> None:
    """Raise ClusterError when the workers do not fit: Ray would wait for ever."""
    cpus, gpus = _cluster_total("CPU"), _cluster_total("GPU")
    wanted = settings.workers * settings.cpus_per_worker
    if wanted > cpus or (use_gpu and settings.workers > gpus):
        raise ClusterError(
            f"--workers {settings.workers} with {settings.cpus_per_worker} CPUs"
            f"{' and a GPU' if use_gpu else ''} each do not fit on the cluster's {cpus} CPUs and"
            f" {gpus} GPUs: use fewer"
        )


def _cluster_total(resource: str) -> int:
    return int(ray.cluster_resources().get(resource, 0))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
