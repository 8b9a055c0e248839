"""`afd JOB ...`: hands the rest of the command line to the job."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from jobs.exits import (
    EXIT_COMPLETE,
    EXIT_FAILED,
    EXIT_USAGE,
    answer,
    answer_signals,
    imported,
    leave,
    open_closed_streams,
)

JOBS = {
    "label": "label every image of a collection",
    "train": "train an AFD-Module for a frozen classifier on unlabelled images",
    "evaluate": "measure what compression costs and how much the module recovers",
    "compress": "write the paper's test sets: a collection compressed at stated qualities",
    "explain": "draw what compression does to an image inside the classifier",
    "report": "write one HTML page about an output: the corpus, and which labels to trust",
    "sql": "run a SQL query on an output",
    "benchmark": "measure each stage, the whole job and this machine's limit",
    "doctor": "check this installation and print how to fix what is missing",
    "demo": "label a small corpus of real photographs and show what was found",
    "completion": "print a shell completion script",
}


def command() -> NoReturn:
    """`afd`, as a process of its own."""
    open_closed_streams()
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """A job by its name. Returns the job's exit code; 2 for an unknown job."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        jobs = "\n".join(f"  {name:<12}{text}" for name, text in JOBS.items())
        answer(f"usage: afd JOB [--help] ...\n       afd --version\n\n{jobs}")
        return EXIT_COMPLETE if arguments else EXIT_USAGE
    name = arguments[0]
    if name == "--version":
        from importlib.metadata import version

        answer(f"afd-label {version('afd-label')}")
        return EXIT_COMPLETE
    if name not in JOBS:
        from jobs.command_line import nearest

        print(f"afd: unknown job {name!r}{nearest(name, list(JOBS))}; afd --help", file=sys.stderr)
        return EXIT_USAGE
    if not _is_somewhere():
        print("afd: the current folder has been removed: cd to another one", file=sys.stderr)
        return EXIT_FAILED
    answer_signals()
    _spin_briefly()
    try:
        code: int = imported(f"jobs.{name}").main(arguments[1:])
    except (KeyboardInterrupt, SystemExit) as ended:
        # While Ray starts its own handler answers SIGTERM, by leaving with the signal's number.
        if isinstance(ended, SystemExit) and ended.code != signal.SIGTERM:
            raise
        print(f"afd {name}: interrupted", file=sys.stderr)
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        print(f"afd {name}: {error}: `afd doctor` says how to install it", file=sys.stderr)
        return EXIT_FAILED
    return code


def _is_somewhere() -> bool:
    """Libraries end the process where the current folder is gone, some with exit code 2."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _spin_briefly() -> None:
    """Have OpenMP's threads sleep soon when they wait for each other; before PyTorch is imported.

    They spin for tens of milliseconds otherwise, on cores that others want: docs/speed.md.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


if __name__ == "__main__":
    command()
