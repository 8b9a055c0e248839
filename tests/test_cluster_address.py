"""An address where no workers could run is told at once, in one line with the way out."""

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from servers import WebServer

from jobs.cluster_address import check_address, resolved
from jobs.pool import ClusterError, MistakeError


@pytest.fixture(params=["--address", "RAY_ADDRESS"])
def source(request: pytest.FixtureRequest) -> str:
    """What gives the address."""
    given: str = request.param
    return given


def refusal(address: str, source: str = "--address") -> str:
    with pytest.MonkeyPatch.context() as environment:
        if source == "RAY_ADDRESS":
            environment.setenv(source, address)
            address = "auto"
        with pytest.raises(ClusterError) as caught:
            check_address(address)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_cluster_is_named_at_once(scheme: str, source: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"  # taken, but nobody listens
        told = refusal(address, source)
    named = {"--address": repr(address), "RAY_ADDRESS": f"RAY_ADDRESS {address!r}"}[source]
    assert told.startswith(f"no Ray cluster at {named} (Connection refused): start")


def test_a_port_of_rays_that_is_not_ray_clients_is_told_at_once() -> None:
    server = grpc.server(ThreadPoolExecutor(1))  # as the GCS, which knows other methods
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        told = refusal(f"ray://127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert "port 10001" in told
    assert told.endswith(f"--address 127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_dashboards_port_is_no_clusters(scheme: str) -> None:
    web = WebServer({})
    with web.running():
        told = refusal(scheme + web.url.removeprefix("http://"))
    assert told.startswith("a web server answers at")
    assert "HOST:6379" in told


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "10.0.0.1", "10.0.0.1:port", "none", "ray://10.0.0.1"]
)
def test_what_is_no_address_is_refused_with_those_that_are(address: str, source: str) -> None:
    """RAY_ADDRESS is often a dashboard's, for `ray job submit`."""
    assert refusal(address, source) == (
        f"{source} {address!r} is not the address of a Ray cluster: use local, auto, HOST:6379 or"
        " ray://HOST:10001"
    )


def test_auto_is_what_ray_address_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("10.0.0.1:6379", "ray://10.0.0.1:10001", "local", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", named)
        assert resolved("auto") == named
        assert resolved("10.0.0.2:6379") == "10.0.0.2:6379"
    for unset in (lambda: monkeypatch.setenv("RAY_ADDRESS", ""), monkeypatch.undo):
        unset()
        assert resolved("auto") == "auto"


def test_a_submitted_job_does_not_pass_its_cluster_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without `--address auto`: a private cluster on the head takes that of others' jobs."""
    check_address("local")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}, "metadata": {}}')
    with pytest.raises(MistakeError) as caught:
        check_address("local")
    assert str(caught.value) == (
        "this is a job of a Ray cluster: use --address auto to run on the cluster, or --workers 0"
        " to run in this process alone"
    )
    check_address("auto")
