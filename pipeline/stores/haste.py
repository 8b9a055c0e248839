"""A run that is told to end does not wait for a store that keeps it waiting."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection
from weakref import WeakKeyDictionary

_MOST_S = 3.0  # that a request may still take
_POLL_S = 0.2


class Haste:
    """Whether the process is to end, and which hosts have failed it since."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._asked_at: WeakKeyDictionary[HTTPConnection, float] = WeakKeyDictionary()
        self._given_up: set[str] = set()

    def begin(self) -> None:
        """From now on a request has one attempt of three seconds, those under way included."""
        if not self._begun.is_set():
            self._begun.set()
            threading.Thread(target=self._hang_up, name="haste", daemon=True).start()

    def pause(self, seconds: float) -> bool:
        """Wait, unless the process is to end. Returns whether it is."""
        return self._begun.wait(seconds)

    def asked(self, connection: HTTPConnection) -> None:
        """Say that a request goes out."""
        with self._lock:
            self._asked_at[connection] = time.monotonic()

    def give_up(self, host: str) -> None:
        """Say that a host has failed a request, and is not to be asked again."""
        if self._begun.is_set():
            self._given_up.add(host)

    def has_given_up(self, host: str) -> bool:
        return host in self._given_up

    def _hang_up(self) -> None:
        began = time.monotonic()
        while True:
            time.sleep(_POLL_S)
            with self._lock:
                asked_at = list(self._asked_at.items())
            for connection, since in asked_at:
                if time.monotonic() - max(since, began) > _MOST_S and connection.sock is not None:
                    with suppress(OSError):  # whoever waits for its bytes is woken
                        connection.sock.shutdown(socket.SHUT_RDWR)


HASTE = Haste()
