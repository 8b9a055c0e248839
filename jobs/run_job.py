"""Runs a job for its command: turns its errors into one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.exits import EXIT_FAILED, SAME_COMMAND_CONTINUES, ignore_further_signals
from jobs.log import LogFormat, LogLevel, configure, say
from jobs.pool import ClusterError
from pipeline.error_text import one_line
from pipeline.stores.errors import AccessError, StoreError


def run_job(
    prog: str,
    job: Callable[[], int],
    *,
    errors: tuple[type[Exception], ...] = (),
    continued: str = "",
    out_of_memory: str = "use a smaller --batch-size",
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
) -> int:
    """The exit code that `job` returns; `EXIT_FAILED` when it is interrupted or fails.

    errors: types of errors that are printed as they are, as ValueError and OSError are.
    continued: added to the message of an interrupt, an AccessError or a ClusterError;
        `SAME_COMMAND_CONTINUES` for a job that can be continued.
    out_of_memory: what to do where the GPU's memory does not suffice.
    Any other error is a defect and keeps its traceback.
    """
    configure(log_format, log_level)
    try:
        return job()
    except KeyboardInterrupt:
        ignore_further_signals()
        reason = "interrupted" + continued
    except Exception as error:
        if _is_of_the_gpus_memory(error):  # asked first: it is one of a job's own RuntimeErrors
            reason = f"{one_line(error).partition('. ')[0]}: {out_of_memory}" + continued
        elif isinstance(error, (ValueError, OSError, *errors)):
            reason = one_line(error)
        elif isinstance(error, (AccessError, ClusterError)):
            reason = one_line(error) + continued
        else:
            raise
    say(f"{prog}: {reason}", level=logging.ERROR)
    return EXIT_FAILED


@contextmanager
def output_on_disk(output: str) -> Iterator[None]:
    """Of a run that can be continued: an error of the system says which output it is of.

    An error of a remote store is of the input, and stays.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise cannot_go_on(output, error) from error


def cannot_go_on(output: str, error: Exception) -> OSError:
    """What ends a run that can be continued when its output cannot be used."""
    return OSError(f"cannot go on with the output {output}: {error}{SAME_COMMAND_CONTINUES}")


def _is_of_the_gpus_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # importing it takes longer than some jobs do
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
