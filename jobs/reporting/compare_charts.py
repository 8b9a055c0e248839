"""The report's charts that compare two runs."""

from __future__ import annotations

import numpy as np

from jobs.quantities import count, degrees, percent
from jobs.reporting import vega_lite as draw
from jobs.reporting.charts import by_quality, pale, quartiles, share_table, shares, span
from jobs.reporting.compare import Comparison
from jobs.reporting.queries import ANGLE_WIDTH, Distributions
from jobs.reporting.statistics import BANDS, QUALITIES, by_band
from jobs.reporting.vega_lite import Chart

_NOW, _BEFORE = "now", "before"


def changed_by_quality(found: Comparison) -> Chart | None:
    if not found.compared:
        return None
    images, changed = np.zeros(QUALITIES), np.zeros(QUALITIES)
    for row in found.by_quality:
        images[row["quality"]], changed[row["quality"]] = row["images"], row["changed"]
    rows = shares(changed, images)
    if not rows:
        return None
    return Chart(
        "changed",
        "Changed labels, by JPEG quality",
        f"{count(found.changed)} of {count(found.compared)} images that both runs labelled have"
        f" another label now.{pale(rows)}",
        draw.bars_by_quality(rows, "changed", warn=True),
        ("JPEG quality", "images", "changed", "share"),
        share_table(rows),
    )


def quality_shift(before: Distributions, now: Distributions) -> Chart | None:
    """In shares, so that runs of different sizes can be compared."""
    parts = {}
    for name, found in ((_NOW, now), (_BEFORE, before)):
        sums = by_quality(found, "images")
        if not sums[1:].any():
            return None
        parts[name] = by_band(sums) / sums[1:].sum()
    rows = [
        {**span(band), "series": name, "value": float(parts[name][band])}
        for name in parts
        for band in range(BANDS)
    ]
    return Chart(
        "quality-shift",
        "JPEG quality, now and before",
        "Share of the images in each band of five qualities.",
        draw.lines(rows, "of the images", share=True),
        ("JPEG quality", "now", "before"),
        [
            (span(b)["quality"], percent(parts[_NOW][b]), percent(parts[_BEFORE][b]))
            for b in range(BANDS)
        ],
    )


def drift_shift(before: Distributions, now: Distributions) -> Chart | None:
    """Median drift angles by quality; None unless both runs measured drift."""
    if not (before.has_drift and now.has_drift):
        return None
    medians = {
        name: {row["quality"]: row for row in quartiles(by_band(found.angles), ANGLE_WIDTH)}
        for name, found in ((_NOW, now), (_BEFORE, before))
    }
    rows = [
        {"quality": quality, "middle": row["middle"], "series": name, "value": row["median"]}
        for name, bands in medians.items()
        for quality, row in bands.items()
    ]
    bands = [span(band)["quality"] for band in range(BANDS)]
    table: list[tuple[str, ...]] = []
    for band in bands:
        pair = [medians[name].get(band, {}).get("median") for name in (_NOW, _BEFORE)]
        if pair != [None, None]:
            table.append((band, degrees(pair[0]), degrees(pair[1])))
    return Chart(
        "drift-shift",
        "Median drift angle, now and before",
        "At the same JPEG quality the drift should be the same. A gap means that the images or the"
        " model have changed, not only the strength of compression.",
        draw.lines(rows, "degrees", share=False),
        ("JPEG quality", "now", "before"),
        table,
    )
