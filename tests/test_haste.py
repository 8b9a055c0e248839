"""A run that is to end does not wait for a store, and takes nothing for lost that it gave up."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from reading import reading
from servers import WebServer

from pipeline.records import ImageRef
from pipeline.stores import attempts, haste, http_transfer
from pipeline.stores.attempts import GivenUpError
from pipeline.stores.haste import Haste
from pipeline.stores.http_transfer import Resource, delete, get, put


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Tells the process, or what it takes for that, to end; half a second from now."""
    monkeypatch.setattr(haste, "_MOST_S", 0.2)
    monkeypatch.setattr(haste, "_POLL_S", 0.02)
    made = Haste()
    for module in (attempts, http_transfer):
        monkeypatch.setattr(module, "HASTE", made)
    timer = threading.Timer(0.3, made.begin)
    yield timer.start
    timer.cancel()


@pytest.mark.parametrize("fault", ["stall", "stall-midway", "503:SlowDown"])
@pytest.mark.parametrize("ask", [get, delete, lambda resource: put(resource, b"x" * 100)])
def test_a_store_that_keeps_a_run_waiting_is_given_up_and_not_asked_again(
    hurry: Callable[[], None], ask: Callable[[Resource], object], fault: str
) -> None:
    web = WebServer({"/a": bytes(1000)})
    web.faults["a"] = [fault] * 99
    with web.running():
        resource = Resource(f"{web.url}/a", lambda *_: {}, "store")
        hurry()
        began = time.monotonic()
        with pytest.raises(GivenUpError, match="the run is to end"):
            ask(resource)
        asked = len(web.requests)
        with pytest.raises(GivenUpError, match="keeps a run waiting that is to end"):
            get(resource)
        assert time.monotonic() - began < 2
        assert len(web.requests) == asked


def test_a_store_that_answers_is_still_written_to(hurry: Callable[[], None]) -> None:
    web = WebServer({"/a": b"1"})
    with web.running():
        hurry()
        time.sleep(0.4)
        for _ in range(3):
            assert get(Resource(f"{web.url}/a", lambda *_: {}, "store")).data == b"1"


def test_no_row_says_that_what_was_given_up_is_unreadable(hurry: Callable[[], None]) -> None:
    web = WebServer({})
    web.faults["a"] = ["stall"] * 99
    with web.running():
        hurry()
        with pytest.raises(GivenUpError):
            list(reading([ImageRef(f"{web.url}/a")]))


def test_a_run_that_waits_for_a_store_says_so_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attempts, "_TELL_AFTER_S", 0.0)
    monkeypatch.setattr(attempts, "_told_at", -1e9)
    monkeypatch.setitem(attempts.PATIENCE, "store", attempts.Patience(4, 0.01, 0.02))
    web = WebServer({"/a": b"1"})
    web.faults["a"] = ["503:SlowDown"] * 3
    caplog.set_level("INFO", "afd")
    with web.running():
        address = web.url.replace("://", "://me:secret@")
        get(Resource(f"{address}/a?sig=secret", lambda *_: {}, "store"))
    (line,) = caplog.messages
    assert line == f"{web.url[7:]}: HTTP 503 SlowDown; attempt 2 of 4 follows"
