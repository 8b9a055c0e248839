"""What the report says about the rows, counted by DuckDB.

The columns that are counted are read once, into a temporary table that DuckDB keeps within its
memory limit. The few rows that are shown are read from their parts afterwards. Distributions are
counted in fine bins, from which `jobs.reporting.statistics` computes quantiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq

from jobs.labels_view import scan_parts
from jobs.reporting.statistics import QUALITIES
from pipeline.output import OutputFolder
from pipeline.shards import part_path

Row = dict[str, Any]

NOW = "now"  # the table of the output that the report is about
_CONFIDENCE_BINS, _ANGLE_BINS = 200, 100  # per confidence of 1, per degree
CONFIDENCE_WIDTH = 1 / _CONFIDENCE_BINS
ANGLE_WIDTH = 1 / _ANGLE_BINS  # degrees
_REASONS = 40
_SHOWN = {  # column of the labels -> its name in a gallery's row
    "uri": "uri",
    "shard": "shard",
    "status": "status",
    "error": "error",
    "num_bytes": "num_bytes",
    "jpeg_quality": "quality",
    "label": "class",
    "label_name": "label",
    "confidence": "confidence",
    "drift_angle_deg": "drift",
    "flip_probability": "flip",
}

# A model that overflows gives NaN. That, and what no run of this package gives, is treated as null.
_LOAD = """
    CREATE TEMP TABLE {name} AS
    SELECT hash(uri) AS id, shard, file_row_number AS row, status,
           CASE WHEN jpeg_quality BETWEEN 1 AND 100 THEN jpeg_quality ELSE 0 END AS quality,
           jpeg_subsampling AS subsampling, num_bytes,
           label, label_name,
           CASE WHEN confidence BETWEEN 0 AND 1 THEN confidence END AS confidence,
           CASE WHEN drift_angle_deg BETWEEN 0 AND 180 THEN drift_angle_deg END AS drift,
           CASE WHEN flip_probability BETWEEN 0 AND 1 THEN flip_probability END AS flip,
           error, CASE WHEN status <> 'ok' THEN uri END AS bad_uri
    FROM {parts}
"""
_COUNTS = """
    SELECT status, quality, subsampling, count(*) AS images, count(label) AS labelled,
           sum(num_bytes) AS num_bytes, count(flip) AS with_flip,
           coalesce(sum(flip), 0) AS flips, count(*) FILTER (flip >= $at_risk) AS at_risk,
           count(*) FILTER (status = 'ok' AND confidence >= $sure
                            AND coalesce(flip, 0) < $at_risk) AS trusted
    FROM {name} GROUP BY ALL
"""
_LABELS = """
    SELECT label, any_value(label_name) AS name, count(*) AS images,
           avg(confidence) AS confidence,
           count(*) FILTER (confidence < $sure) / count(*) AS unsure,
           avg(drift) AS drift, avg(flip) AS flip
    FROM {name} WHERE label IS NOT NULL GROUP BY label ORDER BY images DESC, label
"""
_CONFIDENCES = f"""
    SELECT quality,
           least(floor(confidence * {_CONFIDENCE_BINS}), {_CONFIDENCE_BINS - 1})::INTEGER AS bin,
           count(*) AS images
    FROM {{name}} WHERE confidence IS NOT NULL GROUP BY ALL
"""
_ANGLES = f"""
    SELECT quality, floor(drift * {_ANGLE_BINS})::INTEGER AS bin, count(*) AS images
    FROM {{name}} WHERE drift IS NOT NULL GROUP BY ALL
"""
# Errors are grouped without their numbers and quoted parts, which differ from file to file.
_REASON = """
    regexp_replace(regexp_replace(error, '''[^'']*''', '''…''', 'g'),
                   '0x[0-9A-Fa-f]+|[0-9]+', '…', 'g')
"""
_REASONS_FOUND = f"""
    SELECT status, {_REASON} AS reason, count(*) AS images, min(error) AS first_error,
           max(error) AS last_error, min(bad_uri, 3) AS examples
    FROM {NOW} WHERE status <> 'ok' GROUP BY ALL
    ORDER BY images DESC, reason LIMIT {_REASONS}
"""
_PLACES = f"SELECT shard, row FROM {NOW} WHERE {{condition}} ORDER BY {{order}}, id LIMIT $images"
_HIGHEST_DRIFT = _PLACES.format(condition="drift IS NOT NULL", order="drift DESC")
_LOWEST_CONFIDENCE = _PLACES.format(condition="confidence IS NOT NULL", order="confidence")
_DAMAGED = _PLACES.format(condition="status = 'damaged'", order="hash(id)")  # a random choice


@dataclass(frozen=True, slots=True)
class Trust:
    """When a label is trustworthy: its image is ok, and it meets both limits.

    sure: minimum confidence. at_risk: flip probability from which a label is at risk.
    """

    sure: float
    at_risk: float


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Counts of one run's rows.

    counts: by status, quality (0: no IJG-like table) and subsampling. `flips` is the sum of the
    flip probabilities, which is the expected number of labels that compression has changed.
    labels: by class, most frequent first.
    confidences, angles: (101, bins) int64, images by JPEG quality and by bin of CONFIDENCE_WIDTH
    or ANGLE_WIDTH.
    """

    counts: list[Row]
    labels: list[Row]
    confidences: np.ndarray
    angles: np.ndarray

    def total(self, name: str) -> Any:
        """The sum of a column of `counts`; nulls count as 0."""
        return sum(row[name] or 0 for row in self.counts)

    def by(self, key: str, name: str = "images") -> Counter[Any]:
        """The sums of a column of `counts`, for each value of the column `key`."""
        found: Counter[Any] = Counter()
        for row in self.counts:
            found[row[key]] += row[name] or 0
        return found

    @property
    def has_drift(self) -> bool:
        return bool(self.angles.any())

    @property
    def has_flip(self) -> bool:
        return self.total("with_flip") > 0


@dataclass(frozen=True, kw_only=True)
class Findings(Distributions):
    """Everything that the report shows about one output's rows.

    reasons: of the rows that are not ok. The other lists are galleries; they may be empty.
    """

    reasons: list[Row]
    highest_drift: list[Row]
    lowest_confidence: list[Row]
    damaged: list[Row]


def load(connection: duckdb.DuckDBPyConnection, name: str, parts: Sequence[Path]) -> None:
    """Create a table of that name with the columns of the parts that are counted."""
    connection.execute(_LOAD.format(name=name, parts=scan_parts(parts)))


def find(
    connection: duckdb.DuckDBPyConnection, output: OutputFolder, trust: Trust, *, gallery: int
) -> Findings:
    """All findings about the table NOW, which `load` made of `output`.

    gallery: images per gallery.
    """

    def shown(query: str) -> list[Row]:
        return read_rows(output, connection.execute(query, {"images": gallery}).fetchall())

    return Findings(
        **vars(find_distributions(connection, NOW, trust)),
        reasons=fetch(connection, _REASONS_FOUND),
        highest_drift=shown(_HIGHEST_DRIFT),
        lowest_confidence=shown(_LOWEST_CONFIDENCE),
        damaged=shown(_DAMAGED),
    )


def find_distributions(
    connection: duckdb.DuckDBPyConnection, name: str, trust: Trust
) -> Distributions:
    """The distributions of the table of that name."""
    return Distributions(
        counts=fetch(connection, _COUNTS.format(name=name), **asdict(trust)),
        labels=fetch(connection, _LABELS.format(name=name), sure=trust.sure),
        confidences=_by_quality(connection, _CONFIDENCES.format(name=name)),
        angles=_by_quality(connection, _ANGLES.format(name=name)),
    )


def fetch(connection: duckdb.DuckDBPyConnection, query: str, **values: Any) -> list[Row]:
    """The rows of a query, each by column name."""
    found = connection.execute(query, values or None)
    columns = [column[0] for column in found.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]


def read_rows(output: OutputFolder, places: Iterable[tuple[int, int]]) -> list[Row]:
    """The rows to show, with their `row`. places: (shard, row within its part)."""
    rows = []
    for shard, number in places:
        part = pq.ParquetFile(part_path(output, shard)).read(list(_SHOWN))
        (row,) = part.slice(number, 1).rename_columns(list(_SHOWN.values())).to_pylist()
        if row["class"] is not None and not row["label"]:
            row["label"] = f"class {row['class']}"
        rows.append({**row, "row": number})
    return rows


def _by_quality(connection: duckdb.DuckDBPyConnection, query: str) -> np.ndarray:
    """Rows of (quality, bin, images) -> (101, bins) int64."""
    rows = np.array(connection.execute(query).fetchall(), np.int64).reshape(-1, 3)
    quality, bins, images = rows.T
    counts = np.zeros((QUALITIES, bins.max(initial=0) + 1), np.int64)
    counts[quality, bins] = images
    return counts
