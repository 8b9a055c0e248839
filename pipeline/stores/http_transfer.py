"""Files over HTTP: every remote read goes through `get`, every write through `put` and `delete`.

Error messages never contain a URL, which might hold a signature.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn, cast
from urllib.parse import urljoin

from pipeline.stores.connections import Address, ConnectionPool, address_of, connect
from pipeline.stores.errors import MissingError, StoreError, TooLargeError
from pipeline.stores.http_errors import error_of_response
from pipeline.stores.retries import RETRY_POLICIES, RetryableError, RetryPolicy, with_retries
from pipeline.stores.shutdown import SHUTDOWN
from pipeline.stores.timed_response import TimedResponse

MAX_BYTES = 1 << 30  # no image is larger; a video among them must not fill the memory
_CHUNK_BYTES = 1 << 18
_MAX_ERROR_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_HOST = re.compile(r"\w*://(?:[^/?#]*@)?([^/?#]*).*", re.DOTALL)
_FIRST_BYTE = re.compile(r"bytes (\d+)-")
_PUT_BLOCK_BYTES = 1 << 16

# (method, url) -> the headers that authenticate one request
Sign = Callable[[str, str], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Resource:
    """A URL, and `sign`, which authenticates the requests for it.

    kind: "store" for one service that holds many objects, "web" for any other host.
    """

    url: str
    sign: Sign
    kind: str

    @property
    def host(self) -> str:
        """For messages: without user, password, path and query."""
        return _HOST.sub(r"\1", self.url)

    @property
    def policy(self) -> RetryPolicy:
        return RETRY_POLICIES[self.kind]


@dataclass(frozen=True, slots=True)
class Answer:
    """data: the bytes asked for, fewer at the end of the file.

    total_bytes: of the whole file; None if the server does not say, and the file may go on.
    version: the store's ETag of the content; "" if unknown.
    """

    data: bytes
    total_bytes: int | None
    headers: http.client.HTTPMessage
    version: str = ""


def get(
    resource: Resource, start: int = 0, stop: int | None = None, *, max_bytes: int = MAX_BYTES
) -> Answer:
    """The byte range [start, stop) of a resource, or all of it.

    max_bytes: a longer response is refused; it may also come from a server that ignores ranges.
    Raises TooLargeError, MissingError, TransientStoreError, AccessError or another StoreError.
    """
    return with_retries(
        resource.policy, resource.host, lambda: _get_once(resource, start, stop, max_bytes)
    )


def put(resource: Resource, data: bytes) -> None:
    """Store an object in one request: the object appears only when all bytes have arrived.

    The server compares the data with its MD5. At most 5 GiB, S3's limit for one request.
    Raises as `get`; MissingError only where the bucket is missing.
    """
    digest = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")
    headers = {"Content-MD5": digest, "Content-Length": str(len(data))}
    with_retries(resource.policy, resource.host, lambda: _send_once(resource, "PUT", headers, data))


def delete(resource: Resource) -> None:
    """Remove an object, if it exists. Raises as `put`."""
    with suppress(MissingError):
        with_retries(
            resource.policy, resource.host, lambda: _send_once(resource, "DELETE", {}, None)
        )


def _get_once(resource: Resource, start: int, stop: int | None, max_bytes: int) -> Answer:
    address, connection, response = _follow_redirects(resource, start, stop)
    try:
        answer = _answer(response, resource, start, stop, max_bytes)
        if resource.kind == "store" and address == address_of(resource.url):
            return replace(answer, version=response.getheader("ETag") or "")
        return answer  # web servers that share a URL may disagree about a file's ETag
    finally:
        _release(address, connection, response)


def _send_once(
    resource: Resource, method: str, headers: dict[str, str], data: bytes | None
) -> None:
    address = address_of(resource.url)
    headers = {**resource.sign(method, resource.url), **headers}
    connection, response = _request(address, headers, resource.policy, method, data)
    try:
        if response.status not in (200, 201, 204):
            _raise_for_status(response, resource)
        _read_body(response, _CHUNK_BYTES, resource.policy)
    finally:
        _release(address, connection, response)


def _release(
    address: Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
) -> None:
    """Keep the connection for the next request, if the response has been read to its end."""
    if response.isclosed() and not response.will_close:
        _CONNECTIONS.release(address, connection)
    else:
        connection.close()


_CONNECTIONS = ConnectionPool()


def _follow_redirects(
    resource: Resource, start: int, stop: int | None
) -> tuple[Address, http.client.HTTPConnection, TimedResponse]:
    """The response after redirects; only the first server gets the credentials."""
    url = resource.url.partition("#")[0]
    first = address_of(url)
    for _ in range(_MAX_REDIRECTS + 1):
        address = address_of(url)
        headers = resource.sign("GET", url) if _is_same_server(address, first) else {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        connection, response = _request(address, headers, resource.policy)
        location = _redirect_target(response)
        if response.status not in _REDIRECTS or location is None:
            return address, connection, response
        if response.length is not None and response.length <= _CHUNK_BYTES:
            response.read()  # so that the connection can be used again
        _release(address, connection, response)
        url = urljoin(url, location).partition("#")[0]
    raise StoreError(f"more than {_MAX_REDIRECTS} redirects")


def _redirect_target(response: http.client.HTTPResponse) -> str | None:
    location = response.getheader("Location")
    if location is not None:
        with suppress(UnicodeDecodeError):  # then it is Latin-1, as http.client has decoded it
            return location.encode("latin-1").decode("utf-8")
    return location


def _is_same_server(address: Address, first: Address) -> bool:
    """Another port may be another's, and http would show to everyone what https has hidden."""
    is_upgrade = (first.scheme, address.scheme) == ("http", "https")
    return address.host == first.host and (is_upgrade or address[:3] == first[:3])


def _request(
    address: Address,
    headers: dict[str, str],
    policy: RetryPolicy,
    method: str = "GET",
    data: bytes | None = None,
) -> tuple[http.client.HTTPConnection, TimedResponse]:
    """Send a request over an idle connection, or over a new one. Returns it with the response."""
    idle = _CONNECTIONS.acquire(address)
    if idle is not None:
        try:
            return idle, _send_request(idle, address, headers, method, data)
        except (http.client.HTTPException, ConnectionError):  # the server has closed it meanwhile
            idle.close()
        except BaseException:
            idle.close()
            raise
    new = connect(
        address,
        connect_timeout_s=policy.connect_timeout_s,
        read_timeout_s=policy.read_timeout_s,
    )
    try:
        return new, _send_request(new, address, headers, method, data)
    except BaseException:
        new.close()
        raise


def _send_request(
    connection: http.client.HTTPConnection,
    address: Address,
    headers: dict[str, str],
    method: str,
    data: bytes | None,
) -> TimedResponse:
    SHUTDOWN.request_started(connection)
    connection.blocksize = _PUT_BLOCK_BYTES
    # A file is sent block by block, each with its own time-out; bytes would have one for all.
    body = None if data is None else io.BytesIO(data)
    connection.request(method, address.target, body=body, headers=headers)
    return cast(TimedResponse, connection.getresponse())


def _answer(
    response: TimedResponse,
    resource: Resource,
    start: int,
    stop: int | None,
    max_bytes: int,
) -> Answer:
    if response.status == 416:  # the file ends before `start`, or is empty
        total = _total_bytes(response)
        return Answer(b"", start if total is None else total, response.headers)
    if response.status not in (200, 206):
        _raise_for_status(response, resource)
    is_whole_file = response.status == 200
    if is_whole_file and start:
        raise StoreError(
            "the server does not support byte ranges: download the file and give its path"
        )
    if response.length is not None and response.length > max_bytes:
        raise TooLargeError(f"{response.length} bytes: at most {max_bytes} are read at once")
    data = _read_body(response, max_bytes, resource.policy)
    if is_whole_file:
        return Answer(data, len(data), response.headers)
    received, total = start + len(data), _total_bytes(response)
    end = received if total is None else total
    _check_range(response, start, min(stop or end, end), len(data))
    may_go_on = total is None and received == stop
    return Answer(data, None if may_go_on else end, response.headers)


def _total_bytes(response: http.client.HTTPResponse) -> int | None:
    """None where the server does not say: `bytes 0-99/*`."""
    total = (response.getheader("Content-Range") or "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _check_range(response: http.client.HTTPResponse, start: int, stop: int, num_bytes: int) -> None:
    """Raise RetryableError for other bytes than requested, as broken caches and proxies send."""
    found = _FIRST_BYTE.match(response.getheader("Content-Range") or "")
    if found and int(found[1]) != start:
        raise RetryableError(f"the server sent the bytes from {found[1]} on, not from {start}")
    if num_bytes != stop - start:
        raise RetryableError(f"the server sent {num_bytes} of {stop - start} bytes")


def _read_body(response: TimedResponse, max_bytes: int, policy: RetryPolicy) -> bytes:
    """The whole body. Raises RetryableError when it is too slow or shorter than announced."""
    expected = response.length
    chunks, size = [], 0
    while chunk := response.read1(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(f"more than {max_bytes} bytes, the limit of one read")
        response.allow_more_time(size, policy.min_bytes_per_s)
    if expected is not None and size != expected:
        raise RetryableError(f"the connection ended after {size} of {expected} bytes")
    response.close()  # the connection stays open, unless the server said otherwise
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _raise_for_status(response: TimedResponse, resource: Resource) -> NoReturn:
    body = b""
    with suppress(StoreError):  # a longer page: the status says enough
        body = _read_body(response, _MAX_ERROR_BYTES, resource.policy)
    raise error_of_response(
        response.status,
        response.reason,
        response.headers,
        body,
        of_store=resource.kind == "store",
        signed=bool(resource.sign("GET", resource.url)),
    )
