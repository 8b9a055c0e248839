"""Files over HTTP: every remote read passes through `get`, every write through `put` and `delete`.

What they raise names no URL: that might hold a signature.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import urljoin

from pipeline.stores.attempts import (
    PATIENCE,
    AttemptFailedError,
    MissingError,
    Patience,
    ReadError,
    patiently,
)
from pipeline.stores.connections import Address, Connections, address_of, connect
from pipeline.stores.haste import HASTE
from pipeline.stores.refusals import refusal_of

MOST_BYTES = 1 << 30  # no image is larger; a video among them must not fill the memory
_CHUNK_BYTES = 1 << 18
_MOST_ERROR_BYTES = 1 << 20
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_HOST = re.compile(r"\w*://(?:[^/?#]*@)?([^/?#]*).*", re.DOTALL)
_FIRST_BYTE = re.compile(r"bytes (\d+)-")
_PUT_BLOCK_BYTES = 1 << 16

# (method, url) -> headers
Sign = Callable[[str, str], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Resource:
    """A URL and how to be let in: `sign(method, url)` gives the headers of one attempt.

    kind: "store" for one service of many objects, "web" for any host.
    """

    url: str
    sign: Sign
    kind: str

    @property
    def host(self) -> str:
        """For messages: without user, password and all that follows."""
        return _HOST.sub(r"\1", self.url)


@dataclass(frozen=True, slots=True)
class Answer:
    """data: the bytes asked for, fewer at the end of the file. total_bytes: of the whole file.

    version: what a store calls this content; "" where nothing is known of it.
    """

    data: bytes
    total_bytes: int
    headers: http.client.HTTPMessage
    version: str = ""


def get(
    resource: Resource, start: int = 0, stop: int | None = None, *, most_bytes: int = MOST_BYTES
) -> Answer:
    """The bytes [start, stop) of a resource, or all of it.

    most_bytes: more are not read: a larger file, or one from a server that knows no ranges, is
    refused. Raises MissingError, TemporaryReadError, AccessError or another ReadError.
    """
    return patiently(
        PATIENCE[resource.kind],
        resource.host,
        lambda patience: _attempt(resource, start, stop, most_bytes, patience),
    )


def put(resource: Resource, data: bytes) -> None:
    """Store an object whole, in one request; nothing is there before its last byte has arrived.

    The server holds it against an MD5 of what was sent. At most 5 GiB, S3's limit of one request.
    Raises as `get`, but for MissingError only where the bucket is missing.
    """
    digest = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")
    headers = {"Content-MD5": digest, "Content-Length": str(len(data))}
    patiently(
        PATIENCE[resource.kind],
        resource.host,
        lambda patience: _send(resource, "PUT", headers, data, patience),
    )


def delete(resource: Resource) -> None:
    """Remove an object, if it is there. Raises as `put`."""
    with suppress(MissingError):
        patiently(
            PATIENCE[resource.kind],
            resource.host,
            lambda patience: _send(resource, "DELETE", {}, None, patience),
        )


def _attempt(
    resource: Resource, start: int, stop: int | None, most_bytes: int, patience: Patience
) -> Answer:
    address, connection, response = _follow(resource, start, stop, patience)
    try:
        answer = _answer(response, resource, start, stop, most_bytes, patience)
        if resource.kind == "store" and address == address_of(resource.url):
            return replace(answer, version=response.getheader("ETag") or "")
        return answer  # servers of one file on the web may disagree about its ETag
    finally:
        _give_back(address, connection, response)


def _send(
    resource: Resource,
    method: str,
    headers: dict[str, str],
    data: bytes | None,
    patience: Patience,
) -> None:
    address = address_of(resource.url)
    headers = {**resource.sign(method, resource.url), **headers}
    connection, response = _ask(address, headers, patience, method, data)
    try:
        if response.status not in (200, 201, 204):
            _fail(response, resource, patience)
        _read(response, _CHUNK_BYTES, patience)
    finally:
        _give_back(address, connection, response)


def _give_back(
    address: Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
) -> None:
    if response.isclosed() and not response.will_close:  # read to its end
        _CONNECTIONS.give(address, connection)
    else:
        connection.close()


_CONNECTIONS = Connections()


def _follow(
    resource: Resource, start: int, stop: int | None, patience: Patience
) -> tuple[Address, http.client.HTTPConnection, http.client.HTTPResponse]:
    """The response, after redirects; credentials go to the first host alone."""
    url, first_host = resource.url.partition("#")[0], ""
    for _ in range(_MOST_REDIRECTS + 1):
        address = address_of(url)
        first_host = first_host or address.host
        headers = resource.sign("GET", url) if address.host == first_host else {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        connection, response = _ask(address, headers, patience)
        location = response.getheader("Location")
        if response.status not in _REDIRECTS or location is None:
            return address, connection, response
        _discard(address, connection, response)
        url = urljoin(url, location).partition("#")[0]
    raise ReadError(f"more than {_MOST_REDIRECTS} redirects")


def _discard(
    address: Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
) -> None:
    """Be done with a response whose content does not matter; a short one leaves the connection."""
    if response.length is None or response.length > _CHUNK_BYTES or response.will_close:
        connection.close()
    else:
        response.read()
        _CONNECTIONS.give(address, connection)


def _ask(
    address: Address,
    headers: dict[str, str],
    patience: Patience,
    method: str = "GET",
    data: bytes | None = None,
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    kept = _CONNECTIONS.take(address)
    if kept is not None:
        try:
            return kept, _exchange(kept, address, headers, method, data)
        except (http.client.HTTPException, ConnectionError):  # closed meanwhile: no fault
            kept.close()
        except BaseException:
            kept.close()
            raise
    new = connect(address, connect_s=patience.connect_s, silence_s=patience.silence_s)
    try:
        return new, _exchange(new, address, headers, method, data)
    except BaseException:
        new.close()
        raise


def _exchange(
    connection: http.client.HTTPConnection,
    address: Address,
    headers: dict[str, str],
    method: str,
    data: bytes | None,
) -> http.client.HTTPResponse:
    HASTE.asked(connection)
    connection.blocksize = _PUT_BLOCK_BYTES
    # As a file, for each block has the time-out that bytes would have for all of them.
    body = None if data is None else io.BytesIO(data)
    connection.request(method, address.target, body=body, headers=headers)
    return connection.getresponse()


def _answer(
    response: http.client.HTTPResponse,
    resource: Resource,
    start: int,
    stop: int | None,
    most_bytes: int,
    patience: Patience,
) -> Answer:
    if response.status == 416:  # the file ends before `start`, or is empty
        return Answer(b"", _total_bytes(response, start), response.headers)
    if response.status not in (200, 206):
        _fail(response, resource, patience)
    whole = response.status == 200
    if whole and start:
        raise ReadError("the server knows no byte ranges: download the file and give its path")
    if response.length is not None and response.length > most_bytes:
        raise ReadError(f"{response.length} bytes: at most {most_bytes} are read at once")
    data = _read(response, most_bytes, patience)
    if whole:
        return Answer(data, len(data), response.headers)
    total = _total_bytes(response, start + len(data))
    _check_range(response, start, min(stop or total, total), len(data))
    return Answer(data, total, response.headers)


def _total_bytes(response: http.client.HTTPResponse, unless_said: int) -> int:
    total = (response.getheader("Content-Range") or "").rpartition("/")[2]
    return int(total) if total.isdigit() else unless_said


def _check_range(response: http.client.HTTPResponse, start: int, stop: int, num_bytes: int) -> None:
    """Broken caches and proxies send other bytes than were asked for."""
    found = _FIRST_BYTE.match(response.getheader("Content-Range") or "")
    if found and int(found[1]) != start:
        raise AttemptFailedError(f"the server sent the bytes from {found[1]} on, not from {start}")
    if num_bytes != stop - start:
        raise AttemptFailedError(f"the server sent {num_bytes} of {stop - start} bytes")


def _read(response: http.client.HTTPResponse, most_bytes: int, patience: Patience) -> bytes:
    """The body, which is as long as its header says or a failed attempt."""
    expected, began = response.length, time.monotonic()
    chunks, size = [], 0
    while chunk := response.read1(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            raise ReadError(f"more than {most_bytes} bytes, which is all that is read at once")
        # Of a body of unknown length, what has come has to have come fast enough.
        allowed_s = patience.silence_s + (expected or size) / patience.least_bytes_per_s
        if time.monotonic() - began > allowed_s:
            raise AttemptFailedError(f"{size} bytes in {allowed_s:.0f} s: too slow")
    if expected is not None and size != expected:
        raise AttemptFailedError(f"the connection ended after {size} of {expected} bytes")
    response.close()  # the connection stays open, unless the server said otherwise
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _fail(response: http.client.HTTPResponse, resource: Resource, patience: Patience) -> NoReturn:
    """Raise what a status stands for."""
    body = b""
    with suppress(ReadError):  # a longer page: the status says enough
        body = _read(response, _MOST_ERROR_BYTES, patience)
    raise refusal_of(
        response.status,
        response.reason,
        response.headers,
        body,
        of_store=resource.kind == "store",
        signed=bool(resource.sign("GET", resource.url)),
    )
