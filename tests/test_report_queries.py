"""What DuckDB counts, held against the rows counted one by one."""

import math
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from outputs import Made, rewrite, write_output

from jobs.labels_view import connect, list_parts
from jobs.reporting.queries import (
    ANGLE_WIDTH,
    CONFIDENCE_WIDTH,
    NOW,
    Findings,
    Trust,
    find,
    load,
)
from jobs.reporting.statistics import quantiles
from pipeline.output import OutputFolder

TRUST = Trust(sure=0.6, at_risk=0.3)


def found_in(output: OutputFolder, *, gallery: int = 5) -> Findings:
    with connect() as connection:
        load(connection, NOW, list_parts(output))
        return find(connection, output, TRUST, gallery=gallery)


def rows_of(output: OutputFolder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(output.labels).to_pylist()
    return rows


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    made = Made(images=3000, images_per_shard=700, bad_share=0.1)
    return write_output(tmp_path_factory.mktemp("out"), made)


@pytest.fixture(scope="module")
def found(output: OutputFolder) -> Findings:
    return found_in(output)


@pytest.fixture(scope="module")
def rows(output: OutputFolder) -> list[dict[str, Any]]:
    return rows_of(output)


def test_counts_by_anything(found: Findings, rows: list[dict[str, Any]]) -> None:
    assert found.total("images") == len(rows)
    assert found.by("status") == Counter(row["status"] for row in rows)
    assert found.by("quality") == Counter(row["jpeg_quality"] or 0 for row in rows)
    assert found.by("subsampling") == Counter(row["jpeg_subsampling"] for row in rows)
    assert found.total("labelled") == sum(row["label"] is not None for row in rows)
    assert found.total("num_bytes") == sum(row["num_bytes"] or 0 for row in rows)


def test_trust_and_risk(found: Findings, rows: list[dict[str, Any]]) -> None:
    flips = [row["flip_probability"] for row in rows if row["flip_probability"] is not None]
    assert found.total("at_risk") == sum(flip >= TRUST.at_risk for flip in flips)
    assert found.total("flips") == pytest.approx(sum(flips))
    assert found.total("trusted") == sum(
        row["status"] == "ok"
        and row["confidence"] >= TRUST.sure
        and row["flip_probability"] < TRUST.at_risk
        for row in rows
    )


def test_labels(found: Findings, rows: list[dict[str, Any]]) -> None:
    images = Counter(row["label"] for row in rows if row["label"] is not None)
    assert {row["label"]: row["images"] for row in found.labels} == images
    assert [row["images"] for row in found.labels] == sorted(images.values(), reverse=True)
    first = found.labels[0]
    of_it = [row for row in rows if row["label"] == first["label"]]
    assert first["name"] == of_it[0]["label_name"]
    assert first["confidence"] == pytest.approx(fmean(row["confidence"] for row in of_it))
    unsure = sum(row["confidence"] < TRUST.sure for row in of_it)
    assert first["unsure"] == pytest.approx(unsure / len(of_it))
    assert first["drift"] == pytest.approx(fmean(row["drift_angle_deg"] for row in of_it))


@pytest.mark.parametrize(
    ("name", "column", "width"),
    [
        ("confidences", "confidence", CONFIDENCE_WIDTH),
        ("angles", "drift_angle_deg", ANGLE_WIDTH),
    ],
)
def test_distributions_by_quality(
    found: Findings, rows: list[dict[str, Any]], name: str, column: str, width: float
) -> None:
    counts = getattr(found, name)
    known = [row for row in rows if row[column] is not None]
    for quality in (0, 75, 90):
        expected = sum((row["jpeg_quality"] or 0) == quality for row in known)
        assert counts[quality].sum() == expected
    values = np.array([row[column] for row in known])
    assert counts.sum() == len(values)
    middle = quantiles(counts.sum(0), width, [0.25, 0.5])
    assert middle == pytest.approx(np.quantile(values, [0.25, 0.5]), abs=2 * width)


def test_reasons(found: Findings, rows: list[dict[str, Any]]) -> None:
    by_status = {row["status"]: row for row in found.reasons}
    assert by_status["damaged"]["reason"] == (
        "truncated: no end-of-image marker after … bytes of scan data"
    )
    for status, reason in by_status.items():
        bad = [row for row in rows if row["status"] == status]
        assert reason["images"] == len(bad)
        assert reason["examples"] == sorted(row["uri"] for row in bad)[:3]
        assert reason["first_error"] == min(row["error"] for row in bad)


def test_names_and_numbers_do_not_make_reasons(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=4, bad_share=0))
    errors = iter(["no 'a 1.jpg' at 0xFF, 5", "no 'b.jpg' at 0x01, 66", "", None])

    def fail(row: dict[str, Any]) -> None:
        row["status"], row["error"] = "rejected", next(errors)

    rewrite(output, 0, fail)
    reasons = {row["reason"]: row["images"] for row in found_in(output).reasons}
    assert reasons == {"no '…' at …, …": 2, "": 1, None: 1}


def test_galleries(found: Findings, rows: list[dict[str, Any]]) -> None:
    drifted = sorted((r for r in rows if r["drift_angle_deg"]), key=lambda r: -r["drift_angle_deg"])
    assert [r["uri"] for r in found.highest_drift] == [r["uri"] for r in drifted[:5]]
    unsure = sorted((r for r in rows if r["confidence"]), key=lambda r: r["confidence"])
    assert [r["uri"] for r in found.lowest_confidence] == [r["uri"] for r in unsure[:5]]
    assert {r["status"] for r in found.damaged} == {"damaged"}
    assert len(found.damaged) == 5
    for row in found.highest_drift:  # where they stand in their parts
        assert rows[700 * row["shard"] + row["row"]]["uri"] == row["uri"]


@pytest.mark.parametrize("name", [None, ""])
def test_a_label_without_a_name_is_shown_by_its_number(tmp_path: Path, name: str | None) -> None:
    output = write_output(tmp_path, Made(images=20, bad_share=0))
    rewrite(output, 0, lambda row: row.update(label=7, label_name=name))
    assert {row["label"] for row in found_in(output).lowest_confidence} == {"class 7"}


def test_what_was_not_measured_is_not_counted(tmp_path: Path) -> None:
    found = found_in(write_output(tmp_path, Made(images=200, has_drift=False)))
    assert not found.has_drift
    assert not found.has_flip
    assert found.highest_drift == []
    assert found.total("trusted") > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e6, 1e30])
def test_a_model_that_overflowed(value: float, tmp_path: Path) -> None:
    """Or rows of a stranger: a bin for each angle up to 1e6 degrees would take 75 GiB."""
    output = write_output(tmp_path, Made(images=300, bad_share=0))
    columns = ("confidence", "drift_angle_deg", "flip_probability")
    impossible = {"num_bytes": 2**62, "jpeg_quality": 127} if value == 1e30 else {}
    rewrite(output, 0, lambda row: row.update(dict.fromkeys(columns, value) | impossible))
    found = found_in(output)
    assert found.total("labelled") == 300
    assert found.total("trusted") == 0
    assert found.confidences.sum() == 0
    assert not found.has_drift
    assert found.lowest_confidence == []


def test_where_nothing_was_labelled(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=20, bad_share=0))

    def reject(row: dict[str, Any]) -> None:
        row.update(dict.fromkeys(row.keys() - {"uri", "shard"}))
        row["status"], row["error"] = "unreadable", "gone"

    rewrite(output, 0, reject)
    found = found_in(output)
    assert found.by("status") == {"unreadable": 20}
    assert found.labels == []
    assert found.total("num_bytes") == 0
