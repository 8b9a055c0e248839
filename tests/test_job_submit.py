"""The label job as a Ray job: submitted over HTTP to a head that somebody else has started."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import polars as pl
import psutil
import pytest
from jpegs import encode, photo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]


class Head(NamedTuple):
    """address: of the dashboard. client: of Ray Client. metrics: what Prometheus would scrape."""

    address: str
    client: str
    metrics: str
    environment: dict[str, str]
    process: psutil.Process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head` in a home of its own; what it started ends with the test."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # the head runs PATH's python
        "RAY_AUTH_MODE": "disabled",  # or a token in the home decides
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    port, client_port, metrics_port = free_port(), free_port(), free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # or other heads take it
    command += [f"--metrics-export-port={metrics_port}", f"--ray-client-server-port={client_port}"]
    command += [f"--temp-dir=/tmp/ray-{home.parent.name[-8:]}", "--object-store-memory=100000000"]
    with (home / "head.log").open("wb") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not (answers(f"{address}/api/version") and listens(client_port)):
            assert process.poll() is None, (home / "head.log").read_text()
            assert time.monotonic() < deadline, (home / "head.log").read_text()
            time.sleep(0.5)
        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        yield Head(address, f"ray://127.0.0.1:{client_port}", metrics, environment, process)
    finally:
        started = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(psutil.TimeoutExpired):
            process.wait(60)
        for child in (*started, process):
            with suppress(psutil.NoSuchProcess):
                child.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_submitted_job_labels_everything_and_a_second_one_has_nothing_to_do(
    head: Head, tmp_path: Path
) -> None:
    photos, output, sent = tmp_path / "photos", tmp_path / "out", tmp_path / "sent"
    for folder in (photos, sent):
        folder.mkdir()
    for number in range(30):
        (photos / f"{number:02d}.jpg").write_bytes(encode(photo(70, 80, seed=number)))
    (sent / "job.yaml").write_text(
        "backbone: mobilenet_v3_small\nweights: none\nresize: 64\ncrop: 64\ndevice: cpu\n"
        "images_per_shard: 8\nprogress: plain\n"
    )
    label = ["afd", "label", str(photos), "--output", str(output), "--address", "auto"]
    command = [str(BIN / "ray"), "job", "submit", "--address", head.address]
    command += ["--working-dir", str(sent), "--", *label, "--config", "job.yaml"]
    for word in ("30 of 30 images", "nothing to do"):
        ended = subprocess.run(
            command, env=head.environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert word in ended.stdout + ended.stderr
    rows = pl.read_parquet(output / "labels" / "*.parquet")
    assert sorted(rows["uri"]) == sorted(map(str, photos.iterdir()))
    assert (rows["status"] == "ok").all()
    assert json.loads((output / "summary.json").read_text())["exit_reason"] == "complete"


def test_a_submitted_job_that_would_not_run_on_its_cluster_says_so(
    head: Head, tmp_path: Path
) -> None:
    """It would start a private cluster on the head, with the submission's working directory."""
    (tmp_path / "photo.jpg").write_bytes(encode(photo(70, 80)))
    command = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir"]
    command += [str(tmp_path), "--", "afd", "label", "photo.jpg", "--output", "out"]
    command += ["--backbone", "mobilenet_v3_small", "--weights", "none"]
    ended = subprocess.run(
        command, env=head.environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 1
    assert "afd label: this is a job of a Ray cluster: use --address auto to run" in ended.stdout


def through_ray_client(photos: Path, output: Path, number: int, address: str) -> list[str]:
    """The command that labels so many photos."""
    photos.mkdir()
    jpeg = encode(photo(70, 80))
    for n in range(number):
        (photos / f"{n}.jpg").write_bytes(jpeg)
    command = [str(BIN / "afd"), "label", str(photos), "--output", str(output)]
    command += ["--address", address, "--images-per-shard", "4", "--resize", "64"]
    return [*command, "--backbone", "mobilenet_v3_small", "--weights", "none", "--crop", "64"]


@pytest.mark.parametrize("source", ["--address", "RAY_ADDRESS"])
def test_a_driver_elsewhere_labels_through_ray_client(
    source: str, head: Head, tmp_path: Path
) -> None:
    photos, output, environment = tmp_path / "photos", tmp_path / "out", head.environment
    address = head.client
    if source == "RAY_ADDRESS":
        address, environment = "auto", {**environment, "RAY_ADDRESS": head.client}
    ended = subprocess.run(
        through_ray_client(photos, output, 12, address),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = pl.read_parquet(output / "labels" / "*.parquet")
    assert sorted(rows["uri"]) == sorted(map(str, photos.iterdir()))
    assert (rows["status"] == "ok").all()


def test_a_driver_whose_ray_client_server_dies_says_so_and_can_continue(
    head: Head, tmp_path: Path
) -> None:
    """The process that the cluster starts for each driver; the kernel may kill it for memory."""
    output = tmp_path / "out"
    command = through_ray_client(tmp_path / "photos", output, 2000, head.client)
    with subprocess.Popen(
        command, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        try:
            deadline = time.monotonic() + 200
            # So that the driver has heard of some of them.
            while len(list(output.glob("labels/*.parquet"))) < 8:
                assert driver.poll() is None, driver.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            for process in head.process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # a zombie: that of an earlier driver
                    if "--mode=specific-server" in process.cmdline():
                        process.kill()
            said, _ = driver.communicate(timeout=200)
        finally:
            driver.kill()
    *_, last = said.splitlines()
    assert driver.returncode == 1
    assert re.match(
        "afd label: the connection to the cluster was lost: .* continues the run$", last
    )
    assert "Traceback" not in said


def test_prometheus_is_told_what_the_dashboard_draws(head: Head, tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(12):
        (photos / f"{number:02d}.jpg").write_bytes(encode(photo(70, 80, seed=number)))
    (photos / "bad.jpg").write_bytes(b"<html>")
    command = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--no-wait", "--"]
    command += ["afd", "label", str(photos), "--output", str(output), "--address", "auto"]
    command += ["--backbone", "mobilenet_v3_small", "--weights", "none", "--device", "cpu"]
    command += ["--resize", "64", "--crop", "64", "--images-per-shard", "4"]
    subprocess.run(command, env=head.environment, capture_output=True, check=True, timeout=120)
    dashboard = (ROOT / "conf" / "grafana" / "afd-label.json").read_text()
    drawn = set(re.findall(r"ray_afd_\w+", dashboard))
    assert len(drawn) == 5
    told: dict[str, float] = {}
    deadline = time.monotonic() + 300
    while not drawn <= told.keys() and time.monotonic() < deadline:
        told |= scraped(head.metrics)  # a worker's counters are gone soon after it has ended
        time.sleep(0.5)
    assert drawn <= told.keys()
    assert told["ray_afd_images_total"] > 0


def scraped(url: str) -> dict[str, float]:
    """Sums over the labels, by metric."""
    found: dict[str, float] = {}
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        for line in response.read().decode().splitlines():
            if line.startswith("ray_afd_"):
                name, value = line.split("{")[0].split(" ")[0], float(line.rsplit(" ", 1)[1])
                found[name] = found.get(name, 0.0) + value
    return found
