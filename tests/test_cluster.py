"""Ray is started quietly, and what keeps it from starting is said in one line."""

import subprocess
from typing import Any

import pytest

import jobs.cluster
from jobs.cluster import _connect, cluster
from jobs.pool import ClusterError


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:  # finding out for real takes Ray a minute
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(jobs.cluster.ray, "init", refuse)
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster at 'auto'.*--address local"),
        cluster("auto"),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "failures", "calls"), [("local", 2, 3), ("local", 9, 3), ("10.0.0.1:1", 9, 1)]
)
def test_a_local_start_that_times_out_is_tried_again(
    address: str, failures: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def init(**_: Any) -> None:
        assert all(process.wait(10) for process in made), "the last start's processes live"
        made.append(subprocess.Popen(["sleep", "100"]))
        if len(made) <= failures:
            raise Exception("The current node timed out during startup.")  # Ray's own type

    monkeypatch.setattr("jobs.cluster.ray.init", init)
    if failures < calls:
        _connect({"address": address})
    else:
        with pytest.raises(ClusterError, match="did not start: The current node timed out"):
            _connect({"address": address})
    assert len(made) == calls
    made[-1].kill()
    made[-1].wait()
