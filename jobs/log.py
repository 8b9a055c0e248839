"""What a job says while it runs: lines for people, or JSON for a log collector, on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

LogFormat = Literal["text", "json"]
LogLevel = Literal["info", "debug"]
_Chunk = TypeVar("_Chunk")
_SAY_EVERY_S = 10.0
LOGGER = logging.getLogger("afd")


def say(line: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """One line. fields: what a collector may index, JSON types; people are not shown them."""
    LOGGER.log(level, line, extra={"fields": fields})


def counted(
    chunks: Iterable[_Chunk], images_in: Callable[[_Chunk], int], total: int
) -> Iterator[_Chunk]:
    """The chunks; says now and then how many of the images are done. images_in: one chunk."""
    done, said = 0, time.monotonic()
    for chunk in chunks:
        yield chunk
        done += images_in(chunk)
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{done}/{total} images")


def configure(log_format: LogFormat = "text", level: LogLevel = "info") -> None:
    """Let this process's jobs be heard; called by commands, not where jobs are functions."""
    handler = _Stderr()
    handler.setFormatter(_Json() if log_format == "json" else logging.Formatter("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False


def is_json() -> bool:
    """Whether a program reads the lines."""
    return any(isinstance(handler.formatter, _Json) for handler in LOGGER.handlers)


class _Stderr(logging.Handler):
    """Writes to what `sys.stderr` is when a line is said, not when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:  # whoever read it is gone, or the log's disk is full: the job goes on
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
