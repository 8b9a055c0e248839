"""A pool of HTTP connections that stay open between requests; proxies, TLS, passwords in URLs."""

from __future__ import annotations

import os
import ssl
import threading
from base64 import b64encode
from functools import cache
from http.client import HTTPConnection, HTTPSConnection
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.error_text import reason_of
from pipeline.stores.errors import StoreError
from pipeline.stores.timed_response import TimedResponse

# With 512 more in use, well below the usual limit of 1,024 open files per process.
_MAX_IDLE = 256
# A URL is sent as it was given; only characters that HTTP does not allow are escaped.
_TARGET_SAFE = "%/:?[]@!$&'()*+,;=~"


class Address(NamedTuple):
    """Where a request goes. target: path and query, as in the request's first line."""

    scheme: str
    host: str
    port: int
    target: str


def address_of(url: str) -> Address:
    """The parts of a URL. Raises ValueError when it is not one."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ValueError("it names no host")
    target = quote(parts.path or "/", safe=_TARGET_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_TARGET_SAFE)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(parts.scheme, parts.hostname, port, target)


def basic_authorization(url: str) -> dict[str, str]:
    """The header for the user and password in a URL; empty when there are none."""
    userinfo = urlsplit(url).netloc.rpartition("@")[0]
    if not userinfo:
        return {}
    return {"Authorization": "Basic " + b64encode(unquote(userinfo).encode()).decode("ascii")}


class ConnectionPool:
    """Idle connections by host, for any number of threads."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # two processes cannot share a socket

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[HTTPConnection]] = {}
        self._count = 0

    def acquire(self, address: Address) -> HTTPConnection | None:
        """Take out the most recently used connection to a host; None if there is none."""
        with self._lock:
            idle = self._idle.get(address[:3])
            if not idle:
                return None
            self._count -= 1
            return idle.pop()

    def release(self, address: Address, connection: HTTPConnection) -> None:
        """Put back a connection whose response has been read to its end."""
        oldest = None
        with self._lock:
            self._idle[address[:3]] = [*self._idle.pop(address[:3], ()), connection]
            self._count += 1
            if self._count > _MAX_IDLE:
                oldest = self._take_out_oldest()
        if oldest is not None:
            oldest.close()

    def _take_out_oldest(self) -> HTTPConnection:
        """The oldest connection to the least recently used host."""
        self._idle = {key: idle for key, idle in self._idle.items() if idle}
        self._count -= 1
        return next(iter(self._idle.values())).pop(0)


def connect(address: Address, *, connect_timeout_s: float, read_timeout_s: float) -> HTTPConnection:
    """A new connection; https uses the proxy that the environment names for the host.

    read_timeout_s: for each wait for bytes. Its responses are `TimedResponse`s.
    """
    if address.scheme == "https":
        connection: HTTPConnection = _https(address, connect_timeout_s)
    else:
        connection = HTTPConnection(address.host, address.port, timeout=connect_timeout_s)
    connection.response_class = TimedResponse
    connection.connect()
    connection.sock.settimeout(read_timeout_s)
    return connection


def _https(address: Address, connect_timeout_s: float) -> HTTPSConnection:
    proxy = None if proxy_bypass(address.host) else getproxies().get("https")
    if proxy is None:
        return HTTPSConnection(
            address.host, address.port, timeout=connect_timeout_s, context=_tls()
        )
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    via = urlsplit(proxy)
    connection = HTTPSConnection(
        via.hostname or "", via.port or 80, timeout=connect_timeout_s, context=_tls()
    )
    headers = basic_authorization(proxy)
    if headers:
        headers = {"Proxy-Authorization": headers["Authorization"]}
    connection.set_tunnel(address.host, address.port, headers=headers)
    return connection


@cache
def _tls() -> ssl.SSLContext:
    """Python's default, which reads SSL_CERT_FILE, and the certificates in AWS_CA_BUNDLE."""
    context = ssl.create_default_context()
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        try:
            context.load_verify_locations(bundle)
        except OSError as error:
            raise StoreError(f"AWS_CA_BUNDLE is {bundle!r}: {reason_of(error)}") from None
    return context
