"""The report's charts of one run, each with a caption and its figures as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobs.quantities import count, decimal, degrees, duration, percent
from jobs.reporting import vega_lite as draw
from jobs.reporting.queries import ANGLE_WIDTH, CONFIDENCE_WIDTH, Distributions, Row, Trust
from jobs.reporting.run import STAGES, Run, stage_totals, timeline
from jobs.reporting.statistics import (
    BAND_WIDTH,
    BANDS,
    QUALITIES,
    band_name,
    by_band,
    coarser,
    median,
    nice_factor,
    quantiles,
)
from jobs.reporting.vega_lite import Chart

_CONFIDENCE_BINS = 50
_ANGLE_BINS = 40
_SUBSAMPLINGS = 8
_LOW_QUALITY = 30


def confidence(found: Distributions, trust: Trust) -> Chart:
    counts = found.confidences.sum(0)
    width = 1 / _CONFIDENCE_BINS
    drawn = coarser(counts, round(width / CONFIDENCE_WIDTH), _CONFIDENCE_BINS).tolist()
    rows = [
        {"from": round(k * width, 2), "to": round((k + 1) * width, 2), "images": images}
        for k, images in enumerate(drawn)
    ]
    middle = median(counts, CONFIDENCE_WIDTH)
    return Chart(
        "confidence",
        "Confidence of the labels",
        f"Half of the labels have a confidence above {decimal(middle)}. Labels below"
        f" {trust.sure:g}, in another colour, are uncertain.",
        draw.histogram(rows, "confidence", domain=(0, 1), warn_below=trust.sure),
        ("confidence", "images"),
        [(f"{row['from']:.2f}–{row['to']:.2f}", count(row["images"])) for row in rows],
    )


def quality(found: Distributions) -> Chart:
    images = by_quality(found, "images")
    known = images[1:].astype(int).tolist()
    rows = [
        {"quality": q, "from": q - 0.5, "to": q + 0.5, "images": n} for q, n in enumerate(known, 1)
    ]
    low = images[1 : _LOW_QUALITY + 1].sum() / max(images[1:].sum(), 1)
    unknown = f" {images[0]:,.0f} images have no IJG-like table and are not in this chart."
    return Chart(
        "quality",
        "JPEG quality",
        f"{percent(low)} are of quality {_LOW_QUALITY} or less." + (unknown if images[0] else ""),
        draw.histogram(rows, "JPEG quality", domain=(0, 101)),
        ("JPEG quality", "images"),
        [(str(row["quality"]), count(row["images"])) for row in rows if row["images"]],
    )


def subsampling(found: Distributions) -> Chart | None:
    """None where no image has a JPEG header."""
    images = found.by("subsampling")
    if not any(images):
        return None
    named = images.most_common(_SUBSAMPLINGS)
    if rest := images.total() - sum(n for _, n in named):
        named.append(("other", rest))
    rows: list[Row] = [
        {"name": name or "no JPEG header", "images": n, "share": n / images.total()}
        for name, n in named
    ]
    return Chart(
        "subsampling",
        "Chroma subsampling",
        f"{percent(rows[0]['share'])} {'are' if named[0][0] else 'have'} {rows[0]['name']}.",
        draw.bars(rows),
        ("subsampling", "images", "share"),
        [(str(r["name"]), count(r["images"]), percent(r["share"])) for r in rows],
    )


def confidence_by_quality(found: Distributions) -> Chart:
    rows = quartiles(by_band(found.confidences), CONFIDENCE_WIDTH)
    return Chart(
        "confidence-by-quality",
        "Confidence by JPEG quality",
        "The line is the median; the area around it contains the middle half of the labels.",
        draw.confidence_by_quality(rows),
        ("JPEG quality", "labels", "lower quartile", "median", "upper quartile"),
        [
            (row["quality"], count(row["images"]), *(decimal(row[k]) for k in draw.QUARTILES))
            for row in rows
        ],
    )


def trusted_by_quality(found: Distributions, trust: Trust) -> Chart:
    rows = shares(by_quality(found, "trusted"), by_quality(found, "labelled"))
    rule = f"its image is ok and its confidence {trust.sure:g} or more"
    if found.has_flip:
        rule += f", and its flip probability under {trust.at_risk:g}"
    return Chart(
        "trusted",
        "Labels to trust, by JPEG quality",
        f"A label counts as trustworthy when {rule}.{pale(rows)}",
        draw.bars_by_quality(rows, "trustworthy"),
        ("JPEG quality", "labels", "trustworthy", "share"),
        share_table(rows),
    )


def drift(found: Distributions) -> Chart:
    """The density is normalised within each band, so that bands with few images are visible too."""
    angles = by_band(found.angles)
    (top,) = quantiles(angles.sum(0), 1.0, [0.995]) or [1.0]
    factor = nice_factor(int(top), _ANGLE_BINS)
    cells = coarser(angles, factor, int(top) // factor + 1)
    parts = cells / np.maximum(cells.sum(1, keepdims=True), 1)
    step = factor * ANGLE_WIDTH
    density = [
        {**span(band), "low": k * step, "high": (k + 1) * step, "share": float(parts[band, k])}
        for band, k in np.argwhere(cells > 0).tolist()
    ]
    rows = quartiles(angles, ANGLE_WIDTH)
    middle = median(found.angles.sum(0), ANGLE_WIDTH)
    return Chart(
        "drift",
        "Drift angle by JPEG quality",
        "The angle by which compression has turned the classifier's features. The line connects the"
        f" medians of the bands; the median of all images is {degrees(middle)}. The top cells also"
        " contain all larger angles.",
        draw.drift_by_quality(density, rows),
        ("JPEG quality", "images", "lower quartile", "median", "upper quartile"),
        [
            (row["quality"], count(row["images"]), *(degrees(row[k]) for k in draw.QUARTILES))
            for row in rows
        ],
    )


def flips(found: Distributions, trust: Trust) -> Chart:
    measured, at_risk = by_quality(found, "with_flip"), by_quality(found, "at_risk")
    expected = shares(by_quality(found, "flips"), measured)
    risky = shares(at_risk, measured)
    name = f"share at risk ({trust.at_risk:g} or more)"
    series = (("mean flip probability", expected), (name, risky))
    rows = [
        {"quality": r["quality"], "middle": r["middle"], "series": s, "value": r["share"]}
        for s, band_rows in series
        for r in band_rows
    ]
    total = int(measured.sum())
    return Chart(
        "flips",
        "Labels at risk, by JPEG quality",
        f"Compression has probably changed about {count(round(by_quality(found, 'flips').sum()))}"
        f" of {count(total)} labels; {count(int(at_risk.sum()))} are at risk.",
        draw.lines(rows, "of the labels", share=True),
        ("JPEG quality", "labels", "mean flip probability", "at risk", "share at risk"),
        [
            (e["quality"], count(e["images"]), percent(e["share"]), count(r["part"]),
             percent(r["share"]))
            for e, r in zip(expected, risky, strict=True)
        ],
    )  # fmt: skip


def speed(run: Run) -> Chart | None:
    rows = timeline(run.times)
    if not rows:
        return None
    mean = sum(row["images_per_s"] for row in rows) / len(rows)
    drawn, unit = _in_unit(rows)
    return Chart(
        "speed",
        "Speed over the run",
        f"{mean:,.1f} images/s on average over {duration(rows[-1]['to_s'])} of work, all workers"
        " together, without start-up and the time between runs.",
        draw.speed_over_time(drawn, unit),
        (f"{unit} of work", "images/s"),
        [(_time_span(row), f"{row['images_per_s']:,.1f}") for row in drawn],
    )


def stages(run: Run) -> Chart | None:
    rows = timeline(run.times)
    if not rows:
        return None
    binned, unit = _in_unit(rows)
    drawn = [
        {"from": row["from"], "to": row["to"], "stage": stage, "share": row[stage], "position": k}
        for row in binned
        for k, stage in enumerate(STAGES)
    ]
    most = max(stage_totals(run.times), key=lambda row: row["seconds"])
    return Chart(
        "stages",
        "Where the workers' time went",
        f"The largest part, {percent(most['share'])}, went into {most['stage']}.",
        draw.shares_over_time(drawn, STAGES, unit),
        (f"{unit} of work", *STAGES),
        [(_time_span(row), *(percent(row[stage]) for stage in STAGES)) for row in binned],
    )


def _in_unit(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """(the rows with "from" and "to" in a suitable unit of time, the unit's name)."""
    worked_s = rows[-1]["to_s"]
    scale, unit = (1, "seconds") if worked_s < 300 else (60, "minutes")
    if worked_s > 4 * 3600:
        scale, unit = 3600, "hours"
    return [{**r, "from": r["from_s"] / scale, "to": r["to_s"] / scale} for r in rows], unit


def _time_span(row: Row) -> str:
    return f"{row['from']:.1f}–{row['to']:.1f}"


def quartiles(counts: np.ndarray, width: float) -> list[Row]:
    """(20, bins) counts by band -> one row per band that is not empty."""
    rows = []
    for band in range(BANDS):
        if found := quantiles(counts[band], width, [0.25, 0.5, 0.75]):
            values = dict(zip(draw.QUARTILES, found, strict=True))
            rows.append({**span(band), "images": int(counts[band].sum()), **values})
    return rows


def shares(part: np.ndarray, whole: np.ndarray) -> list[Row]:
    """(101,) sums by quality, of a part and of the whole -> one row per band that is not empty."""
    parts, wholes = by_band(part), by_band(whole)
    return [
        {
            **span(band),
            "images": int(wholes[band]),
            "part": int(parts[band]),
            "share": float(parts[band] / wholes[band]),
        }
        for band in range(BANDS)
        if wholes[band]
    ]


def span(band: int) -> Row:
    low = band * BAND_WIDTH
    return {
        "quality": band_name(band),
        "from": low + 0.5,
        "to": low + BAND_WIDTH + 0.5,
        "middle": low + (BAND_WIDTH + 1) / 2,
    }


def by_quality(found: Distributions, name: str) -> np.ndarray:
    """The sums of a column of the counts: (101,) float64 by JPEG quality; 0: not known."""
    sums = np.zeros(QUALITIES)
    for value, total in found.by("quality", name).items():
        sums[value] = total
    return sums


def pale(rows: Sequence[Row]) -> str:
    """What a caption says about bars of few images, if there are any."""
    few = any(row["images"] < draw.FEW for row in rows)
    return f" Pale: a share of fewer than {draw.FEW}." if few else ""


def share_table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [(r["quality"], count(r["images"]), count(r["part"]), percent(r["share"])) for r in rows]
