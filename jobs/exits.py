"""How a command ends: its exit codes, what a signal comes to, and streams that nobody reads."""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def interrupt_on_sigterm() -> None:
    """Make SIGTERM, which schedulers send, end a job as Ctrl-C does: cleanly, and with a word."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def imported(name: str) -> Any:
    """A module, whole when Ctrl-C is answered: in the midst of PyTorch's that would be `abort`.

    Signals are the main thread's alone, so it is imported in another.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="import") as thread:
        return thread.submit(importlib.import_module, name).result()


def end_undisturbed(code: int) -> None:
    """When all is said and done: a further Ctrl-C is not to change the exit code.

    While threads are waited for, which may take long, it ends the process at once. What comes then,
    in Python and in libraries, takes a second, and would answer with tracebacks or `abort`.
    """
    for number in _INTERRUPTS:
        signal.signal(number, lambda *_: os._exit(code))
        atexit.register(signal.signal, number, signal.SIG_IGN)


def open_closed_streams() -> None:
    """Give /dev/null the numbers of standard streams that the caller closed (`2>&-`).

    Else the next file that is opened gets them, and in it stands what libraries say.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Around what prints an answer: a reader such as head, which has seen enough, is no fault."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answer(text: object) -> None:
    """Print what the command was asked for."""
    with reader_may_leave():
        print(text)
