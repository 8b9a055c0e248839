"""Two runs against each other, held against their rows side by side."""

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from outputs import Made, rewrite, write_output
from outputs import uri as made_uri
from scipy.stats import ks_2samp

from jobs.labels_view import connect, list_parts
from jobs.reporting.compare import BEFORE, Comparison, compare
from jobs.reporting.queries import (
    ANGLE_WIDTH,
    CONFIDENCE_WIDTH,
    NOW,
    Trust,
    find_distributions,
    load,
)
from jobs.reporting.statistics import population_stability_index
from pipeline.output import OutputFolder


def compared(now: OutputFolder, before: OutputFolder, *, examples: int = 6) -> Comparison:
    trust = Trust(sure=0.5, at_risk=0.2)
    with connect() as connection:
        load(connection, NOW, list_parts(now))
        load(connection, BEFORE, list_parts(before))
        found = find_distributions(connection, NOW, trust)
        return compare(connection, (before, now), found, trust, examples=examples)


def rows_of(output: OutputFolder) -> dict[str, dict[str, Any]]:
    return {row["uri"]: row for row in pq.read_table(output.labels).to_pylist()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[OutputFolder, OutputFolder]:
    """(now, before): 1000 images in both, other labels, other errors, 200 new, 100 gone."""
    folder = tmp_path_factory.mktemp("runs")
    before = write_output(folder / "before", Made(images=1100, images_per_shard=600, seed=1))
    now = write_output(folder / "now", Made(images=1200, images_per_shard=500, seed=2))

    def rename(row: dict[str, Any]) -> None:
        row["uri"] = row["uri"].replace("image", "new")

    rewrite(now, 2, rename)
    return now, before


@pytest.fixture(scope="module")
def found(pair: tuple[OutputFolder, OutputFolder]) -> Comparison:
    return compared(*pair)


@pytest.fixture(scope="module")
def both(pair: tuple[OutputFolder, OutputFolder]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    now, before = rows_of(pair[0]), rows_of(pair[1])
    return [(before[uri], now[uri]) for uri in sorted(now.keys() & before.keys())]


def test_what_became_of_the_images(found: Comparison, both: Any) -> None:
    assert (found.in_both, found.added, found.gone) == (1000, 200, 100)
    expected = Counter((b["status"], n["status"]) for b, n in both)
    for (before, now), images in expected.items():
        assert found.transitioned(before, now) == images
    assert sum(row["images"] for row in found.transitions) == 1300


def test_changed_labels(found: Comparison, both: Any) -> None:
    labelled = [(b, n) for b, n in both if b["label"] is not None and n["label"] is not None]
    changed = [(b, n) for b, n in labelled if b["label"] != n["label"]]
    assert (found.compared, found.changed) == (len(labelled), len(changed))
    of_75 = [row for row in found.by_quality if row["quality"] == 75]
    assert of_75[0]["changed"] == sum(n["jpeg_quality"] == 75 for _, n in changed)
    frequent = Counter((b["label_name"], n["label_name"]) for b, n in changed)
    first = found.changes[0]
    assert frequent[(first["before_name"], first["name"])] == max(frequent.values())
    assert first["images"] == max(frequent.values())


def test_examples_are_the_changes_that_both_were_sure_of(found: Comparison, both: Any) -> None:
    changed = [
        (min(b["confidence"], n["confidence"]), b, n)
        for b, n in both
        if b["label"] is not None and n["label"] is not None and b["label"] != n["label"]
    ]
    changed.sort(key=lambda item: -item[0])
    assert [row["uri"] for row in found.examples] == [n["uri"] for _, _, n in changed[:6]]
    _, before, now = changed[0]
    first = found.examples[0]
    assert (first["before_label"], first["label"]) == (before["label_name"], now["label_name"])
    assert first["before_confidence"] == before["confidence"]
    assert first["num_bytes"] == now["num_bytes"]


def test_new_errors(found: Comparison, both: Any) -> None:
    expected = [n for b, n in both if b["status"] == "ok" and n["status"] != "ok"]
    assert found.newly_failed == len(expected)
    assert {row["uri"] for row in found.new_errors} <= {row["uri"] for row in expected}
    assert len(found.new_errors) == min(len(expected), 40)


def test_distances_are_of_all_images_of_both_runs(
    found: Comparison, pair: tuple[OutputFolder, OutputFolder]
) -> None:
    now, before = (rows_of(output).values() for output in pair)
    columns = {"drift": ("drift_angle_deg", ANGLE_WIDTH)}
    columns["confidence"] = ("confidence", CONFIDENCE_WIDTH)
    for name, (column, width) in columns.items():
        values = [
            np.array([row[column] for row in rows if row[column] is not None])
            for rows in (before, now)
        ]
        bins = [(run / width).astype(int) for run in values]
        counts = [np.bincount(run, minlength=max(map(np.max, bins)) + 1) for run in bins]
        psi = population_stability_index(counts[0], counts[1])
        assert found.shifts[0][f"{name}_psi"] == pytest.approx(psi, abs=1e-3)
        ks = ks_2samp(*bins).statistic
        assert found.shifts[0][f"{name}_ks"] == pytest.approx(ks)
    assert (found.shifts[0]["before"], found.shifts[0]["images"]) == tuple(map(len, values))


def test_the_same_run_has_not_changed(pair: tuple[OutputFolder, OutputFolder]) -> None:
    same = compared(pair[0], pair[0])
    assert (same.changed, same.newly_failed, same.added, same.gone) == (0, 0, 0, 0)
    assert same.examples == []
    assert {row[name] for row in same.shifts for name in ("drift_psi", "drift_ks")} == {0.0}


def test_heavier_compression_shows_as_a_shift(tmp_path: Path) -> None:
    before = write_output(tmp_path / "before", Made(images=4000, seed=1))
    now = write_output(tmp_path / "now", Made(images=4000, seed=2, quality_shift=-30))
    shifts = {row["band"]: row for row in compared(now, before).shifts}
    assert shifts[None]["drift_psi"] > 0.25
    assert shifts[None]["drift_ks"] > 0.3
    # At the same quality nothing has changed, and so says the band that both have images of.
    assert shifts[8]["images"] > 50
    assert shifts[8]["drift_ks"] < 0.25
    assert any(not row["images"] for row in shifts.values())  # of the earlier run alone


def write_copies(
    folder: Path, made: Made, *, uris: int, labels: Mapping[int, int] = MappingProxyType({})
) -> OutputFolder:
    """Rows that share so many URIs, as when an archive has members of the same name.

    labels: row -> its label; the other rows have their own number, so that none is like another.
    """
    output = write_output(folder, made)
    rows = itertools.count()

    def share(row: dict[str, Any]) -> None:
        number = next(rows)
        row["uri"] = made_uri(number % uris)
        if row["label"] is not None:
            row["label"] = labels.get(number, number)

    for shard in range(len(list_parts(output))):
        rewrite(output, shard, share)
    return output


def test_copies_of_a_uri_have_not_changed_in_the_same_run(tmp_path: Path) -> None:
    made = Made(images=4000, images_per_shard=500, bad_share=0.1)
    output = write_copies(tmp_path, made, uris=3700)
    same = compared(output, output)
    assert (same.in_both, same.added, same.gone) == (4000, 0, 0)
    assert (same.changed, same.newly_failed, same.examples) == (0, 0, [])


def test_copies_of_a_uri_are_paired_in_the_plans_order(tmp_path: Path) -> None:
    """Whatever the shards: a second copy has another label, and the fourth ones are new."""
    before = write_copies(
        tmp_path / "before", Made(images=30, images_per_shard=10, bad_share=0), uris=10
    )
    now = write_copies(
        tmp_path / "now",
        Made(images=40, images_per_shard=15, bad_share=0),
        uris=10,
        labels={17: 99},
    )
    found = compared(now, before)
    assert (found.in_both, found.added, found.gone) == (30, 10, 0)
    assert [(row["before_label"], row["label"]) for row in found.changes] == [(17, 99)]
    assert [row["uri"] for row in found.examples] == [made_uri(7)]


def test_each_runs_labels_have_its_own_names(tmp_path: Path) -> None:
    def labelled(run: str, labels: tuple[int, int]) -> OutputFolder:
        output = write_output(tmp_path / run, Made(images=2, bad_share=0))
        left = iter(labels)

        def label(row: dict[str, Any]) -> None:
            row["label"] = next(left)
            row["label_name"] = f"{run}{row['label']}" if row["label"] < 9 else None

        rewrite(output, 0, label)
        return output

    found = compared(labelled("B", (8, 7)), labelled("A", (7, 9)))
    names = [(row["before_name"], row["name"]) for row in found.changes]
    assert names == [("A7", "B8"), ("class 9", "B7")]


def test_strangers(tmp_path: Path) -> None:
    before = write_output(tmp_path / "before", Made(images=40, has_drift=False))
    now = write_output(tmp_path / "now", Made(images=40))

    def rename(row: dict[str, Any]) -> None:
        row["uri"] += "?"

    rewrite(now, 0, rename)
    found = compared(now, before)
    assert (found.in_both, found.compared, found.added, found.gone) == (0, 0, 40, 40)
    assert found.shifts[0]["drift_psi"] is None
    assert found.shifts[0]["confidence_psi"] is not None
