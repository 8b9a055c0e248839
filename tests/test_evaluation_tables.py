"""The tables of an evaluation, by hand and by their invariants."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from afd_model.evaluation.evaluator import Outcome
from jobs.evaluate import _image_rows
from jobs.evaluation.folder_classes import UNKNOWN
from jobs.evaluation.measure import Evaluation
from jobs.evaluation.tables import (
    DriftRow,
    Share,
    TableRow,
    drift_markdown,
    make_drift_table,
    make_tables,
    tables_markdown,
)
from pipeline.degrade import FULL_IMAGE
from pipeline.pairs.evaluate_images import CLEAN, Condition


def outcome(direct: list[int], afd: list[int], **changes: np.ndarray) -> Outcome:
    count = len(direct)
    values = {
        "direct_top": np.array([[label, 99] for label in direct]),
        "afd_top": np.array([[label, 98] for label in afd]),
        "direct_confidence": np.full(count, 0.5, np.float32),
        "afd_confidence": np.linspace(0.1, 0.9, count),
        "drift_angle_deg": np.arange(count, dtype=np.float32),
        "true_angle_deg": np.arange(count, dtype=np.float32) ** 2,
        "flip_probability": np.linspace(1, 0, count),
    }
    return Outcome(**{**values, **changes})


LOW, LOWER = Condition(FULL_IMAGE, quality=25), Condition(FULL_IMAGE, quality=7)
OUTCOMES = {
    CLEAN: outcome([1, 2, 3, 4], [1, 2, 3, 4]),
    LOW: outcome([1, 2, 3, 0], [1, 2, 3, 4]),
    LOWER: outcome([1, 0, 0, 0], [1, 2, 0, 0]),
}


def test_tables_by_hand() -> None:
    truth = np.array([1, 2, 3, 9])
    rows = make_tables(OUTCOMES, truth, resamples=50, seed=0)
    found = {
        (r.metric, r.row): tuple(round(s.value, 4) for s in (r.direct, r.afd, r.gain, r.recovered))
        for r in rows
    }
    assert found["agreement", "QF 25"] == (0.75, 1.0, 0.25, 1.0)
    assert found["agreement", "QF 7"] == (0.25, 0.5, 0.25, 0.3333)
    assert found["agreement", "mean"] == (0.5, 0.75, 0.25, 0.5)
    assert found["top1", "QF 7"] == (0.25, 0.5, 0.25, 0.5)
    assert found["top1", "clean"][:3] == (0.75, 0.75, 0.0)
    assert math.isnan(found["top1", "clean"][3])
    for row in rows:
        for share in (row.direct, row.afd, row.gain):
            assert share.low <= share.value <= share.high
    assert rows[0].flat()["direct_low"] == rows[0].direct.low


def test_what_rounds_to_zero_has_no_sign() -> None:
    none, little = Share(0.5, 0.5, 0.5), Share(-0.00004, -0.00049, 0.1)
    row = TableRow("p", "quality", "top1", "QF 7", 400, none, none, little, none)
    assert "| 0.0 [0.0, 10.0] |" in "\n".join(tables_markdown([row]))
    drift = DriftRow("p", "QF 7", 400, 9, little, none, none, none, none)
    assert "| 0.000 [0.000, 0.100] |" in "\n".join(drift_markdown([drift]))


def test_where_compression_costs_nothing_no_share_of_it_is_recovered() -> None:
    """Nor has that share an interval, though some of the bootstrap's samples have lost labels."""
    truth = np.array([1, 2, 3, 4])
    worse_when_clean = {CLEAN: outcome([1, 2, 0, 0], [1, 2, 3, 0])}
    for direct, gain in (([1, 2, 3, 0], 0.25), ([1, 0, 3, 0], 0.5)):  # helped, and as before
        outcomes = worse_when_clean | {LOW: outcome(direct, [1, 2, 3, 4])}
        rows = make_tables(outcomes, truth, resamples=50, seed=0)
        row = next(r for r in rows if (r.metric, r.row) == ("top1", "QF 25"))
        assert row.gain.value == gain
        assert all(math.isnan(x) for x in astuple(row.recovered))
    assert math.isnan(make_drift_table(OUTCOMES, {LOW: 25, LOWER: 7}, seed=0)[0].flip_gain.low)


def test_accuracy_is_of_the_images_whose_class_is_known() -> None:
    """Which half of them suffices for; and each kind of compression has a table of its own."""
    random = Condition(FULL_IMAGE, times=1)
    clean = outcome([1, 2, 3, 4], [1, 2, 3, 0])  # agreement is with the bare backbone's
    outcomes = {CLEAN: clean, LOW: OUTCOMES[LOW], random: OUTCOMES[LOWER]}
    truth = np.array([1, 99, UNKNOWN, UNKNOWN])  # the second is `direct`'s second guess
    rows = make_tables(outcomes, truth, resamples=5, seed=0)
    found = {(r.metric, r.row): (r.direct.value, r.afd.value, r.images) for r in rows}
    assert found["top1", "QF 25"] == (0.5, 0.5, 2)
    assert found["top5", "QF 25"] == (1.0, 0.5, 2)
    assert found["agreement", "QF 25"] == (0.75, 1.0, 4)
    assert found["agreement", "clean"] == (1.0, 0.75, 4)
    names = [(r.table, r.row) for r in rows if r.metric == "agreement"]
    quality = [("quality", "QF 25"), ("quality", "mean"), ("quality", "clean")]
    assert names == [*quality, ("times", "1 random"), ("times", "mean"), ("times", "clean")]


def test_without_known_classes_there_is_agreement_alone() -> None:
    truth = np.array([1, UNKNOWN, UNKNOWN, UNKNOWN])
    assert {r.metric for r in make_tables(OUTCOMES, truth, resamples=5, seed=0)} == {"agreement"}


def test_drift_is_scored_within_a_quality_and_over_all() -> None:
    rows = {r.row: r for r in make_drift_table(OUTCOMES, {LOW: 25, LOWER: 7}, seed=0)}
    assert set(rows) == {"QF 25", "QF 7", "all"}
    assert rows["QF 7"].spearman.value == pytest.approx(1)
    assert (rows["QF 7"].flips, rows["all"].flips, rows["all"].images) == (2, 2, 8)
    assert math.isnan(rows["QF 25"].flip_probability.value)  # nothing flipped
    # The flips are the last two: the least flip probability, the greatest confidence.
    assert rows["QF 7"].flip_probability.value == 0
    assert rows["QF 7"].max_softmax.value == 0
    assert rows["QF 7"].header_quality.value == 0.5
    assert rows["QF 7"].flip_gain.value == -0.5
    assert rows["all"].header_quality.value > 0.6
    assert not math.isnan(rows["all"].flip_probability.low)  # the flips are of the second quality


def test_intervals_over_all_qualities_are_of_images() -> None:
    """The same outcome twice says no more than once: its interval is no narrower."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 3, 60).tolist()
    changes = {
        name: rng.random(60).astype(np.float32)
        for name in ("drift_angle_deg", "true_angle_deg", "afd_confidence", "flip_probability")
    }
    compressed = outcome(clean, rng.integers(0, 3, 60).tolist(), **changes)
    outcomes = {CLEAN: outcome(clean, clean), LOW: compressed, LOWER: compressed}
    rows = {r.row: r for r in make_drift_table(outcomes, {LOW: 7, LOWER: 7}, seed=0)}
    for name in ("spearman", "flip_probability", "flip_gain"):
        one, both = getattr(rows["QF 25"], name), getattr(rows["all"], name)
        assert astuple(both) == pytest.approx(astuple(one))


def test_an_interval_hardly_depends_on_the_draw() -> None:
    rng = np.random.default_rng(0)
    angles = rng.random((2, 200)) + np.arange(200) / 100
    spread = {"drift_angle_deg": angles[0], "true_angle_deg": angles[1]}
    outcomes = {CLEAN: outcome([1] * 200, [1] * 200), LOW: outcome([1] * 200, [1] * 200, **spread)}
    found = [make_drift_table(outcomes, {LOW: 25}, seed=seed)[0].spearman for seed in (0, 1)]
    assert found[0].low != found[1].low
    assert astuple(found[0]) == pytest.approx(astuple(found[1]), abs=0.02)


def test_every_image_has_a_row_for_each_condition() -> None:
    """From which the tables can be made again."""
    truth = np.array([1, 2, 3, 9])
    model = {"has_trained_module": True}
    found = Evaluation(list("abcd"), truth, OUTCOMES, [], model, seed=0, angles=None)
    images = _image_rows(found)
    assert [row["name"] for row in images] == list("abcd") * 3
    for row in make_tables(OUTCOMES, truth, resamples=2, seed=0):
        ours = [image for image in images if image["condition"] == row.row]
        if ours and row.metric == "top1":
            for share, way in ((row.direct, "direct_labels"), (row.afd, "afd_labels")):
                hits = [image[way][0] == image["truth"] for image in ours]
                assert share.value == np.mean(hits)
    numbers = ("direct_confidence", "afd_confidence", "drift_angle_deg", "true_angle_deg")
    assert [images[7][name] for name in numbers] == [0.5, 0.9, 3.0, 9.0]
    assert [image["flip_probability"] for image in images[4:8]] == pytest.approx(
        [1, 2 / 3, 1 / 3, 0]
    )
    assert [image["qualities"] for image in images[3:9:4]] == [[], [25]]


def test_random_compressions_alone_have_no_drift_table() -> None:
    random = Condition(FULL_IMAGE, times=2)
    outcomes = {CLEAN: OUTCOMES[CLEAN], random: OUTCOMES[LOW]}
    assert make_drift_table(outcomes, {}, seed=0) == []
