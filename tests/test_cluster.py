"""Ray is started quietly, and what keeps it from starting is said in one line."""

import errno
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import jobs.cluster
from jobs.cluster import _join, _start, cluster, free, logs_folder
from jobs.pool import ClusterError, MistakeError
from jobs.private_cluster import own_token


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:  # finding out for real takes Ray a minute
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(jobs.cluster.ray, "init", refuse)
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster at 'auto'.*--address local"),
        cluster("auto"),
    ):
        pass


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionError])
def test_a_cluster_that_refuses_gives_its_whole_reason(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def init(**_: Any) -> None:
        raise kind("Version mismatch: the cluster has\n    Ray: 2.1\nthis process\n    Ray: 3")

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    address = "10.0.0.1:6379"
    with pytest.raises(ClusterError, match=f"'{address}': Version .* Ray: 2.1 this .* Ray: 3$"):
        _join(address)


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_may_want_a_token_is_said_to(
    monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """Ray prints that a token is missing, but raises only that the connection failed."""

    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("jobs.cluster.check_address", lambda _: None)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ClusterError) as caught, cluster("10.0.0.1:6379"):
        pass
    assert ("RAY_AUTH_MODE=token" in str(caught.value)) is (mode is None)


def test_a_connection_that_the_process_has_already_is_left_to_it(address: str) -> None:
    """A notebook's after `ray.init()`, or that of a task or an actor."""

    def tried(address: str) -> str:
        with pytest.raises(MistakeError) as caught, cluster(address):
            pass
        return str(caught.value)

    ray.init(address=address, log_to_driver=False)
    try:
        mine = ray.put("still there")
        for told in (tried("local"), tried(address), ray.get(ray.remote(tried).remote("auto"))):
            assert re.match("this process uses Ray already: .*workers=0.* ray.shutdown", told)
        assert ray.get(mine) == "still there"
    finally:
        ray.shutdown()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_auto_joins_the_cluster_that_ray_address_names(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Client takes no job configuration: it could not be sent as JSON."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(jobs.cluster.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr("jobs.cluster.check_address", lambda _: None)
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}10.0.0.1:6379")
    with cluster("auto"):
        pass
    assert [options["address"] for options in asked] == [f"{scheme}10.0.0.1:6379"]
    assert ("job_config" in asked[0]) is (scheme == "")


@pytest.mark.parametrize(("failures", "calls"), [(2, 3), (9, 3)])
def test_a_local_start_that_times_out_is_tried_again(
    failures: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def init(**_: Any) -> None:
        assert all(process.wait(10) for process in made), "the last start's processes live"
        made.append(subprocess.Popen(["sleep", "100"]))
        if len(made) <= failures:
            raise Exception("The current node timed out during startup.")  # Ray's own type

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    if failures < calls:
        _start(1)
    else:
        with pytest.raises(ClusterError, match="did not start: The current node timed out"):
            _start(1)
    assert len(made) == calls
    made[-1].kill()
    made[-1].wait()


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


def test_sigterm_while_ray_starts_ends_the_block_as_ctrl_c_does() -> None:
    """`ray.init` has its own handler of SIGTERM, which would exit with the signal's number."""
    program = """
        import signal
        import jobs.cluster
        from jobs.exits import exit_now, interrupt_on_signals
        interrupt_on_signals()
        start = jobs.cluster.ray.init
        def init(**options):
            start(**options)
            signal.raise_signal(signal.SIGTERM)
        jobs.cluster.ray.init = init
        before = signal.getsignal(signal.SIGTERM)
        try:
            with jobs.cluster.cluster("local", num_cpus=1):
                print("started")
        except KeyboardInterrupt:
            restored = signal.getsignal(signal.SIGTERM) == before
            print("interrupted", restored, jobs.cluster.ray.is_initialized())
        exit_now(0)  # as the command does: at the interpreter's end, Ray's threads may abort
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=240,  # on a machine that is busy enough, Ray has to be started again
    )
    assert (done.returncode, done.stdout) == (0, "interrupted True False\n")


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


def test_the_logs_that_a_message_names_are_those_of_the_connected_cluster(
    head: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever RAY_TMPDIR or --temp-dir puts them, and whichever cluster is the latest."""
    with cluster(head.address):
        assert logs_folder() == head.head_node.get_logs_dir_path()
        with monkeypatch.context() as newer:  # a release of Ray
            newer.delattr(ray._private.worker, "_global_node")
            assert logs_folder() == "/tmp/ray/session_latest/logs"
    assert logs_folder() == "/tmp/ray/session_latest/logs"  # nor does Ray Client know


def test_workers_import_nothing_from_the_current_folder(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded collection is often the current folder, and may hold a `torch.py`."""
    (tmp_path / "only_in_the_collection.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [folder for folder in sys.path if folder])

    def is_found() -> bool:
        return importlib.util.find_spec("only_in_the_collection") is not None

    with cluster(address):
        assert not ray.get(ray.remote(is_found).remote())
    monkeypatch.syspath_prepend(tmp_path)  # as under `python -m`
    with cluster(address):
        assert ray.get(ray.remote(is_found).remote())


def test_what_is_free_is_known_of_each_node(head: Cluster) -> None:
    """Two CPUs are no room for a worker of two when they are on two nodes."""

    class Other:
        def holds(self) -> bool:
            return True

    node = head.add_node(num_cpus=3, wait=True)
    try:
        with cluster(head.address):
            other = ray.remote(num_cpus=3)(Other).remote()
            assert ray.get(other.holds.remote())
            assert sorted(free()) == [(0, 0), (2, 0)]
    finally:
        head.remove_node(node)


def test_what_ray_reports_of_lost_processes_is_not_printed(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a lost node, dozens of lines of its log: on stdout, whatever `log_to_driver` says."""
    with cluster(address):
        client = ray._private.worker.global_worker.gcs_client
        ray._private.utils.publish_error_to_driver("died", "Raylet is terminated", client)
        time.sleep(1)  # a thread of Ray's prints it
    assert "Raylet" not in capsys.readouterr().out
