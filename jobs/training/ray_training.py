"""A training run on Ray Train workers. Ray starts them and starts them again; the loop is ours.

State is saved by the loop itself, in the output folder, which every worker must reach: the same
file resumes a run whether a worker, the driver or the whole cluster died. Ray's own snapshots are
kept under a name of their own for each start, so that an old one never comes back in silence.
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
from jobs.pool import ClusterError, warn_of_waiting
from jobs.train_settings import TrainSettings
from pipeline.pairs.training_data import Rank

_RAY = ".ray"


def run_on_cluster(settings: TrainSettings) -> None:
    """Train with `settings.workers` workers.

    Raises ClusterError when they do not fit, or died more often than `settings.attempts` allows.
    """
    use_gpu = settings.device == "cuda"
    # A cluster of our own offers what was asked for: two workers may share a core.
    needed = settings.workers * settings.cpus_per_worker
    with cluster(settings.address, num_cpus=max(needed, num_cores())):
        use_gpu = use_gpu or (settings.device == "auto" and _num("GPU") > 0)
        _check_room(settings, use_gpu=use_gpu)
        if settings.address != "local":
            num_gpus = settings.workers if use_gpu else 0
            warn_of_waiting("the workers take", needed, num_gpus, free())
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        trainer = TorchTrainer(
            _work,
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
        except SystemExit as ended:  # by which Ray Train answers Ctrl-C
            raise KeyboardInterrupt from ended


def _work(config: dict[str, Any]) -> None:
    # Imported on the worker: the driver does without DALI.
    from jobs.training.worker import run_worker

    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size())
    run_worker(TrainSettings(**config), rank, get_device())


def _check_room(settings: TrainSettings, *, use_gpu: bool) -> None:
    """Ray would wait for ever for a worker that fits nowhere."""
    cpus, gpus = _num("CPU"), _num("GPU")
    wanted = settings.workers * settings.cpus_per_worker
    if wanted > cpus or (use_gpu and settings.workers > gpus):
        raise ClusterError(
            f"--workers {settings.workers} with {settings.cpus_per_worker} CPUs"
            f"{' and a GPU' if use_gpu else ''} each do not fit on the cluster's {cpus} CPUs and"
            f" {gpus} GPUs: use fewer"
        )


def _num(resource: str) -> int:
    return int(ray.cluster_resources().get(resource, 0))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
