"""How a command ends: its exit codes, what a signal comes to, and streams that nobody reads."""

from __future__ import annotations

import _thread
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def answer_signals() -> None:
    """Make SIGTERM, which schedulers send, end a job as Ctrl-C does: cleanly, and with a word."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """As Python does; and what a store keeps waiting does not wait much longer."""
    if haste := sys.modules.get("pipeline.stores.haste"):
        # In a thread: what this one was doing may hold the locks that it takes.
        _thread.start_new_thread(haste.HASTE.begin, ())
    signal.default_int_handler(number, frame)


def imported(name: str) -> Any:
    """A module by its name. Ctrl-C while PyTorch is imported would be `abort`, or be forgotten.

    Signals are the main thread's alone, so it is imported in another.
    """
    from concurrent.futures import ThreadPoolExecutor

    importer = ThreadPoolExecutor(1, thread_name_prefix="import")
    return importer.submit(importlib.import_module, name).result()


def leave(code: int) -> NoReturn:
    """End the process at once: all is said and written, and no thread has anything to finish.

    Python would wait for threads that nobody needs any more, and libraries tidy up for a second or
    more, in which a further Ctrl-C is a traceback, an `abort`, and another exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


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
