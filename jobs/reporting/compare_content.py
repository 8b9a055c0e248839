"""A comparison -> the variables of the template's section on changes."""

from __future__ import annotations

from typing import Any

from jobs.quantities import UNKNOWN, count, decimal, percent
from jobs.reporting import compare_charts as charts
from jobs.reporting.compare import FEW, Comparison
from jobs.reporting.content import Card, recorded_model
from jobs.reporting.queries import Distributions, Row
from jobs.reporting.run import Run
from jobs.reporting.statistics import band_name, psi_by_chance
from pipeline.records import STATUSES

_MODERATE, _LARGE = 0.1, 0.25  # the usual limits of PSI
_FEW = "few"
_ABSENT = "absent"


def change(
    found: Comparison, now: Distributions, runs: tuple[Run, Run], location: str
) -> dict[str, Any]:
    """The section's variables. runs: (before, now). location: of the earlier output."""
    drawn = (
        charts.changed_by_quality(found),
        charts.drift_shift(found.before, now),
        charts.quality_shift(found.before, now),
    )
    settings = _differences(*runs)
    return {
        "before": location,
        "notices": _notices(found, now, settings),
        "cards": _cards(found),
        "charts": [chart for chart in drawn if chart],
        "shifts": [_shift(row) for row in found.shifts],
        "few": FEW,
        "labels": found.changes,
        "examples": found.examples,
        "new_errors": found.new_errors,
        "newly_failed": found.newly_failed,
        "status_names": [*STATUSES, _ABSENT],
        "transitions": _matrix(found),
        "settings": settings,
    }


def _notices(
    found: Comparison, now: Distributions, settings: list[tuple[str, str, str]]
) -> list[str]:
    notices = []
    if not found.in_both:
        notices.append(
            "The runs have no URI in common: distributions can be compared, labels cannot."
        )
    if any(name == "backbone" for name, _, _ in settings):
        notices.append(
            "The runs have different backbones: labels may differ because of the model, and class"
            " numbers may have different meanings."
        )
    notices += _renamed(found.before, now)
    if not (now.has_drift and found.before.has_drift):
        without = "Neither run" if now.has_drift == found.before.has_drift else "One of the runs"
        verb = "measured" if without.startswith("Neither") else "did not measure"
        notices.append(f"{without} {verb} drift, so its shift is not known.")
    return notices


def _renamed(before: Distributions, now: Distributions) -> list[str]:
    """A notice of the class numbers that both runs have names for, if these differ."""
    names = {row["label"]: row["name"] for row in now.labels if row["name"]}
    renamed = sorted(
        (row["label"], row["name"], names[row["label"]])
        for row in before.labels
        if row["name"] and names.get(row["label"], row["name"]) != row["name"]
    )
    if not renamed:
        return []
    label, before_name, name = renamed[0]
    numbers = "class number" if len(renamed) == 1 else "class numbers"
    return [
        f"The runs have different names for {count(len(renamed))} {numbers}, such as {label}"
        f" ({before_name!r} before, {name!r} now): labels are compared by their numbers."
    ]


def _cards(found: Comparison) -> list[Card]:
    share = percent(found.changed / found.compared if found.compared else None)
    return [
        (share, "labels changed", f"{count(found.changed)} of {count(found.compared)}"),
        (count(found.newly_failed), "new errors", "ok before, not ok now"),
        (count(found.added), "images added", f"{count(found.in_both)} in both"),
        (count(found.gone), "images removed", ""),
        *(_psi_card(found, name) for name in ("drift", "confidence")),
    ]


def _psi_card(found: Comparison, name: str) -> Card:
    overall = found.shifts[0] if found.shifts else {f"{name}_psi": None}
    few = _verdict(overall, name) == _FEW
    note = "too few images to tell" if few else "all qualities"
    return decimal(overall[f"{name}_psi"], 3), f"{name} PSI", note


def _shift(row: Row) -> Row:
    return {
        **row,
        "band": "all" if row["band"] is None else band_name(row["band"]),
        "drift_verdict": _verdict(row, "drift"),
        "confidence_verdict": _verdict(row, "confidence"),
    }


def _verdict(row: Row, name: str) -> str:
    """What a row's PSI is called, unless so few images are no ground for it."""
    psi = row[f"{name}_psi"]
    if psi is None:
        return UNKNOWN
    sizes = row["before"], row["images"]
    if min(sizes) < FEW:
        return _FEW
    if psi < _MODERATE:
        return "small"
    if psi <= psi_by_chance(*sizes):
        return _FEW
    return "large" if psi >= _LARGE else "moderate"


def _matrix(found: Comparison) -> list[tuple[str, ...]]:
    """One row per status before, one column per status now."""
    names = [*STATUSES, None]
    return [
        (
            before or _ABSENT,
            *(count(found.transitioned(before, now)) if before or now else "" for now in names),
        )
        for before in names
    ]


def _differences(before: Run, now: Run) -> list[tuple[str, str, str]]:
    """(name, before, now) of the settings, model facts and versions that differ."""
    facts = [
        {**run.facts.get("settings", {}), **recorded_model(run), **run.facts.get("versions", {})}
        for run in (before, now)
    ]
    return [
        (name.replace("_", " "), str(facts[0].get(name, UNKNOWN)), str(facts[1].get(name, UNKNOWN)))
        for name in sorted(facts[0].keys() | facts[1].keys())
        if facts[0].get(name) != facts[1].get(name)
    ]
