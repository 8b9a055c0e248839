"""A job under its command: whatever ends it becomes an exit code, and one line where it failed."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.command_line import EXIT_FAILED
from jobs.log import configure, say
from jobs.pool import ClusterError
from pipeline.attempts import AccessError
from pipeline.error_text import one_line


def run_job(
    prog: str,
    job: Callable[[], int],
    *,
    errors: tuple[type[Exception], ...] = (),
    continued: str = "",
) -> int:
    """The exit code that `job` returns; `EXIT_FAILED` when it is interrupted or cannot go on.

    errors: its own, beside those of every job: a user's mistake, a disk, a store, a cluster.
    continued: what the same command does then, such as "; the same command continues the run".
    Any other error is a defect, and keeps its traceback.
    """
    configure()
    expected: tuple[type[Exception], ...] = (ValueError, OSError, *errors)
    try:
        return job()
    except KeyboardInterrupt:
        reason = "interrupted" + continued
    except (AccessError, ClusterError) as error:
        reason = one_line(error) + continued
    except expected as error:
        reason = one_line(error)
    say(f"{prog}: {reason}", level=logging.ERROR)
    return EXIT_FAILED


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Around what prints an answer: a reader such as head, which has seen enough, is no fault."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
