"""How a command ends: exit codes, signals, and standard streams that are closed."""

from __future__ import annotations

import _thread
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from jobs.machine import without_garbage_collection
from pipeline.error_text import printable

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
# Ends a message about a run that stopped, unless the command itself was wrong.
SAME_COMMAND_CONTINUES = "; the same command continues the run"


def interrupt_on_signals() -> None:
    """Make SIGTERM (sent by schedulers) and SIGHUP (a closed terminal) end a job as Ctrl-C does.

    That is cleanly and with a message. Under nohup, SIGHUP stays ignored. Each of the three also
    cuts the waiting for remote stores short, see `pipeline.stores.shutdown`.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    if shutdown := sys.modules.get("pipeline.stores.shutdown"):
        # In another thread: the interrupted code may hold the locks that `begin` takes.
        _thread.start_new_thread(shutdown.SHUTDOWN.begin, ())
    signal.default_int_handler(number, frame)


def ignore_further_signals() -> None:
    """After the first of the signals above, when nothing is left to do but to say so.

    Another Ctrl-C would print a traceback instead.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_IGN)


def import_in_thread(name: str) -> Any:
    """Import a module so that Ctrl-C takes effect only after it is imported.

    During PyTorch's import, Ctrl-C would abort the process or be lost. Python handles signals in
    the main thread only, so the import runs in another one.
    """
    from concurrent.futures import Future
    from threading import Thread

    imported: Future[Any] = Future()

    def load() -> None:
        try:
            with without_garbage_collection():
                module = importlib.import_module(name)
            imported.set_result(module)
        except BaseException as error:
            imported.set_exception(error)

    # No pool: if Ctrl-C comes while a pool's thread starts, nothing tells that thread to end.
    Thread(target=load, name="import").start()
    return imported.result()


def exit_now(code: int) -> NoReturn:
    """End the process without waiting for threads or for libraries' exit handlers.

    All output is complete by now. Those would take a second or more, in which another Ctrl-C
    prints a traceback or aborts the process, and changes the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def open_closed_streams() -> None:
    """Open /dev/null in place of standard streams that the caller closed (`2>&-`).

    Otherwise the next file that is opened gets the stream's number, and libraries print into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


class _Terminal(io.TextIOWrapper):
    """Shows control characters instead of obeying them."""

    def write(self, text: str) -> int:
        return super().write(printable(text))


def shield_terminal() -> None:
    """Keep control characters in names of files from a terminal on stdout, not from a pipe."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.isatty():
        sys.stdout = _Terminal(out.buffer, out.encoding, out.errors, line_buffering=True)


@contextmanager
def ignoring_closed_stdout() -> Iterator[None]:
    """For code that prints to stdout: it is no error when a reader such as `head` has closed it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # send what is still buffered to /dev/null
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_answer(text: object) -> None:
    r"""Print to stdout what the command was asked for.

    A character that its encoding lacks becomes `\u2013`. Only here: data, as of `afd sql`, are
    written as they are or not at all.
    """
    with ignoring_closed_stdout():
        try:
            print(text)
        except UnicodeEncodeError:  # raised before anything is written
            encoding = sys.stdout.encoding
            print(str(text).encode(encoding, "backslashreplace").decode(encoding))
