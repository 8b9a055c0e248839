"""The steps of a report, in order: count, compare, read pictures, draw, write."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from afd_model.atomic_file import atomic_write
from jobs.labels_view import connect, message_of, require_parts
from jobs.log import say
from jobs.report_settings import ReportSettings
from jobs.reporting import content
from jobs.reporting.compare import BEFORE, Comparison, compare
from jobs.reporting.compare_content import change
from jobs.reporting.gallery import Thumbnails
from jobs.reporting.page import render
from jobs.reporting.queries import NOW, Findings, Trust, find, load
from jobs.reporting.run import Run, read_run
from pipeline.error_text import reason_of
from pipeline.output import OutputError, OutputFolder

_PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Report:
    """A written report. num_bytes: of the page. images: number of rows that it describes."""

    path: Path
    num_bytes: int
    images: int


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the outputs that are compared, or the only one."""

    output: OutputFolder
    run: Run


def build(settings: ReportSettings) -> Report:
    """Write the page. Raises ValueError, worded for the user."""
    began = time.monotonic()
    now = _open(settings.output)
    page = _page_path(now.output, settings)
    earlier = None if settings.against == "none" else _open(settings.against)
    trust = Trust(sure=settings.sure, at_risk=settings.at_risk)
    with connect(memory_limit=settings.memory_limit) as connection:
        try:
            found, compared = _count(connection, now, earlier, trust, settings)
        except duckdb.OutOfMemoryException as error:
            raise OutputError(
                f"--memory-limit {settings.memory_limit} is too low: give more"
                f" ({message_of(error)})"
            ) from error
    say("reading pictures and drawing")
    found, compared = _with_thumbnails(
        found, compared, Thumbnails(now.output, budget_s=settings.thumbnail_time_s)
    )
    context = _context(found, now, trust, settings)
    context["change"] = None
    if compared is not None and earlier is not None:
        runs = (earlier.run, now.run)
        context["change"] = change(compared, found, runs, str(earlier.output.path))
    context["sections"] = content.sections(context)
    context["made"] = f"Made by afd report on {content.when(time.time())}."
    _write(page, render(context, content.drawn(context)))
    say(f"done in {time.monotonic() - began:.1f} s")
    return Report(page, page.stat().st_size, now.run.rows)


def _open(location: str) -> _Side:
    output = OutputFolder(location)
    run = read_run(output)
    require_parts(output, run.parts)
    return _Side(output, run)


def _count(
    connection: duckdb.DuckDBPyConnection,
    now: _Side,
    earlier: _Side | None,
    trust: Trust,
    settings: ReportSettings,
) -> tuple[Findings, Comparison | None]:
    say(f"counting {now.run.rows:,} rows in {len(now.run.parts):,} parts")
    _load(connection, NOW, now)
    found = find(connection, now.output, trust, gallery=settings.thumbnails)
    if earlier is None:
        return found, None
    say(f"comparing with {earlier.run.rows:,} rows of {settings.against}")
    _load(connection, BEFORE, earlier)
    outputs = (earlier.output, now.output)
    return found, compare(connection, outputs, found, trust, examples=settings.thumbnails)


def _load(connection: duckdb.DuckDBPyConnection, name: str, side: _Side) -> None:
    try:
        load(connection, name, side.run.parts)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        labels = str(side.output.labels)
        raise OutputError(f"cannot read {labels!r}: {message_of(error)}") from error


def _page_path(output: OutputFolder, settings: ReportSettings) -> Path:
    page = output.path / _PAGE if settings.html == "auto" else Path(settings.html).absolute()
    if page.is_dir():
        raise OutputError(f"--html {settings.html!r} is a folder: give the name of a file")
    return page


def _write(page: Path, text: str) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {str(page)!r}: {reason_of(error)}; --html takes another file"
        ) from error


def _with_thumbnails(
    found: Findings, compared: Comparison | None, thumbnails: Thumbnails
) -> tuple[Findings, Comparison | None]:
    if compared is not None:
        compared = replace(compared, examples=thumbnails.add(compared.examples))
    pictured = replace(
        found,
        highest_drift=thumbnails.add(found.highest_drift),
        lowest_confidence=thumbnails.add(found.lowest_confidence),
        damaged=thumbnails.add(found.damaged),
    )
    return pictured, compared


def _context(found: Findings, now: _Side, trust: Trust, settings: ReportSettings) -> dict[str, Any]:
    facts = now.run.facts
    return {
        "title": f"Labels of {now.output.path.name}",
        "subtitle": f"{facts.get('settings', {}).get('input', '')} labelled with"
        f" {facts.get('backbone', 'an unknown model')}",
        "queries": content.queries(str(now.output.path), trust),
        **content.summary(found, now.run, trust),
        **content.labels(found, trust, settings.max_labels),
        **content.compression(found),
        **content.drift(found, trust),
        **content.galleries(found, settings.thumbnails),
        **content.run_facts(now.run),
    }
