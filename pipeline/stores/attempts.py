"""Attempts at a remote store: how many, how long, what is worth another and what is not."""

from __future__ import annotations

import errno
import http.client
import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pipeline.error_text import reason_of
from pipeline.stores.haste import HASTE

_Result = TypeVar("_Result")
_LOGGER = logging.getLogger("afd")  # what a job is heard by
_TELL_AFTER_S = 5.0
_TELL_EVERY_S = 30.0
_told_at = -_TELL_EVERY_S


class ReadError(OSError):
    """The bytes cannot be had, or stored; one line says why."""


class MissingError(ReadError, FileNotFoundError):
    """There is nothing at the location."""


class ArchivedError(ReadError):
    """The store has the object, but not at hand; no fault of the store, which gives the others."""


class TemporaryReadError(ReadError):
    """The bytes could not be had in all the attempts; later they may."""


class GivenUpError(TemporaryReadError):
    """The run is to end, and the store keeps it waiting: nothing is said of the file."""


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


def patiently(
    patience: Patience, host: str, attempt_once: Callable[[Patience], _Result]
) -> _Result:
    """The result of the first attempt that succeeds.

    host: whom it asks. Raises TemporaryReadError when no attempt has succeeded, GivenUpError when
    the process is to end meanwhile; another ReadError or an AccessError at once.
    """
    began = time.monotonic()
    for attempt in range(1, patience.attempts + 1):
        if HASTE.has_given_up(host):
            raise GivenUpError(f"{host} keeps a run waiting that is to end")
        try:
            with _faults_named(host):
                return attempt_once(patience)
        except AttemptFailedError as failure:
            reason = str(failure)
            after_s = min(failure.after_s, patience.longest_pause_s)
        pause_s = max(after_s, patience.pause_s(attempt)) if attempt < patience.attempts else 0.0
        if pause_s and not HASTE.pause(0) and time.monotonic() - began > _TELL_AFTER_S:
            who = "" if reason.startswith(host) else f"{host}: "
            _tell(f"{who}{reason}; attempt {attempt + 1} of {patience.attempts} follows")
        if HASTE.pause(pause_s):
            HASTE.give_up(host)
            raise GivenUpError(f"{reason}; the run is to end")
    spent_s = time.monotonic() - began
    raise TemporaryReadError(f"{reason}; tried {patience.attempts} times in {spent_s:.1f} s")


def _tell(line: str) -> None:
    """What a job seems to hang at; of hundreds that wait for one store, one says so."""
    global _told_at
    if time.monotonic() - _told_at > _TELL_EVERY_S:
        _told_at = time.monotonic()
        _LOGGER.info(line)


@contextmanager
def _faults_named(host: str) -> Iterator[None]:
    """What goes wrong on the way, in words: an attempt that failed, or an error for good."""
    try:
        yield
    except ReadError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise ReadError(
            f"the certificate of {host} is not trusted ({error.verify_message}): name the file of"
            " its authority's certificate in SSL_CERT_FILE"
        ) from None
    except TimeoutError:
        raise AttemptFailedError("no answer in time") from None
    except (OSError, http.client.HTTPException) as error:
        raise AttemptFailedError(f"{host}: {_words_of(error)}") from None
    except ValueError:  # its text may hold part of the URL
        raise ReadError("not a URL that can be asked for") from None


def _words_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({error.reason})"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return f"no HTTP answer ({type(error).__name__})"
    return reason_of(error) or type(error).__name__
