"""Retries of requests to a remote store: how many, how long, and which errors are retried."""

from __future__ import annotations

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
from pipeline.stores.errors import ShutdownError, StoreError, TransientStoreError
from pipeline.stores.shutdown import SHUTDOWN

_Result = TypeVar("_Result")
_LOGGER = logging.getLogger("afd")  # the jobs' own logger
_SAY_AFTER_S = 5.0
_SAY_EVERY_S = 30.0
_said_at = -_SAY_EVERY_S


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is tried, and when an attempt counts as failed.

    attempts: including the first. The pauses between them double from first_pause_s to
    max_pause_s. read_timeout_s: for each wait for bytes; a response whose head takes twice as long,
    or whose body falls that far behind min_bytes_per_s, fails too.
    """

    attempts: int
    first_pause_s: float = 0.25
    max_pause_s: float = 16.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    min_bytes_per_s: float = 20_000.0

    def pause_s(self, attempt: int) -> float:
        """The pause after an attempt (from 1), with jitter so that readers do not retry at once."""
        pause = min(self.first_pause_s * 2.0 ** min(attempt - 1, 30), self.max_pause_s)
        return pause * random.uniform(0.5, 1.0)


# A store that throttles recovers; many hosts of a web crawl are gone for good.
RETRY_POLICIES = {"store": RetryPolicy(attempts=8), "web": RetryPolicy(attempts=4)}


class RetryableError(Exception):
    """One attempt failed; another may succeed. retry_after_s: the pause that the server wants."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def with_retries(policy: RetryPolicy, host: str, request: Callable[[], _Result]) -> _Result:
    """The result of the first attempt that succeeds.

    host: where the requests go. Raises TransientStoreError when every attempt failed,
    ShutdownError when the process is to end, and another StoreError or an AccessError at once,
    without a retry.
    """
    began = time.monotonic()
    for attempt in range(1, policy.attempts + 1):
        if SHUTDOWN.is_abandoned(host):
            raise ShutdownError(f"{host} does not answer, and the run is to end")
        try:
            with _translated_errors(host):
                return request()
        except RetryableError as failure:
            reason = str(failure)
            retry_after_s = min(failure.retry_after_s, policy.max_pause_s)
        is_last = attempt == policy.attempts
        pause_s = 0.0 if is_last else max(retry_after_s, policy.pause_s(attempt))
        if not is_last and not SHUTDOWN.wait(0) and time.monotonic() - began > _SAY_AFTER_S:
            subject = "" if reason.startswith(host) else f"{host}: "
            _say(f"{subject}{reason}; attempt {attempt + 1} of {policy.attempts} follows")
        if SHUTDOWN.wait(pause_s):
            SHUTDOWN.abandon(host)
            raise ShutdownError(f"{reason}; the run is to end")
    spent_s = time.monotonic() - began
    raise TransientStoreError(f"{reason}; tried {policy.attempts} times in {spent_s:.1f} s")


def _say(line: str) -> None:
    """Log why a run waits; when hundreds of requests wait for one store, only one is logged."""
    global _said_at
    if time.monotonic() - _said_at > _SAY_EVERY_S:
        _said_at = time.monotonic()
        _LOGGER.info(line)


@contextmanager
def _translated_errors(host: str) -> Iterator[None]:
    """Raise the errors of a request as RetryableError, or as StoreError if a retry is no use."""
    try:
        yield
    except StoreError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise StoreError(
            f"the certificate of {host} is not trusted ({error.verify_message}): set SSL_CERT_FILE"
            " to a file with the certificate of its authority"
        ) from None
    except TimeoutError:
        raise RetryableError("no answer in time") from None
    except (OSError, http.client.HTTPException) as error:
        raise RetryableError(f"{host}: {_network_reason(error)}") from None
    except ValueError:  # its text may hold part of the URL
        raise StoreError("not a valid URL") from None


def _network_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({error.reason})"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return f"no HTTP answer ({type(error).__name__})"
    return reason_of(error) or type(error).__name__
