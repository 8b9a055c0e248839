"""Who labels the shards of a run: a pool of Ray's workers, or this process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jobs.pool import ClusterError, pool_for, this_machine
from jobs.settings import LabelSettings
from jobs.shard_labeler import CommitRecord, ShardLabeler


def label_shards(
    settings: LabelSettings, run: dict[str, Any], todo: Sequence[int], driver: str
) -> Iterator[CommitRecord]:
    """Label the shards that are left; yields a record as each ends.

    run: the run's record. driver: this driver's name, see `pipeline.presence`.
    Raises ClusterError when the job cannot go on.
    """
    if not todo:
        return
    arguments = {
        "settings": settings,
        "run_id": run["run_id"],
        "expected_model": run["model"],
        "driver": driver,
    }
    make = _in_this_process if settings.workers == 0 else _on_ray
    for record in make(settings, arguments, todo):
        commit = CommitRecord(**record)
        if commit.fatal is not None:
            raise ClusterError(commit.fatal)
        yield commit


def _on_ray(
    settings: LabelSettings, arguments: dict[str, Any], todo: Sequence[int]
) -> Iterator[dict[str, Any]]:
    # Imported here: a second that --workers 0 does without, and without Ray.
    from jobs.cluster import cluster, nodes, run_shards

    with cluster(settings.address):
        pool = pool_for(settings, nodes(), len(todo))
        yield from run_shards(todo, ShardLabeler, {**arguments, "num_threads": pool.num_cpus}, pool)


def _in_this_process(
    settings: LabelSettings, arguments: dict[str, Any], todo: Sequence[int]
) -> Iterator[dict[str, Any]]:
    pool = pool_for(settings, [this_machine()], len(todo))
    labeler = ShardLabeler(**arguments, num_threads=pool.num_cpus)
    for shard in todo:
        yield json.loads(labeler({"shard": np.array([shard])})["record"][0])
