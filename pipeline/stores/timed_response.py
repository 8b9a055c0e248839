"""Responses that must come in time as a whole, where http.client only times each wait."""

from __future__ import annotations

import io
import math
import socket
import time
from http.client import HTTPResponse
from typing import Any

from pipeline.stores.retries import RetryableError


class _TimedBytes(io.RawIOBase):
    """The bytes of a socket, as long as they are read within `allowed_s` from now on."""

    def __init__(self, source: io.RawIOBase, allowed_s: float) -> None:
        self._source = source
        self._began = time.monotonic()
        self.allowed_s = allowed_s
        self.have_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() - self._began > self.allowed_s:
            raise RetryableError(f"not complete after {self.allowed_s:.1f} s: too slow")
        count = self._source.readinto(buffer)
        self.have_ended = count == 0
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class TimedResponse(HTTPResponse):
    """A response that fails when it takes too long as a whole, by a RetryableError.

    The time-out of its socket is for a single wait: a byte now and then would keep it for ever,
    wherever http.client reads up to the end of a line.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._head_s = 2 * (sock.gettimeout() or math.inf)
        self._bytes = _TimedBytes(self.fp.detach(), self._head_s)
        self.fp = io.BufferedReader(self._bytes)

    def begin(self) -> None:
        super().begin()
        if self._bytes.have_ended:  # http.client takes that for the end of the head
            raise RetryableError("the connection ended within the response's head")

    def allow_more_time(self, num_bytes: int, min_bytes_per_s: float) -> None:
        """Note how much of the body has come, which must have taken no longer than this."""
        self._bytes.allowed_s = self._head_s + num_bytes / min_bytes_per_s
