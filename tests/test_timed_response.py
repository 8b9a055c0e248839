"""Answers that come too slowly as a whole, or break off."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from pipeline.stores.errors import TransientStoreError
from pipeline.stores.http_transfer import Resource, get
from pipeline.stores.retries import RETRY_POLICIES, RetryPolicy


def resource(url: str) -> Resource:
    return Resource(url, lambda *_: {}, "store")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\n"])
def test_a_head_that_breaks_off_is_no_empty_file(
    monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setitem(
        RETRY_POLICIES, "store", RetryPolicy(1, read_timeout_s=5, min_bytes_per_s=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(head)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TransientStoreError, match="ended within the response's head"):
            get(resource(f"http://127.0.0.1:{listener.getsockname()[1]}/a"))


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n", b"X-A: b\r\n"),
    ],
    ids=["header", "100", "redirect", "error", "body", "long body", "chunk size", "trailer"],
)
def test_whatever_drips_is_given_up(
    monkeypatch: pytest.MonkeyPatch, begins: bytes, goes_on: bytes
) -> None:
    """No single wait for bytes is long; the whole answer would take for ever."""
    monkeypatch.setitem(
        RETRY_POLICIES, "store", RetryPolicy(1, read_timeout_s=0.2, min_bytes_per_s=1e6)
    )
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with listener.accept()[0] as connection, suppress(ConnectionError):
                connection.sendall(begins)
                while not ended.wait(0.02):
                    connection.sendall(goes_on)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        asking = ThreadPoolExecutor(1).submit(get, resource(url))
        try:
            with pytest.raises(TransientStoreError, match=r"not complete after 0\.\d s: too slow"):
                asking.result(2)
        finally:
            ended.set()


def test_an_answer_that_is_slow_but_not_too_slow_is_waited_for() -> None:
    """Many times as long as any single wait may be, in steps."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send_slowly() -> None:
            with listener.accept()[0] as connection:
                time.sleep(0.3)
                for byte in head:
                    connection.sendall(bytes([byte]))
                for _ in range(16):
                    time.sleep(0.1)
                    connection.sendall(bytes(1 << 16))

        threading.Thread(target=send_slowly, daemon=True).start()
        began = time.monotonic()
        answer = get(resource(f"http://127.0.0.1:{listener.getsockname()[1]}/a"))
    assert answer.data == bytes(1 << 20)
    assert time.monotonic() - began > 1.6
