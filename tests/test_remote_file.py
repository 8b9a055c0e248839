"""A remote file reads as the bytes it holds, in whatever way it is read, and ahead in parallel."""

import io
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Answer, Request, WebServer

from pipeline.stores import remote_file
from pipeline.stores.errors import StoreError, TransientStoreError
from pipeline.stores.http_transfer import Resource
from pipeline.stores.remote_file import RemoteFile

BLOCK = 1000
DATA = np.random.default_rng(0).bytes(20 * BLOCK + 123)
pytestmark = pytest.mark.usefixtures("impatient", "small_blocks")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(remote_file, "_HEAD_BYTES", 100)
    monkeypatch.setattr(remote_file, "_MAX_UNRANGED_BYTES", 10 * BLOCK)


@pytest.fixture
def server() -> Iterator[WebServer]:
    web = WebServer({"/a": DATA, "/empty": b"", "/small": DATA[:50]})
    with web.running():
        yield web


def opened(server: WebServer, path: str = "/a") -> RemoteFile:
    return RemoteFile(Resource(server.url + path, lambda *_: {}, "store"))


def ranges_of(server: WebServer) -> list[int]:
    """The blocks that were asked for, after the head."""
    asked = [request.headers["Range"] for request in server.requests]
    return [int(wanted.removeprefix("bytes=").split("-")[0]) // BLOCK for wanted in asked[1:]]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]),
        st.integers(-len(DATA), 2 * len(DATA)),
        st.integers(0, 5000),
    ),
    max_size=8,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_STEPS)
def test_it_reads_as_a_file_in_memory_does(
    server: WebServer, steps: list[tuple[int, int, int]]
) -> None:
    expected = io.BytesIO(DATA)
    with io.BufferedReader(opened(server), 64) as file:
        for whence, offset, count in steps:
            base = {0: 0, 1: expected.tell(), 2: len(DATA)}[whence]
            offset = max(offset, -base)  # a file in memory refuses what is before its start
            assert file.seek(offset, whence) == expected.seek(offset, whence)
            assert file.read(count) == expected.read(count)
            assert file.tell() == expected.tell()


def test_small_and_empty_files_take_one_request(server: WebServer) -> None:
    assert opened(server, "/small").read() == DATA[:50]
    assert opened(server, "/empty").read() == b""
    assert len(server.requests) == 2


def test_from_front_to_back_each_block_is_fetched_once(server: WebServer) -> None:
    assert opened(server).read() == DATA
    assert sorted(ranges_of(server)) == list(range(21))


def test_blocks_ahead_are_fetched_in_parallel_but_not_without_bound(server: WebServer) -> None:
    together = threading.Barrier(1 + remote_file._BLOCKS_AHEAD, timeout=5)
    original = server.answer

    def answer(request: Request) -> Answer:
        if len(server.requests) > 1:  # all but the head
            together.wait()
        return original(request)

    server.answer = answer  # type: ignore[method-assign]
    file = opened(server)
    file.read_ahead_to = (1 + remote_file._BLOCKS_AHEAD) * BLOCK
    file.seek(150)
    assert file.read(10) == DATA[150:160]  # comes only when the blocks ahead are asked for as well
    assert sorted(ranges_of(server)) == list(range(1 + remote_file._BLOCKS_AHEAD))
    file.close()


def test_here_and_there_nothing_is_fetched_ahead(server: WebServer) -> None:
    file = opened(server)
    for start in (18 * BLOCK, 5 * BLOCK, 12 * BLOCK):
        file.seek(start)
        assert file.read(7) == DATA[start : start + 7]
    assert ranges_of(server) == [18, 5, 12]


def test_no_further_is_fetched_than_will_be_read(server: WebServer) -> None:
    file = opened(server)
    file.read_ahead_to = 4 * BLOCK - 1
    with io.BufferedReader(file, 64) as buffered:
        buffered.seek(150)
        assert buffered.read(3 * BLOCK) == DATA[150:][: 3 * BLOCK]
    assert sorted(ranges_of(server)) == [0, 1, 2, 3]


def test_a_block_that_fails_can_be_asked_for_again(server: WebServer) -> None:
    file = opened(server)
    server.faults["a"] = ["503:SlowDown"] * 3
    file.seek(5 * BLOCK)
    with pytest.raises(TransientStoreError, match="HTTP 503 SlowDown; tried 3 times"):
        file.read(10)
    assert file.read(10) == DATA[5 * BLOCK :][:10]


def test_a_file_that_has_changed_meanwhile_is_to_be_opened_again(server: WebServer) -> None:
    """Parts of two versions must not be joined into one file."""
    for changed in (DATA[: 3 * BLOCK + 5], DATA + b"x"):
        server.files["/a"] = DATA
        file = opened(server)
        server.files["/a"] = changed
        for start in (3 * BLOCK + 1, 15 * BLOCK):
            file.seek(start)
            with pytest.raises(TransientStoreError, match="it was rewritten while it was read"):
                file.read(10)
        assert opened(server).read() == changed
    del server.files["/a"]
    with pytest.raises(TransientStoreError, match="it was removed while it was read: HTTP 404"):
        file.read(10)


def test_a_store_tells_another_file_of_the_same_length(server: WebServer) -> None:
    """By its ETag; web servers that share a URL may disagree about a file's ETag."""
    original, etags = server.answer, iter(['"1"', '"1"', '"2"', '"1"', '"1"', '"2"'])

    def answer(request: Request) -> Answer:
        found = original(request)
        return found._replace(headers={**found.headers, "ETag": next(etags)})

    server.answer = answer  # type: ignore[method-assign]
    for kind, blocks in (("store", 1), ("web", 2)):
        file = RemoteFile(Resource(server.url + "/a", lambda *_: {}, kind))
        file.seek(10 * BLOCK)
        assert file.read(10) == DATA[10 * BLOCK :][:10]
        file.seek(15 * BLOCK)
        if blocks == 2:
            assert file.read(10) == DATA[15 * BLOCK :][:10]
        else:
            with pytest.raises(TransientStoreError, match="it was rewritten while it was read"):
                file.read(10)


def test_a_server_without_ranges_gives_small_files_whole() -> None:
    web = WebServer({"/a": DATA[: 9 * BLOCK], "/large": DATA}, ranges=False)
    with web.running():
        file = opened(web)
        file.seek(5 * BLOCK)
        assert file.read() == DATA[5 * BLOCK : 9 * BLOCK]
        assert len(web.requests) == 1
        with pytest.raises(StoreError, match=f"at most {10 * BLOCK} are read at once"):
            opened(web, "/large")


def test_a_server_that_does_not_say_how_long_a_file_is_gives_small_ones_whole(
    server: WebServer,
) -> None:
    original = server.answer

    def answer(request: Request) -> Answer:
        found = original(request)
        if span := found.headers.get("Content-Range"):
            found.headers["Content-Range"] = span.rpartition("/")[0] + "/*"
        return found

    server.answer = answer  # type: ignore[method-assign]
    server.files |= {"/a": DATA[: 9 * BLOCK], "/large": DATA, "/as long": DATA[:100]}
    for path in ("/a", "/small", "/empty", "/as long"):  # the last is as long as the first request
        assert io.BufferedReader(opened(server, path)).read() == server.files[path]
    with pytest.raises(StoreError, match=f"at most {10 * BLOCK} are read at once"):
        opened(server, "/large")
