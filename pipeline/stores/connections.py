"""HTTP connections kept open between requests: one for each request under way, by host."""

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
from pipeline.stores.attempts import ReadError

_MOST_IDLE = 256  # beside 512 in use: well within the 1,024 files that many a process may open
_TARGET_SAFE = (
    "%/:?[]@!$&'()*+,;=~"  # a URL is sent as it was given, but for what HTTP cannot carry
)


class Address(NamedTuple):
    """Where a request goes; `target` is what stands in its first line."""

    scheme: str
    host: str
    port: int
    target: str


def address_of(url: str) -> Address:
    """Raises ValueError for what is no URL."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ValueError("it names no host")
    target = quote(parts.path or "/", safe=_TARGET_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_TARGET_SAFE)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(parts.scheme, parts.hostname, port, target)


def basic_authorization(url: str) -> dict[str, str]:
    """The header for the user and password that a URL carries, if it does."""
    userinfo = urlsplit(url).netloc.rpartition("@")[0]
    if not userinfo:
        return {}
    return {"Authorization": "Basic " + b64encode(unquote(userinfo).encode()).decode("ascii")}


class Connections:
    """Idle connections by host; safe to use from many threads, each of which takes and gives."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # a socket serves one process

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[HTTPConnection]] = {}
        self._count = 0

    def take(self, address: Address) -> HTTPConnection | None:
        """The connection to this host that was used last, or None."""
        with self._lock:
            idle = self._idle.get(address[:3])
            if not idle:
                return None
            self._count -= 1
            return idle.pop()

    def give(self, address: Address, connection: HTTPConnection) -> None:
        """Keep a connection whose response has been read to its end."""
        oldest = None
        with self._lock:
            self._idle[address[:3]] = [*self._idle.pop(address[:3], ()), connection]
            self._count += 1
            if self._count > _MOST_IDLE:
                oldest = self._drop_oldest()
        if oldest is not None:
            oldest.close()

    def _drop_oldest(self) -> HTTPConnection:
        """Of the host that was left alone longest."""
        self._idle = {key: idle for key, idle in self._idle.items() if idle}
        self._count -= 1
        return next(iter(self._idle.values())).pop(0)


def connect(address: Address, *, connect_s: float, silence_s: float) -> HTTPConnection:
    """A new connection; https goes through the proxy that the environment names for the host.

    connect_s: time-out of connecting. silence_s: of each later wait for bytes.
    """
    if address.scheme == "https":
        connection: HTTPConnection = _https(address, connect_s)
    else:
        connection = HTTPConnection(address.host, address.port, timeout=connect_s)
    connection.connect()
    connection.sock.settimeout(silence_s)
    return connection


def _https(address: Address, connect_s: float) -> HTTPSConnection:
    proxy = None if proxy_bypass(address.host) else getproxies().get("https")
    if proxy is None:
        return HTTPSConnection(address.host, address.port, timeout=connect_s, context=_tls())
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    via = urlsplit(proxy)
    connection = HTTPSConnection(
        via.hostname or "", via.port or 80, timeout=connect_s, context=_tls()
    )
    headers = basic_authorization(proxy)
    if headers:
        headers = {"Proxy-Authorization": headers["Authorization"]}
    connection.set_tunnel(address.host, address.port, headers=headers)
    return connection


@cache
def _tls() -> ssl.SSLContext:
    """Python's, with SSL_CERT_FILE, and what AWS's programs trust besides."""
    context = ssl.create_default_context()
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        try:
            context.load_verify_locations(bundle)
        except OSError as error:
            raise ReadError(f"AWS_CA_BUNDLE is {bundle!r}: {reason_of(error)}") from None
    return context
