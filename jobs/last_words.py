"""A line for a process that is ended from within native code, where no Python speaks any more.

Ray ends a driver so when it has lost its cluster's head node: in silence, with exit code 1. So may
the kernel, for want of memory. A process of its own waits for that; `python -m jobs.last_words`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.log import configure, is_json, say

_ROOT = Path(__file__).parent.parent  # from where `jobs` can be imported, installed or not


@contextmanager
def last_words(text: str) -> Iterator[None]:
    """Have `text` said, as `say` would, if this process ends within the block."""
    command = [sys.executable, "-m", "jobs.last_words", "json" if is_json() else "text", text]
    with subprocess.Popen(
        command,
        bufsize=0,  # else what could not be written is tried again when it is closed
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=_ROOT,
        start_new_session=True,  # Ctrl-C is for the job, whose own line it will be
    ) as witness:
        assert witness.stdin is not None
        try:
            yield
        finally:
            with suppress(BrokenPipeError):  # somebody has ended it
                witness.stdin.write(b"\n")


def main(log_format: str, text: str) -> None:
    """Wait for the end of the process at the other end of standard input, or its farewell."""
    if not sys.stdin.buffer.read(1):
        configure("json" if log_format == "json" else "text")
        say(text, level=logging.ERROR)


if __name__ == "__main__":
    main(*sys.argv[1:])
