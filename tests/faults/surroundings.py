"""What some kinds of fault have around the job: a disk that is soon full, a cluster to break."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.cluster_utils import Cluster


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """One that is not the job's own: a head node with one CPU, to which nodes can be added."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


@contextmanager
def small_disk(folder: Path, *, kib: int) -> Iterator[Callable[[], None]]:
    folder.mkdir(parents=True)
    options = f"size={kib}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
