"""The label job as a Ray job: submitted over HTTP to a head that somebody else has started."""

import json
import os
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


class Head(NamedTuple):
    address: str
    environment: dict[str, str]


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
    port = free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    command += [f"--temp-dir=/tmp/ray-{home.parent.name[-8:]}", "--object-store-memory=100000000"]
    with (home / "head.log").open("wb") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not answers(f"{address}/api/version"):
            assert process.poll() is None, (home / "head.log").read_text()
            assert time.monotonic() < deadline, (home / "head.log").read_text()
            time.sleep(0.5)
        yield Head(address, environment)
    finally:
        started = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(psutil.TimeoutExpired):
            process.wait(60)
        for child in (*started, process):
            with suppress(psutil.NoSuchProcess):
                child.kill()


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
