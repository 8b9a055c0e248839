"""Findings -> the variables of the page's template."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.quantities import UNKNOWN, count, decimal, degrees, duration, percent, size
from jobs.reporting import charts
from jobs.reporting.queries import ANGLE_WIDTH, CONFIDENCE_WIDTH, Findings, Row, Trust
from jobs.reporting.run import Run, stage_totals
from jobs.reporting.statistics import median
from jobs.reporting.vega_lite import Chart
from jobs.run_record import MODEL_FACTS
from pipeline.records import STATUSES

Card = tuple[str, str, str]  # value, name, note

_MEANINGS = {
    "ok": "decoded and labelled",
    "damaged": "truncated or corrupt file, labelled from the part that could be decoded",
    "rejected": "not labelled: not a decodable image, or over a limit",
    "unreadable": "not labelled: the bytes could not be fetched",
}
_NO_DRIFT = (
    "Drift was not measured: the run had no trained AFD-Module (the columns drift_angle_deg,"
    " drift_energy and flip_probability are null). Use --afd with a trained one to get them."
)
_NO_LABEL = "No image was labelled."
_NO_FLIP = (
    "Flip probabilities are not known, because the run's AFD checkpoint contains no flip model, or"
    " one that the labelling release could not run. So it is not known which labels are at risk."
)


def summary(found: Findings, run: Run, trust: Trust) -> dict[str, Any]:
    images, labelled = found.total("images"), found.total("labelled")
    by_status = found.by("status")
    return {
        "cards": list(_cards(found, trust)),
        "notices": list(_notices(run, images)),
        "statuses": [
            {
                "status": status,
                "images": by_status[status],
                "share": by_status[status] / max(images, 1),
                "meaning": _MEANINGS[status],
            }
            for status in STATUSES
        ],
        "reasons": [
            _reason(row) for status in STATUSES for row in found.reasons if row["status"] == status
        ],
        "labelled": labelled,
    }


def _cards(found: Findings, trust: Trust) -> list[Card]:
    images, labelled = found.total("images"), found.total("labelled")
    trusted = found.total("trusted")
    confidence = median(found.confidences.sum(0), CONFIDENCE_WIDTH)
    qualities = found.by("quality")
    known = images - qualities[0]
    cards = [
        (count(images), "image" if images == 1 else "images", size(found.total("num_bytes"))),
        (
            percent(trusted / labelled if labelled else None),
            "labels to trust",
            f"{count(trusted)} labels",
        ),
        (
            percent(1 - labelled / images),
            "not labelled",
            f"{count(images - labelled)} rejected or unreadable",
        ),
        (count(found.by("status")["damaged"]), "damaged", "labelled from the decoded part"),
        (decimal(confidence), "median confidence", f"of {count(labelled)} labels"),
    ]
    if known:
        cards.append((str(_median_quality(found)), "median JPEG quality", f"{count(known)} known"))
    if found.has_drift:
        angle = median(found.angles.sum(0), ANGLE_WIDTH)
        cards.append((degrees(angle), "median drift angle", "of the stem features"))
    if found.has_flip:
        measured = found.total("with_flip")
        cards.append(
            (
                percent(found.total("at_risk") / measured),
                "labels at risk",
                f"flip probability {trust.at_risk:g} or more",
            )
        )
    return cards


def _median_quality(found: Findings) -> int:
    """Of the known qualities; there must be at least one."""
    up_to = np.cumsum(charts.by_quality(found, "images")[1:])  # (100,), of qualities 1 to 100
    return 1 + int(np.searchsorted(up_to, up_to[-1] / 2))


def _notices(run: Run, images: int) -> list[tuple[str, str]]:
    """(kind, text) of each problem of the output as a whole."""
    notices = []
    if run.planned_images is not None and run.planned_images > images:
        missing = run.planned_images - images
        notices.append(
            (
                "bad",
                f"The run is not finished: {count(missing)} of {count(run.planned_images)} planned"
                " images have no row yet. The same `afd label` command continues it.",
            )
        )
    for name, reason in run.damaged.items():
        notices.append(
            (
                "bad",
                f"{name} cannot be read and is left out of this report ({reason}). Remove it and"
                " run the same `afd label` command again.",
            )
        )
    return notices


def _reason(row: Row) -> Row:
    """The row with its text: the error if all are the same, else what the errors share."""
    same = row["first_error"] == row["last_error"]
    return {**row, "text": row["first_error"] if same else row["reason"]}


def labels(found: Findings, trust: Trust, max_labels: int) -> dict[str, Any]:
    listed = found.labels[:max_labels]
    labelled = max(found.total("labelled"), 1)
    most = max((row["images"] for row in listed), default=1)
    drawn = [charts.confidence(found, trust)] if listed else []
    if found.confidences[1:].any():
        drawn += [charts.trusted_by_quality(found, trust), charts.confidence_by_quality(found)]
    return {
        "labels": [
            {**row, "share": row["images"] / labelled, "length": row["images"] / most}
            for row in listed
        ],
        "num_labels": len(found.labels),
        "unlisted": sum(row["images"] for row in found.labels[max_labels:]),
        "label_charts": drawn,
        "has_drift": found.has_drift,
        "has_flip": found.has_flip,
        "trust": trust,
    }


def compression(found: Findings) -> dict[str, Any]:
    qualities = found.by("quality")
    known = qualities.total() - qualities[0]
    notices = [] if known else ["No image has an IJG-like quantization table."]
    made = (charts.quality(found) if known else None, charts.subsampling(found))
    return {
        "compression_notices": notices,
        "compression_charts": [chart for chart in made if chart],
    }


def drift(found: Findings, trust: Trust) -> dict[str, Any]:
    if not found.has_drift:
        return {"drift_notices": [_without_drift(found)], "drift_charts": []}
    if not found.angles[1:].any():
        notice = "Drift was measured, but no image has a known JPEG quality to chart it against."
        return {"drift_notices": [notice], "drift_charts": []}
    drawn = [charts.drift(found)]
    if found.has_flip:
        drawn.append(charts.flips(found, trust))
    return {"drift_notices": [] if found.has_flip else [_NO_FLIP], "drift_charts": drawn}


def _without_drift(found: Findings) -> str:
    return _NO_DRIFT if found.total("labelled") else _NO_LABEL


def galleries(found: Findings, images: int) -> dict[str, Any]:
    """(name, note, rows) of each gallery; no galleries when `images` is 0."""
    if not images:
        return {"galleries": []}
    drift_note = "The images whose features compression has changed most."
    return {
        "galleries": [
            (
                "Highest drift",
                drift_note if found.has_drift else _without_drift(found),
                found.highest_drift,
            ),
            (
                "Lowest confidence",
                "The least certain labels; many of these pictures show none of the classes."
                if found.lowest_confidence
                else _NO_LABEL,
                found.lowest_confidence,
            ),
            (
                "Damaged",
                "Some of the files that were labelled from the part that could be decoded."
                if found.damaged
                else "No image is damaged.",
                found.damaged,
            ),
        ]
    }


def run_facts(run: Run) -> dict[str, Any]:
    drawn = [chart for chart in (charts.speed(run), charts.stages(run)) if chart]
    notice = "The parts do not contain their times, so speed over time cannot be shown."
    return {
        "run_charts": drawn,
        "run_notices": [] if drawn else [notice],
        "stage_rows": [
            (
                row["stage"],
                duration(row["seconds"]),
                percent(row["share"]),
                f"{row['ms_per_image']:.2f}",
            )
            for row in stage_totals(run.times)
        ],
        "facts": _fact_tables(run),
    }


def _fact_tables(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    model, settings, versions = (
        recorded_model(run),
        run.facts.get("settings", {}),
        run.facts.get("versions", {}),
    )
    began = [part.began_at for part in run.times if part.began_at is not None]
    about = [
        ("parts", count(len(run.parts))),
        *((device, f"{count(parts)} parts") for device, parts in run.devices.items()),
    ]
    if began:
        about.insert(0, ("first shard started", when(min(began))))
        about.insert(1, ("last shard started", when(max(began))))
    return [
        ("Model", _sorted(model)),
        ("Settings", _sorted(settings)),
        ("Versions", _sorted(versions)),
        ("This run", [("run id", str(run.facts.get("run_id", UNKNOWN))), *about]),
    ]


def recorded_model(run: Run) -> dict[str, Any]:
    return {name: run.facts[name] for name in MODEL_FACTS if name in run.facts}


def _sorted(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), str(value)) for name, value in facts.items()]


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def queries(output: str, trust: Trust) -> dict[str, str]:
    """Commands that list the rows behind a section."""
    asked = {
        "bad": "SELECT uri, status, error FROM labels WHERE status <> 'ok'",
        "at_risk": "SELECT uri, label_name, confidence, flip_probability FROM labels"
        f" WHERE flip_probability >= {trust.at_risk:g} ORDER BY flip_probability DESC",
    }
    return {
        name: f'afd sql {shlex.quote(output)} "{sql}" --format csv > {name}.csv'
        for name, sql in asked.items()
    }


def drawn(context: dict[str, Any]) -> list[Chart]:
    """All charts in a context."""
    found: list[Chart] = []
    for name, value in context.items():
        if name.endswith("charts"):
            found += value
        elif isinstance(value, dict):
            found += drawn(value)
    return found


def sections(context: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """(id, name) of the sections in the page's navigation."""
    needs = {"changes": "change", "images": "galleries"}
    names = ["summary", "changes", "status", "labels", "compression", "drift", "images", "run"]
    return [(name, name.capitalize()) for name in names if context.get(needs.get(name, "cards"))]
