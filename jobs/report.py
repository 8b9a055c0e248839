"""`afd report`: an output of `afd label` -> one HTML page about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, print_answer
from jobs.extras import require
from jobs.quantities import count, size
from jobs.report_settings import ReportSettings
from jobs.run_job import run_job

if TYPE_CHECKING:
    from jobs.reporting.build import Report


def report(settings: ReportSettings) -> Report:
    """Write the page. Raises ValueError, worded for the user."""
    require("report", "altair", "duckdb", "jinja2", "vl_convert")
    # Imported here: `--help` must work without the chart libraries.
    from jobs.reporting.build import build

    return build(settings)


def main(arguments: Sequence[str]) -> int:
    """`afd report`: exit code 0 with a page, 1 when it could not be made, 2 for bad usage."""
    settings = parse(ReportSettings, arguments, prog="afd report")
    return run_job("afd report", lambda: _run(settings))


def _run(settings: ReportSettings) -> int:
    made = report(settings)
    print_answer(f"{made.path} ({size(made.num_bytes)}, {count(made.images)} images)")
    return EXIT_COMPLETE
