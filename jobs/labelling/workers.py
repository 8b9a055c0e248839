"""Runs a job's shards on a pool of Ray workers, or in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from jobs import cluster_address
from jobs.labelling.messages import CommitRecord, WorkerConfig
from jobs.labelling.mounts import existing_input_files
from jobs.labelling.shard_labeler import SHARDS_AT_ONCE, ShardLabeler
from jobs.pool import ClusterError, MistakeError, pool_for, this_machine, warn_if_full
from jobs.settings import LabelSettings
from pipeline.output import OutputFolder
from pipeline.shards import Plan

_MAX_FAILURES_IN_A_ROW = 32  # shards; plus two for each shard that is labelled at the same time


def label_shards(
    settings: LabelSettings, run: dict[str, Any], todo: Sequence[int], driver: str
) -> Iterator[CommitRecord]:
    """Label the shards in `todo`; yields a record as each one ends.

    run: the content of run.json. driver: this driver's name, see `pipeline.presence`.
    Raises ClusterError when the job cannot go on, MistakeError when the user is to mend something.
    """
    if not todo:
        return
    config = WorkerConfig(
        settings=settings,
        run_id=run["run_id"],
        driver=driver,
        input_files=existing_input_files(Plan(OutputFolder(settings.output))),
    )
    label = _label_in_this_process if settings.workers == 0 else _label_on_ray
    with closing(label(config, todo)) as commits:
        for commit in commits:
            if commit.fatal is not None:
                raise (MistakeError if commit.is_mistake else ClusterError)(commit.fatal)
            yield commit


def check_address(settings: LabelSettings) -> None:
    """Refuse a wrong address before the input is listed, which may take an hour."""
    if settings.workers != 0:
        cluster_address.check_address(settings.address)


def _label_on_ray(config: WorkerConfig, todo: Sequence[int]) -> Generator[CommitRecord, None, None]:
    # Imported here: it takes a second, and --workers 0 works without Ray.
    from jobs.cluster import cluster, free, nodes
    from jobs.labelling.actors import run_shards

    settings = config.settings
    with cluster(settings.address):
        pool = pool_for(settings, nodes(), len(todo))
        if settings.address != "local":  # nothing else runs on a private cluster
            warn_if_full(1, pool.num_cpus, pool.num_gpus, free())
        config = replace(
            config, num_threads=pool.num_cpus, num_workers=pool.max_workers, device=pool.device
        )
        commits = run_shards(todo, ShardLabeler, config, pool, shards_at_once=SHARDS_AT_ONCE)
        with closing(commits):  # before the connection closes, however this ends
            yield from _unless_all_fail(commits, pool.max_workers * SHARDS_AT_ONCE)


def _label_in_this_process(
    config: WorkerConfig, todo: Sequence[int]
) -> Generator[CommitRecord, None, None]:
    pool = pool_for(config.settings, [this_machine()], len(todo))
    labeler = ShardLabeler(replace(config, num_threads=pool.num_cpus, device=pool.device))
    with closing(labeler.label_each(todo)) as commits:
        yield from _unless_all_fail(commits, SHARDS_AT_ONCE)


def _unless_all_fail(commits: Iterable[CommitRecord], at_once: int) -> Iterator[CommitRecord]:
    """The same records; raises ClusterError when many in a row failed, probably for one reason.

    With expired credentials, for example, each of a hundred thousand shards would fail.
    """
    in_a_row = 0
    for commit in commits:
        yield commit
        in_a_row = 0 if commit.error is None else in_a_row + 1
        if in_a_row >= _MAX_FAILURES_IN_A_ROW + 2 * at_once:
            raise ClusterError(f"{in_a_row} shards failed in a row, the last with: {commit.error}")
