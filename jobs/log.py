"""A job's log lines on stderr: text for people, or JSON for a log collector."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pipeline.error_text import printable

LogFormat = Literal["text", "json"]
LogLevel = Literal["info", "debug"]
_Chunk = TypeVar("_Chunk")
_PROGRESS_EVERY_S = 10.0
LOGGER = logging.getLogger("afd")


def say(line: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one line. fields: values of JSON types that are added to JSON lines only."""
    LOGGER.log(level, line, extra={"fields": fields})


def with_progress(
    chunks: Iterable[_Chunk], images_in: Callable[[_Chunk], int], total: int
) -> Iterator[_Chunk]:
    """The same chunks; logs every ten seconds how many of the `total` images are done.

    images_in: the number of images in a chunk.
    """
    done, logged_at = 0, time.monotonic()
    for chunk in chunks:
        yield chunk
        done += images_in(chunk)
        if time.monotonic() - logged_at > _PROGRESS_EVERY_S:
            logged_at = time.monotonic()
            say(f"{done}/{total} images")


def configure(log_format: LogFormat = "text", level: LogLevel = "info") -> None:
    """Make this process print its log lines. Commands call it; jobs called from Python do not."""
    handler = _Stderr()
    handler.setFormatter(_Json() if log_format == "json" else logging.Formatter("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False


def is_json() -> bool:
    """Whether lines are printed as JSON."""
    return any(isinstance(handler.formatter, _Json) for handler in LOGGER.handlers)


class _Stderr(logging.Handler):
    """Writes to the current `sys.stderr`, which may have changed since the handler was created."""

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(self.format(record)).replace("\n", r"\u000a")
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:  # its reader has gone, or its disk is full: the job goes on without it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(document, ensure_ascii=False)
