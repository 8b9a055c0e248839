"""Reports that this process was killed, when it cannot do so itself.

When its cluster's head node is lost, Ray's native code ends the driver without a message, with exit
code 1. The kernel does the same when memory runs out. A second process, `python -m jobs.watchdog`,
waits for that and writes the message.
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
def reported_if_killed(message: str) -> Iterator[None]:
    """Log `message` as an error if this process ends within the block."""
    log_format = "json" if is_json() else "text"
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.watchdog", log_format, message],
        bufsize=0,  # a buffer that could not be written would be written again on closing
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=_ROOT,
        start_new_session=True,  # keeps Ctrl-C from it: the job reports that itself
    ) as watchdog:
        assert watchdog.stdin is not None
        try:
            yield
        finally:
            with suppress(BrokenPipeError):  # it was killed
                watchdog.stdin.write(b"\n")


def main(log_format: str, message: str) -> None:
    """Wait for a byte on standard input; log the message if it closes without one."""
    if not sys.stdin.buffer.read(1):
        configure("json" if log_format == "json" else "text")
        say(message, level=logging.ERROR)


if __name__ == "__main__":
    main(*sys.argv[1:])
