"""Ray is started quietly, and what keeps it from starting is said in one line."""

import importlib.util
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import jobs.cluster
from jobs.cluster import _join, _start, cluster, free, logs_folder
from jobs.pool import ClusterError, MistakeError


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
