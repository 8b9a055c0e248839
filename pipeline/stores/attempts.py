"""Attempts at a remote store: how many, how long, what is worth another and what is not."""

from __future__ import annotations

import errno
import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pipeline.error_text import reason_of

_Result = TypeVar("_Result")


class ReadError(OSError):
    """The bytes cannot be had, or stored; one line says why."""


class MissingError(ReadError, FileNotFoundError):
    """There is nothing at the location."""


class TemporaryReadError(ReadError):
    """The bytes could not be had in all the attempts; later they may."""


class AccessError(RuntimeError):
    """The store lets nobody in, as with wrong or expired credentials: no image can be read."""


def blames_content(error: Exception) -> bool:
    """Whether a file is not what it should be, rather than could not be read just now.

    pyarrow raises OSError for either, but gives only the second a number.
    """
    if isinstance(error, (ReadError, AccessError)):
        return False
    return getattr(error, "errno", None) in (None, errno.EIO)


def refuses_all_writing(error: OSError | AccessError) -> bool:
    """Whether what raised this when it was written to would refuse any other file too."""
    if isinstance(error, ReadError):  # of a store, which said no; a temporary one said nothing
        return not isinstance(error, TemporaryReadError)
    full_or_read_only = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return isinstance(error, AccessError) or error.errno in full_or_read_only


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a read goes on before it is given up.

    connect_s, silence_s: time-outs of connecting and of each wait for bytes. A response slower
    than least_bytes_per_s is a failed attempt too. Pauses double from first_pause_s.
    """

    attempts: int
    first_pause_s: float = 0.25
    longest_pause_s: float = 16.0
    connect_s: float = 10.0
    silence_s: float = 30.0
    least_bytes_per_s: float = 20_000.0

    def pause_s(self, attempt: int) -> float:
        """Before the next attempt; varied, so that many readers do not come back at once."""
        pause = min(self.first_pause_s * 2.0 ** min(attempt - 1, 30), self.longest_pause_s)
        return pause * random.uniform(0.5, 1.0)


# A store that throttles asks for patience; a web of strangers has many hosts that are gone.
PATIENCE = {"store": Patience(attempts=8), "web": Patience(attempts=4)}


class AttemptFailedError(Exception):
    """One attempt; another may succeed. after_s: how long the server asked to be left alone."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


def patiently(patience: Patience, attempt_once: Callable[[Patience], _Result]) -> _Result:
    """The result of the first attempt that succeeds.

    Raises TemporaryReadError when none has; another ReadError or an AccessError at once.
    """
    began = time.monotonic()
    for attempt in range(1, patience.attempts + 1):
        try:
            with _faults_named():
                return attempt_once(patience)
        except AttemptFailedError as failure:
            reason = str(failure)
            after_s = min(failure.after_s, patience.longest_pause_s)
        if attempt < patience.attempts:
            time.sleep(max(after_s, patience.pause_s(attempt)))
    spent_s = time.monotonic() - began
    raise TemporaryReadError(f"{reason}; tried {patience.attempts} times in {spent_s:.1f} s")


@contextmanager
def _faults_named() -> Iterator[None]:
    """What goes wrong on the way, in words: an attempt that failed, or an error for good."""
    try:
        yield
    except ReadError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise ReadError(
            f"the server's certificate is not trusted: {error.verify_message}"
        ) from None
    except TimeoutError:
        raise AttemptFailedError("no answer in time") from None
    except (OSError, http.client.HTTPException) as error:
        raise AttemptFailedError(_words_of(error)) from None
    except ValueError:  # its text may hold part of the URL
        raise ReadError("not a URL that can be asked for") from None


def _words_of(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return f"no HTTP answer ({type(error).__name__})"
    return reason_of(error) or type(error).__name__
