"""Compares an output with an earlier one: changed labels, shifted distributions, new errors.

Images are matched by 64-bit hashes of their URIs. With 10⁹ URIs, the probability that any two of
them have the same hash is about 3 %. A URI that a run contains more than once (two members of a tar
with the same name) is matched copy by copy, in the plan's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from jobs.reporting.queries import (
    NOW,
    Distributions,
    Row,
    Trust,
    fetch,
    find_distributions,
    read_rows,
)
from jobs.reporting.statistics import (
    BANDS,
    by_band,
    kolmogorov_smirnov,
    population_stability_index,
    same_length,
)
from pipeline.output import OutputFolder

BEFORE = "before"  # the table of the earlier output
FEW = 100  # images of a run; with fewer, its distances mean little
_TOP_CHANGES = 200
_ERRORS = 40

# Few URIs have copies: numbering these alone takes less time than sorting all rows by their ids.
_COPIES = """
    SELECT shard, row, row_number() OVER (PARTITION BY id ORDER BY shard, row) AS copy
    FROM {name} SEMI JOIN (SELECT id FROM {name} GROUP BY id HAVING count(*) > 1) USING (id)
"""
_ONE_RUN = f"""
    SELECT id, coalesce(copy, 1) AS copy, status, label, quality, confidence, shard, row
    FROM {{name}} LEFT JOIN ({_COPIES}) USING (shard, row)
"""
_PAIRS = f"""
    CREATE OR REPLACE TEMP TABLE pairs AS
    SELECT id, b.status AS before_status, n.status AS status, b.label AS before_label,
           n.label AS label, n.quality AS quality,
           least(b.confidence, n.confidence) AS confidence,
           b.shard AS before_shard, b.row AS before_row, n.shard AS shard, n.row AS row
    FROM ({_ONE_RUN.format(name=BEFORE)}) AS b
    FULL JOIN ({_ONE_RUN.format(name=NOW)}) AS n USING (id, copy)
"""
_TRANSITIONS = """
    SELECT before_status AS before, status AS now, count(*) AS images
    FROM pairs GROUP BY ALL ORDER BY ALL
"""
_CHANGED_BY_QUALITY = """
    SELECT quality, count(*) AS images, count(*) FILTER (label <> before_label) AS changed
    FROM pairs WHERE label IS NOT NULL AND before_label IS NOT NULL GROUP BY ALL
"""
_CHANGES = f"""
    SELECT before_label, label, count(*) AS images, avg(confidence) AS confidence
    FROM pairs WHERE label <> before_label GROUP BY ALL
    ORDER BY images DESC, before_label, label LIMIT {_TOP_CHANGES}
"""
_SUREST = """
    SELECT before_shard, before_row, shard, row FROM pairs WHERE label <> before_label
    ORDER BY confidence DESC, id, shard, row LIMIT $images
"""
_NEW_ERRORS = f"""
    SELECT {NOW}.status, error, bad_uri AS uri
    FROM {NOW} JOIN pairs USING (shard, row)
    WHERE pairs.status <> 'ok' AND before_status = 'ok'
    ORDER BY {NOW}.status, uri LIMIT {_ERRORS}
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed between the earlier run and this one.

    transitions: images by status before and now; None: not in that run.
    by_quality: images with a label in both runs, and how many labels changed, by JPEG quality now
    (0: none). changes: the most frequent changes, by class. examples: the changes with the highest
    confidence in both runs. new_errors: images that were ok before.
    shifts: distances of the distributions, one row per quality band.
    """

    before: Distributions
    transitions: list[Row]
    by_quality: list[Row]
    changes: list[Row]
    examples: list[Row]
    new_errors: list[Row]
    shifts: list[Row]

    def transitioned(self, before: str | None, now: str | None) -> int:
        return sum(
            row["images"]
            for row in self.transitions
            if (row["before"], row["now"]) == (before, now)
        )

    @property
    def in_both(self) -> int:
        return sum(row["images"] for row in self.transitions if row["before"] and row["now"])

    @property
    def added(self) -> int:
        return sum(row["images"] for row in self.transitions if row["before"] is None)

    @property
    def gone(self) -> int:
        return sum(row["images"] for row in self.transitions if row["now"] is None)

    @property
    def compared(self) -> int:
        return sum(row["images"] for row in self.by_quality)

    @property
    def changed(self) -> int:
        return sum(row["changed"] for row in self.by_quality)

    @property
    def newly_failed(self) -> int:
        """Images that were ok before and are not ok now."""
        return sum(
            row["images"]
            for row in self.transitions
            if row["before"] == "ok" and row["now"] not in (None, "ok")
        )


def compare(
    connection: duckdb.DuckDBPyConnection,
    outputs: tuple[OutputFolder, OutputFolder],
    now: Distributions,
    trust: Trust,
    *,
    examples: int,
) -> Comparison:
    """Compare the table NOW, whose distributions are `now`, with the table BEFORE.

    outputs: the folders of both, (before, now). examples: number of examples.
    """
    before = find_distributions(connection, BEFORE, trust)
    connection.execute(_PAIRS)
    surest = connection.execute(_SUREST, {"images": examples}).fetchall()
    return Comparison(
        before=before,
        transitions=fetch(connection, _TRANSITIONS),
        by_quality=fetch(connection, _CHANGED_BY_QUALITY),
        changes=_named(fetch(connection, _CHANGES), before.labels, now.labels),
        examples=_examples(outputs, surest),
        new_errors=fetch(connection, _NEW_ERRORS),
        shifts=shifts(before, now),
    )


def shifts(before: Distributions, now: Distributions) -> list[Row]:
    """PSI and KS of drift angle and confidence: one row for all images (band None), one per band.

    `before` and `images` count the images with a confidence. Bands without images in either run are
    left out. A distance is None when a run has no values.
    """
    angles = same_length(before.angles, now.angles)
    confidences = same_length(before.confidences, now.confidences)
    rows = [_shift(None, *(c.sum(0) for c in (*angles, *confidences)))]
    bands = [by_band(counts) for counts in (*angles, *confidences)]
    rows += [_shift(band, *(counts[band] for counts in bands)) for band in range(BANDS)]
    return [row for row in rows if row["before"] or row["images"]]


def _shift(
    band: int | None,
    angles_before: np.ndarray,
    angles: np.ndarray,
    confidences_before: np.ndarray,
    confidences: np.ndarray,
) -> Row:
    return {
        "band": band,
        "before": int(confidences_before.sum()),
        "images": int(confidences.sum()),
        "drift_psi": population_stability_index(angles_before, angles),
        "drift_ks": kolmogorov_smirnov(angles_before, angles),
        "confidence_psi": population_stability_index(confidences_before, confidences),
        "confidence_ks": kolmogorov_smirnov(confidences_before, confidences),
    }


def _named(changes: list[Row], before: Sequence[Row], now: Sequence[Row]) -> list[Row]:
    before_names, names = _class_names(before), _class_names(now)
    return [
        {**row, "before_name": before_names[row["before_label"]], "name": names[row["label"]]}
        for row in changes
    ]


def _class_names(labels: Sequence[Row]) -> dict[int, str]:
    return {row["label"]: row["name"] or f"class {row['label']}" for row in labels}


def _examples(
    outputs: tuple[OutputFolder, OutputFolder], places: Sequence[tuple[int, int, int, int]]
) -> list[Row]:
    """Rows of a gallery, with `before_label` and `before_confidence`."""
    before = read_rows(outputs[0], [place[:2] for place in places])
    now = read_rows(outputs[1], [place[2:] for place in places])
    return [
        {**row, "before_label": earlier["label"], "before_confidence": earlier["confidence"]}
        for earlier, row in zip(before, now, strict=True)
    ]
