"""Shutdown: a process that was told to end stops waiting for stores that do not answer."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection
from weakref import WeakKeyDictionary

_MAX_REQUEST_S = 3.0  # for a request that is open when the shutdown begins, or sent later
_POLL_S = 0.2


class Shutdown:
    """Whether the process is to end, and which hosts have failed a request since then."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._started_at: WeakKeyDictionary[HTTPConnection, float] = WeakKeyDictionary()
        self._abandoned_hosts: set[str] = set()

    def begin(self) -> None:
        """From now on, each request has one attempt of three seconds; open requests too."""
        if not self._begun.is_set():
            self._begun.set()
            threading.Thread(target=self._close_slow, name="shutdown", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Sleep, but only until the shutdown begins. Returns whether it has begun."""
        return self._begun.wait(seconds)

    def request_started(self, connection: HTTPConnection) -> None:
        """Note the time at which a request is sent."""
        with self._lock:
            self._started_at[connection] = time.monotonic()

    def abandon(self, host: str) -> None:
        """Send no further requests to a host, if the shutdown has begun."""
        if self._begun.is_set():
            self._abandoned_hosts.add(host)

    def is_abandoned(self, host: str) -> bool:
        return host in self._abandoned_hosts

    def _close_slow(self) -> None:
        began = time.monotonic()
        while True:
            time.sleep(_POLL_S)
            with self._lock:
                started_at = list(self._started_at.items())
            for connection, since in started_at:
                open_s = time.monotonic() - max(since, began)
                if open_s > _MAX_REQUEST_S and connection.sock is not None:
                    with suppress(OSError):  # wakes the thread that waits for bytes
                        connection.sock.shutdown(socket.SHUT_RDWR)


SHUTDOWN = Shutdown()
