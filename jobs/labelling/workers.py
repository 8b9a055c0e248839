"""Who labels the shards of a run: a pool of Ray's workers, or this process."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from jobs.labelling.shard_labeler import SHARDS_AT_ONCE, CommitRecord, ShardLabeler
from jobs.pool import ClusterError, pool_for, this_machine, warn_of_waiting
from jobs.settings import LabelSettings
from pipeline.inputs.image_bytes import is_remote_image
from pipeline.output import OutputFolder
from pipeline.shards import Plan
from pipeline.stores.locations import local_path

_MOST_FAILED_IN_A_ROW = 32  # shards; and two more for each one that is in hand at the same time


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
    with closing(make(settings, arguments, todo)) as commits:
        for commit in commits:
            if commit.fatal is not None:
                raise ClusterError(commit.fatal)
            yield commit


def check_address(settings: LabelSettings) -> None:
    """Raise ClusterError for a wrong one before the input is listed, which may take an hour."""
    if settings.workers == 0 or settings.address == "local":
        return
    from jobs import cluster

    cluster.check_address(settings.address)


def _witness(settings: LabelSettings, shard: int) -> str | None:
    """A file of a shard's that is on a disk here, and has to be on a worker's."""
    for ref in Plan(OutputFolder(settings.output)).shard(shard).refs:
        path = local_path(ref.source or ref.uri)
        if not is_remote_image(ref) and os.path.exists(path):
            return path
    return None


def _on_ray(
    settings: LabelSettings, arguments: dict[str, Any], todo: Sequence[int]
) -> Generator[CommitRecord, None, None]:
    # Imported here: a second that --workers 0 does without, and without Ray.
    from jobs.cluster import cluster, free, nodes, run_shards

    with cluster(settings.address):
        pool = pool_for(settings, nodes(), len(todo))
        if settings.address != "local":  # whose CPUs are this job's alone
            warn_of_waiting("a worker takes", pool.num_cpus, pool.num_gpus, free())
        arguments |= {
            "num_threads": pool.num_cpus,
            "num_workers": pool.max_workers,
            "witness": _witness(settings, todo[0]),
        }
        records = run_shards(todo, ShardLabeler, arguments, pool, shards_at_once=SHARDS_AT_ONCE)
        with closing(records):  # however this ends, before the connection that they come by
            commits = (CommitRecord(**record) for record in records)
            yield from _unless_all_fail(commits, pool.max_workers * SHARDS_AT_ONCE)


def _in_this_process(
    settings: LabelSettings, arguments: dict[str, Any], todo: Sequence[int]
) -> Generator[CommitRecord, None, None]:
    pool = pool_for(settings, [this_machine()], len(todo))
    labeler = ShardLabeler(**arguments, num_threads=pool.num_cpus)
    with closing(labeler.label_each(todo)) as commits:
        yield from _unless_all_fail(commits, SHARDS_AT_ONCE)


def _unless_all_fail(commits: Iterable[CommitRecord], at_once: int) -> Iterator[CommitRecord]:
    """The same records; raises ClusterError when so many fail in a row that they share a cause.

    With expired credentials, say, a hundred thousand shards are left, each of which would fail.
    """
    in_a_row = 0
    for commit in commits:
        yield commit
        in_a_row = 0 if commit.error is None else in_a_row + 1
        if in_a_row >= _MOST_FAILED_IN_A_ROW + 2 * at_once:
            raise ClusterError(f"{in_a_row} shards failed in a row, the last with: {commit.error}")
