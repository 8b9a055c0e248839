"""A private cluster starts with what this machine has; a temporary folder that cannot is told."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.cluster import _start, cluster
from jobs.pool import ClusterError
from jobs.private_cluster import own_token


@pytest.mark.parametrize("folder", ["/proc/none", os.devnull, "long" * 30])
def test_a_temporary_folder_that_ray_cannot_use_is_told_with_the_way_out(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a socket has 107 bytes at most."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / folder))
    with (
        pytest.raises(ClusterError, match=r"did not start: .*; set RAY_TMPDIR to .* --workers 0$"),
        cluster("local"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        *(("EACCES", 1), ("EPERM", 1), ("EROFS", 1), ("ENOSPC", 1), ("EDQUOT", 1)),
        *(("ENAMETOOLONG", 1), ("ETIMEDOUT", 3)),
    ],
)
def test_a_start_in_a_temporary_folder_that_ray_cannot_use_is_not_tried_again(
    name: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other errors may be of a busy machine."""
    error = OSError(getattr(errno, name), "why", "/folder/ray")
    starts = []

    def init(**_: Any) -> None:
        starts.append(1)
        raise error

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    way_out = "set RAY_TMPDIR to" if calls == 1 else "try again"
    with pytest.raises(ClusterError, match=f"did not start: .*'/folder/ray'; {way_out}"):
        _start(1)
    assert len(starts) == calls


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_full_temporary_folder_is_told_before_ray_waits_for_its_processes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(folder: str) -> Any:
        return SimpleNamespace(total=10**9, free=1000 if folder == str(tmp_path) else 10**8)

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.setattr("jobs.cluster.ray.init", lambda **_: None)
    with pytest.raises(ClusterError, match=rf"no room in '{tmp_path}'; set RAY_TMPDIR to"):
        _start(1)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # as the message says to, whatever TMPDIR is
    _start(1)


def test_a_temporary_folder_whose_size_is_not_told_is_not_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by some network file systems."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    monkeypatch.setattr("jobs.cluster.ray.init", lambda **_: None)
    _start(1)


def private_clusters(count: int, cpu_limit: Path, **environment: str) -> str:
    """What a new process prints that starts private clusters, one after the other."""
    program = f"""
import os
import jobs.cluster, jobs.machine, ray
from pathlib import Path
jobs.machine._CPU_LIMIT = Path({str(cpu_limit)!r})
for _ in range({count}):
    with jobs.cluster.cluster("local"):
        print(jobs.cluster.nodes()[0].cpus, ray.get(ray.remote(lambda: "works").remote()))
    print(sorted(name for name in os.environ if name.startswith("RAY_AUTH")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout or done.stderr


def test_private_clusters_start_where_there_is_half_a_cpu_and_no_home(tmp_path: Path) -> None:
    """Of half a CPU Ray makes none, and in the home it would keep a token.

    Nor does the next cluster of a process get the first one's token.
    """
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    found = private_clusters(2, tmp_path / "cpu.max", HOME=os.devnull)
    assert found == "1 works\n[]\n" * 2


def test_a_private_cluster_takes_and_leaves_the_users_own_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = {"RAY_AUTH_TOKEN": "mine", "RAY_AUTH_MODE": "token"}
    read = []
    monkeypatch.setattr(
        "jobs.private_cluster._read_token_again",
        lambda: read.append({name: os.environ.get(name) for name in mine}),
    )
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    with own_token():
        os.environ["RAY_AUTH_MODE"] = "disabled"  # as Ray does
    assert read == [mine, mine]
