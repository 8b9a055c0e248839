"""A run that is to end does not wait for a store, and no row blames a file that it abandoned."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from reading import reading
from servers import WebServer

from pipeline.records import ImageRef
from pipeline.stores import http_transfer, retries, shutdown
from pipeline.stores.errors import ShutdownError
from pipeline.stores.http_transfer import Resource, delete, get, put
from pipeline.stores.shutdown import Shutdown


@pytest.fixture
def begin_soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Begins a shutdown, other than that of this process, 0.3 s from now."""
    monkeypatch.setattr(shutdown, "_MAX_REQUEST_S", 0.2)
    monkeypatch.setattr(shutdown, "_POLL_S", 0.02)
    made = Shutdown()
    for module in (retries, http_transfer):
        monkeypatch.setattr(module, "SHUTDOWN", made)
    timer = threading.Timer(0.3, made.begin)
    yield timer.start
    timer.cancel()


@pytest.mark.parametrize("fault", ["stall", "stall-midway", "503:SlowDown"])
@pytest.mark.parametrize("ask", [get, delete, lambda resource: put(resource, b"x" * 100)])
def test_a_store_that_does_not_answer_is_abandoned_and_not_asked_again(
    begin_soon: Callable[[], None], ask: Callable[[Resource], object], fault: str
) -> None:
    web = WebServer({"/a": bytes(1000)})
    web.faults["a"] = [fault] * 99
    with web.running():
        resource = Resource(f"{web.url}/a", lambda *_: {}, "store")
        begin_soon()
        began = time.monotonic()
        with pytest.raises(ShutdownError, match="the run is to end"):
            ask(resource)
        asked = len(web.requests)
        with pytest.raises(ShutdownError, match="does not answer, and the run is to end"):
            get(resource)
        assert time.monotonic() - began < 2
        assert len(web.requests) == asked


def test_a_store_that_answers_is_still_written_to(begin_soon: Callable[[], None]) -> None:
    web = WebServer({"/a": b"1"})
    with web.running():
        begin_soon()
        time.sleep(0.4)
        for _ in range(3):
            assert get(Resource(f"{web.url}/a", lambda *_: {}, "store")).data == b"1"


def test_no_row_says_that_an_abandoned_file_is_unreadable(begin_soon: Callable[[], None]) -> None:
    web = WebServer({})
    web.faults["a"] = ["stall"] * 99
    with web.running():
        begin_soon()
        with pytest.raises(ShutdownError):
            list(reading([ImageRef(f"{web.url}/a")]))


def test_a_run_that_waits_for_a_store_says_so_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retries, "_SAY_AFTER_S", 0.0)
    monkeypatch.setattr(retries, "_said_at", -1e9)
    monkeypatch.setitem(retries.RETRY_POLICIES, "store", retries.RetryPolicy(4, 0.01, 0.02))
    web = WebServer({"/a": b"1"})
    web.faults["a"] = ["503:SlowDown"] * 3
    caplog.set_level("INFO", "afd")
    with web.running():
        address = web.url.replace("://", "://me:secret@")
        get(Resource(f"{address}/a?sig=secret", lambda *_: {}, "store"))
    (line,) = caplog.messages
    assert line == f"{web.url[7:]}: HTTP 503 SlowDown; attempt 2 of 4 follows"
