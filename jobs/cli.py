"""The `afd` command: runs the job that its first argument names."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from jobs.exits import (
    EXIT_COMPLETE,
    EXIT_FAILED,
    EXIT_USAGE,
    exit_now,
    ignore_further_signals,
    import_in_thread,
    interrupt_on_signals,
    open_closed_streams,
    print_answer,
    shield_terminal,
)
from jobs.machine import NO_DOCSTRINGS, has_docstrings


class Job(NamedTuple):
    """A command: what it does in a line, and the module and name of its settings class."""

    summary: str
    module: str
    settings: str

    def settings_class(self) -> Any:
        return getattr(import_in_thread(self.module), self.settings)


JOBS = {
    "label": Job("label every image of a collection", "jobs.settings", "LabelSettings"),
    "train": Job(
        "train an AFD-Module for a frozen classifier on unlabelled images",
        "jobs.train_settings",
        "TrainSettings",
    ),
    "evaluate": Job(
        "measure what compression costs and how much the module recovers",
        "jobs.evaluate_settings",
        "EvaluateSettings",
    ),
    "compress": Job(
        "write the paper's test sets: a collection compressed at stated qualities",
        "jobs.compress_settings",
        "CompressSettings",
    ),
    "explain": Job(
        "draw what compression does to an image inside the classifier",
        "jobs.explain_settings",
        "ExplainSettings",
    ),
    "report": Job(
        "write one HTML page about an output: the corpus, and which labels to trust",
        "jobs.report_settings",
        "ReportSettings",
    ),
    "sql": Job("run a SQL query on an output", "jobs.sql", "SqlSettings"),
    "benchmark": Job(
        "measure each stage, the whole job and this machine's limit",
        "jobs.benchmark_settings",
        "BenchmarkSettings",
    ),
    "doctor": Job(
        "check this installation and print how to fix what is missing",
        "jobs.doctor",
        "DoctorSettings",
    ),
    "demo": Job(
        "label a small corpus of real photographs and show what was found",
        "jobs.demo",
        "DemoSettings",
    ),
    "completion": Job("print a shell completion script", "jobs.completion", "CompletionSettings"),
}
# Those that import PyTorch, which takes seconds.
SLOW_TO_IMPORT = ("train", "evaluate", "explain", "benchmark")


def command() -> NoReturn:
    """The entry point of the `afd` executable."""
    open_closed_streams()
    shield_terminal()
    try:
        code = main()
    except OSError as error:  # an answer whose file has no room: jobs tell other errors themselves
        print(f"afd: {error}", file=sys.stderr)
        code = EXIT_FAILED
    exit_now(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job by its name. Returns the job's exit code; 2 for an unknown job."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        jobs = "\n".join(f"  {name:<12}{job.summary}" for name, job in JOBS.items())
        print_answer(f"usage: afd JOB [--help] ...\n       afd --version\n\n{jobs}")
        return EXIT_COMPLETE if arguments else EXIT_USAGE
    name = arguments[0]
    if name == "--version":
        from importlib.metadata import version

        print_answer(f"afd-label {version('afd-label')}")
        return EXIT_COMPLETE
    if name not in JOBS:
        from jobs.checked_settings import nearest

        print(f"afd: unknown job {name!r}{nearest(name, list(JOBS))}; afd --help", file=sys.stderr)
        return EXIT_USAGE
    if not _current_folder_exists():
        print("afd: the current folder has been removed: cd to another one", file=sys.stderr)
        return EXIT_FAILED
    if name != "doctor" and not has_docstrings():  # doctor says so too, with all else
        print(f"afd: {NO_DOCSTRINGS}", file=sys.stderr)
        return EXIT_FAILED
    interrupt_on_signals()
    _shorten_openmp_spinning()
    _silence_ray()
    _have_a_home()
    try:
        _check_usage(name, arguments[1:])
        code: int = import_in_thread(f"jobs.{name}").main(arguments[1:])
    except KeyboardInterrupt:
        ignore_further_signals()
        print(f"afd {name}: interrupted", file=sys.stderr)
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        print(f"afd {name}: {error}: `afd doctor` says how to install it", file=sys.stderr)
        return EXIT_FAILED
    return code


def _check_usage(name: str, arguments: Sequence[str]) -> None:
    """Answer --help and bad usage, by SystemExit, before the job's own slow imports."""
    # The job parses the arguments again, and a --config that is a pipe can be read only once.
    if name in SLOW_TO_IMPORT and not any(word.startswith("--config") for word in arguments):
        parse = import_in_thread("jobs.command_line").parse
        parse(JOBS[name].settings_class(), arguments, prog=f"afd {name}")


def _current_folder_exists() -> bool:
    """Checked first because libraries end the process without one, some with exit code 2."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _have_a_home() -> None:
    """For a user without HOME whom the system does not know: some libraries fail without one."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def _silence_ray() -> None:
    """Discard what Ray prints about its processes on standard output; before Ray is imported.

    When a worker dies, the job says so in one line. Ray would add a paragraph.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")


def _shorten_openmp_spinning() -> None:
    """Make OpenMP's waiting threads sleep sooner. Has an effect only before PyTorch is imported.

    By default they spin for tens of milliseconds, on cores that other work needs: docs/speed.md.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


if __name__ == "__main__":
    command()
