"""One GET against real sockets: what is read, what is tried again, and what is given up."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from servers import Answer, WebServer

from pipeline.stores.connections import address_of
from pipeline.stores.errors import (
    AccessError,
    MissingError,
    StoreError,
    TooLargeError,
    TransientStoreError,
)
from pipeline.stores.http_transfer import Resource, _is_same_server, get
from pipeline.stores.retries import RETRY_POLICIES, RetryPolicy

DATA = bytes(range(256)) * 8
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def server() -> Iterator[WebServer]:
    web = WebServer({"/a.jpg": DATA, "/empty": b"", "/sp ace/é%.jpg": b"odd"})
    with web.running():
        yield web


def resource(url: str, kind: str = "store") -> Resource:
    return Resource(url, lambda *_: {"X-Signed": "yes"}, kind)


def test_a_file_and_its_ranges(server: WebServer) -> None:
    a = resource(f"{server.url}/a.jpg")
    assert (get(a).data, get(a).total_bytes) == (DATA, len(DATA))
    for start, stop in ((0, 1), (5, 900), (2000, 9999), (0, 9999), (2047, 2048)):
        answer = get(a, start, stop)
        assert answer.data == DATA[start:stop]
        assert answer.total_bytes == len(DATA)
    for start in (2048, 5000):  # past the end
        answer = get(a, start, start + 2)
        assert (answer.data, answer.total_bytes) == (b"", len(DATA))
    empty = resource(f"{server.url}/empty")
    assert (get(empty).data, get(empty, 0, 10).data, get(empty, 0, 10).total_bytes) == (b"", b"", 0)
    assert {request.headers["X-Signed"] for request in server.requests} == {"yes"}


def test_a_url_is_asked_for_as_it_is_given_but_for_what_http_cannot_carry(
    server: WebServer,
) -> None:
    for path in ("/sp%20ace/%C3%A9%25.jpg", "/sp ace/é%25.jpg", "/sp ace/é%25.jpg?q=ü x#part"):
        assert get(resource(server.url + path)).data == b"odd"
    assert server.requests[-1].path == "/sp%20ace/%C3%A9%25.jpg?q=%C3%BC%20x"


def test_connections_are_kept_and_reopened_when_the_server_has_closed_them(
    server: WebServer,
) -> None:
    opened: list[object] = []
    original = server.process_request
    server.process_request = lambda *of: (opened.append(of), original(*of))  # type: ignore
    a = resource(f"{server.url}/a.jpg")
    for _ in range(5):
        get(a)
    assert len(opened) == 1
    server.faults["a.jpg"] = ["reset"]  # an idle connection that has gone is no failed attempt
    began = time.monotonic()
    assert get(a).data == DATA
    assert (len(opened), len(server.requests)) == (2, 7)
    assert time.monotonic() - began < 0.2


PASSING = ["503:SlowDown", "500:InternalError", "429:", "400:RequestTimeout", "reset", "cut"]
PASSING += ["reset-midway", "stall", "stall-midway", "400:BadDigest", "409:OperationAborted"]
PASSING += ["520:", "524:", "529:"]  # of servers in front of others, such as Cloudflare's


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again(server: WebServer, fault: str) -> None:
    server.faults["a.jpg"] = [fault] * 2
    assert get(resource(f"{server.url}/a.jpg")).data == DATA
    server.faults["a.jpg"] = [fault] * 2
    assert get(resource(f"{server.url}/a.jpg"), 10, 1000).data == DATA[10:1000]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503:SlowDown", "HTTP 503 SlowDown"),
        ("reset", "closed|reset"),
        ("cut", f"the connection ended after 1024 of {len(DATA)} bytes"),
        ("stall", "no answer in time"),
        ("stall-midway", "no answer in time"),
    ],
)
def test_what_does_not_pass_is_given_up_after_the_stated_attempts(
    server: WebServer, fault: str, reason: str
) -> None:
    server.faults["a.jpg"] = [fault] * 50
    began = time.monotonic()
    with pytest.raises(TransientStoreError, match=reason) as caught:
        get(resource(f"{server.url}/a.jpg"))
    assert str(caught.value).count("tried 3 times in") == 1
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 3
    assert len(server.requests) <= 3 + 2  # an idle connection may fail without being an attempt


def test_pauses_double_and_have_an_end() -> None:
    policy = RetryPolicy(9, first_pause_s=0.25, max_pause_s=16)
    for attempt, most in enumerate([0.25, 0.5, 1, 2, 4, 8, 16, 16, 16], start=1):
        pauses = [policy.pause_s(attempt) for _ in range(50)]
        assert all(most / 2 <= pause <= most for pause in pauses)
        assert len(set(pauses)) > 1
    assert policy.pause_s(5000) <= 16


def test_a_server_may_ask_for_a_longer_pause_within_bounds(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RETRY_POLICIES, "store", RetryPolicy(2, 0.001, max_pause_s=0.3))
    server.faults["a.jpg"], server.fault_headers = ["429:"], {"Retry-After": "60"}
    began = time.monotonic()
    assert get(resource(f"{server.url}/a.jpg")).data == DATA
    assert 0.3 <= time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("404:NoSuchKey", MissingError, "HTTP 404 NoSuchKey"),
        ("410:", MissingError, "HTTP 410 Gone"),
        ("403:AccessDenied", StoreError, "HTTP 403 AccessDenied"),
        ("400:Whatever", StoreError, "HTTP 400 Whatever"),
        ("403:ExpiredToken", AccessError, "HTTP 403 ExpiredToken"),
        ("403:SignatureDoesNotMatch", AccessError, "HTTP 403 SignatureDoesNotMatch"),
        ("404:NoSuchBucket", AccessError, "HTTP 404 NoSuchBucket"),
        ("301:PermanentRedirect", AccessError, "another region: set AWS_REGION, or the AWS_ENDP"),
        ("400:AuthorizationHeaderMalformed", AccessError, "another region, eu-x-1: set AWS_REGION"),
        ("403:RequestTimeTooSkewed", AccessError, "HTTP 403 RequestTimeTooSkewed: set the clock"),
        ("401:", AccessError, "HTTP 401 Unauthorized"),
        ("501:NotImplemented", StoreError, "HTTP 501 NotImplemented"),
        ("505:", StoreError, "HTTP 505 HTTP Version Not Supported"),
    ],
)
def test_what_does_not_pass_by_waiting_is_not_tried_again(
    server: WebServer, fault: str, error: type[Exception], message: str
) -> None:
    server.faults["a.jpg"] = [fault]
    if "Malformed" in fault:
        server.fault_headers = {"x-amz-bucket-region": "eu-x-1"}
    with pytest.raises(error, match=message) as caught:
        get(resource(f"{server.url}/a.jpg"))
    assert type(caught.value) is error
    assert len(server.requests) == 1


def test_who_sends_no_credentials_is_told(server: WebServer) -> None:
    server.faults["a.jpg"] = ["403:AccessDenied", "401:"]
    for error in (StoreError, AccessError):
        with pytest.raises(error, match="there are no credentials in the environment"):
            get(Resource(f"{server.url}/a.jpg", lambda *_: {}, "store"))


def test_strangers_on_the_web_are_not_a_store(server: WebServer) -> None:
    server.faults["a.jpg"] = ["401:"]
    with pytest.raises(StoreError, match="HTTP 401"):
        get(resource(f"{server.url}/a.jpg", "web"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])  # the second: another port alone
def test_redirects_are_followed_without_the_credentials(server: WebServer, host: str) -> None:
    other = WebServer({"/b.jpg": DATA})
    with other.running():
        elsewhere = other.url.replace("127.0.0.1", host)
        server.redirects = {"/1": "/2", "/2": f"{elsewhere}/b.jpg?signed", "/loop": "/loop"}
        other.files["/bü.jpg"] = DATA
        # As most servers send it; the test's own encodes headers as Latin-1.
        server.redirects["/raw"] = f"{elsewhere}/bü.jpg".encode().decode("latin-1")
        server.redirects["/latin-1"] = f"{elsewhere}/bü.jpg"
        server.redirects |= {"/ftp": "ftp://localhost/a", "/file": "file:///etc/hostname"}
        assert get(resource(f"{server.url}/1"), 3, 9).data == DATA[3:9]
        assert [request.headers.get("X-Signed") for request in server.requests] == ["yes", "yes"]
        for path in ("/raw", "/latin-1"):
            assert get(resource(server.url + path)).data == DATA
        request = other.requests[0]
        assert request.path == "/b.jpg?signed"
        assert "X-Signed" not in request.headers
    for path in ("/ftp", "/file"):
        with pytest.raises(StoreError, match="not a valid URL"):
            get(resource(server.url + path))
    with pytest.raises(StoreError, match="more than 5 redirects"):
        get(resource(f"{server.url}/loop"))


@pytest.mark.parametrize(
    ("first", "then", "is_same"),
    [
        ("https://a/1", "https://a:443/2", True),
        ("http://a/1", "https://a/1", True),
        ("https://a/1", "http://a/1", False),  # would show the credentials to everyone
        ("http://a:1/1", "http://a:2/1", False),
        ("https://a/1", "https://b/1", False),
    ],
)
def test_credentials_stay_with_the_server_they_are_for(
    first: str, then: str, is_same: bool
) -> None:
    assert _is_same_server(address_of(then), address_of(first)) is is_same


def test_what_is_too_large_is_not_read(server: WebServer) -> None:
    a = resource(f"{server.url}/a.jpg")
    with pytest.raises(TooLargeError, match=f"{len(DATA)} bytes: at most 100 are read at once"):
        get(a, max_bytes=100)
    assert get(a, 0, 100, max_bytes=100).data == DATA[:100]
    assert len(server.requests) == 2


def test_a_server_without_ranges() -> None:
    web = WebServer({"/a.jpg": DATA}, ranges=False)
    with web.running():
        a = resource(f"{web.url}/a.jpg")
        answer = get(a, 0, 100)
        assert (answer.data, answer.total_bytes) == (DATA, len(DATA))
        with pytest.raises(StoreError, match="does not support byte ranges: download the file"):
            get(a, 100, 200)


@pytest.mark.parametrize(
    ("range_sent", "body", "message"),
    [
        ("bytes 0-99/2048", DATA[:100], "the bytes from 0 on, not from 100"),  # a broken cache
        ("bytes 100-199/2048", DATA[100:150], "sent 50 of 100 bytes"),
    ],
)
def test_another_part_than_was_asked_for_is_tried_again(
    server: WebServer, range_sent: str, body: bytes, message: str
) -> None:
    original, wrong = server.answer, [True] * 2
    server.answer = lambda request: (  # type: ignore[method-assign]
        Answer(206, {"Content-Range": range_sent}, body)
        if wrong and wrong.pop()
        else original(request)
    )
    assert get(resource(f"{server.url}/a.jpg"), 100, 200).data == DATA[100:200]
    wrong.extend([True] * 3)
    with pytest.raises(TransientStoreError, match=message):
        get(resource(f"{server.url}/a.jpg"), 100, 200)


def test_what_is_no_url_or_no_server() -> None:
    for url in ("http:///a.jpg", "http://[broken/a", "http://h:port/a"):
        with pytest.raises(StoreError, match="not a valid URL"):
            get(resource(url))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # does not listen
        with pytest.raises(TransientStoreError, match="Connection refused; tried 3 times"):
            get(resource(f"http://127.0.0.1:{taken.getsockname()[1]}/a"))
    with pytest.raises(TransientStoreError, match="tried 3 times"):
        get(resource("http://no-such-host.invalid/a"))


def test_a_long_error_page_is_no_other_error() -> None:
    page = b"HTTP/1.1 404 Not Found\r\n\r\n" + bytes(2 << 20)  # it ends with the connection
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection, suppress(ConnectionError):
                connection.recv(1000)
                connection.sendall(page)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(MissingError, match="HTTP 404 Not Found"):
            get(resource(f"http://127.0.0.1:{listener.getsockname()[1]}/a"))


def test_a_servers_own_words_are_cut_short() -> None:
    """They go into a row's error, and a status line may have 64 kB."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 404 " + b"no " * 20_000 + b"\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(MissingError, match=r"^HTTP 404 (no ?){20,22}n?$"):
            get(resource(f"http://127.0.0.1:{listener.getsockname()[1]}/a"))


def test_what_answers_is_no_http_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(3):
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TransientStoreError, match=r"no HTTP answer \(BadStatusLine\)"):
            get(resource(f"http://127.0.0.1:{listener.getsockname()[1]}/a"))


def test_many_threads_read_at_once(server: WebServer, persistent: None) -> None:
    server.files |= {f"/{number}": b"%d" % number for number in range(400)}
    server.faults = {f"/{n}$": ["503:SlowDown", "cut"] for n in range(0, 400, 7)}
    with ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda n: get(resource(f"{server.url}/{n}")).data, range(400))
        assert list(found) == [b"%d" % number for number in range(400)]
