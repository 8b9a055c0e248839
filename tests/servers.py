"""Servers for the tests of remote sources: S3 (moto, a process), HTTP, and one with faults."""

from __future__ import annotations

import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import boto3
import pytest

from pipeline.stores import s3_access, storage

AWS = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_START_S = 60
MANY_KEYS = tuple(f"{number:05d}.jpg" for number in range(5200))
# moto's own server; a bucket of many keys is there from the start, as putting them takes long.
_MOTO = f"""
import sys
from moto.s3.models import s3_backends
from moto.server import main
bucket = s3_backends["123456789012"]["aws"]
bucket.create_bucket("many", "us-east-1")
for number in range({len(MANY_KEYS)}):
    bucket.put_object("many", f"{{number:05d}}.jpg", b"%d" % number)
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


@contextmanager
def moto_server() -> Iterator[str]:
    """The URL of an S3 server, a process of its own that ends with the block.

    It holds the bucket "many" with `MANY_KEYS`; each object is its number.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _MOTO, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **AWS},
    )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def use_s3(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process reach S3 at `url`, and forget how it was reached before."""
    for name, value in {**AWS, "AWS_ENDPOINT_URL": url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "_buckets", {})
    s3_access._look_up_credentials.cache_clear()


class Bucket:
    """A new bucket of an S3 server, written to as a user would, with boto3."""

    def __init__(self, url: str) -> None:
        self._client = boto3.client("s3", endpoint_url=url)
        self.name = f"bucket-{uuid.uuid4().hex}"
        self.url = f"s3://{self.name}"
        self._client.create_bucket(Bucket=self.name)

    def write(self, files: Mapping[str, bytes], *, acl: str = "private") -> None:
        for key, content in files.items():
            self._client.put_object(Bucket=self.name, Key=key, Body=content, ACL=acl)

    def download(self, prefix: str, folder: Path) -> None:
        """What is below a prefix, as files of a folder."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.name, Prefix=prefix):
            for item in page.get("Contents", ()):
                path = folder / item["Key"].removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self.name, item["Key"], str(path))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes = b""


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    method: str = "GET"
    body: bytes = b""


class Server(ThreadingHTTPServer):
    """Answers with `answer`, unless a fault is set for the path.

    faults: what happens to the next requests whose path matches a pattern, one entry each; for a
    PUT alone a pattern begins with "PUT ":
    "reset", "cut" (half the body, then the end), "reset-midway", "stall", "stall-midway", or a
    status with S3's name for it, such as "503:SlowDown".
    delay_s: before each answer, as over a network.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[Request] = []
        self.faults: dict[str, list[str]] = {}
        self.fault_headers: dict[str, str] = {}
        self.delay_s = 0.0
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def fault_of(self, path: str) -> str | None:
        with self._lock:
            for pattern, faults in self.faults.items():
                if faults and re.search(pattern, path):
                    return faults.pop(0)
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.closing.set()
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes: the second would wait for 40 ms
    server: Server

    def do_GET(self) -> None:
        self._respond("GET", b"")

    def do_PUT(self) -> None:
        fault = self.server.fault_of(f"PUT {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._respond("PUT", body, fault)

    def do_DELETE(self) -> None:
        self._respond("DELETE", b"")

    def do_POST(self) -> None:
        self._respond("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def _respond(self, method: str, body: bytes, fault: str | None = None) -> None:
        request = Request(self.path, dict(self.headers), method, body)
        self.server.requests.append(request)
        fault = fault or self.server.fault_of(self.path)
        if fault == "reset":
            self._reset()
        elif fault == "stall":
            self.server.closing.wait()
        elif fault and ":" in fault:
            status, code = fault.split(":")
            body = f"<Error><Code>{code}</Code></Error>".encode()
            self._send(Answer(int(status), self.server.fault_headers, body))
        else:
            self._send(self.server.answer(request), fault)

    def _send(self, answer: Answer, fault: str | None = None) -> None:
        time.sleep(self.server.delay_s)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if fault is None:
            self.wfile.write(answer.body)
            return
        self.wfile.write(answer.body[: len(answer.body) // 2])
        if fault == "reset-midway":
            self._reset()
        elif fault == "stall-midway":
            self.server.closing.wait()
        self.close_connection = True

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # closing then sends a reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Not among the tests' output."""


class WebServer(Server):
    """Serves `files` by their paths. ranges: whether it knows byte ranges."""

    def __init__(self, files: dict[str, bytes], *, ranges: bool = True) -> None:
        super().__init__()
        self.files = files
        self.redirects: dict[str, str] = {}
        self._ranges = ranges

    def answer(self, request: Request) -> Answer:
        path = unquote(urlsplit(request.path).path)
        if path in self.redirects:
            return Answer(302, {"Location": self.redirects[path]}, b"elsewhere")
        if path not in self.files:
            return Answer(404, {}, b"none")
        return ranged(self.files[path], request.headers.get("Range") if self._ranges else None)


def ranged(data: bytes, wanted: str | None) -> Answer:
    """The answer to a GET of `data` with a Range header, or without."""
    if wanted is None:
        return Answer(200, {}, data)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last or len(data)) + 1, len(data))
    if start >= len(data):
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop])


class Proxy(Server):
    """Stands before another server and passes everything on but for the faults."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = urlsplit(upstream).netloc

    def answer(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self._upstream)
        connection.request(request.method, request.path, request.body, request.headers)
        response = connection.getresponse()
        hop_by_hop = ("connection", "content-length", "transfer-encoding")
        headers = {k: v for k, v in response.getheaders() if k.lower() not in hop_by_hop}
        try:
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()
