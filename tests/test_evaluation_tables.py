"""The tables of an evaluation, by hand and by their invariants."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from outcomes import LOW, LOWER, OUTCOMES, counted, outcome, repeated

from jobs.evaluate import _image_rows
from jobs.evaluation.folder_classes import UNKNOWN
from jobs.evaluation.measure import Evaluation
from jobs.evaluation.shares import Share
from jobs.evaluation.tables import TableRow, make_tables, tables_markdown
from pipeline.degrade import FULL_IMAGE
from pipeline.pairs.evaluate_images import CLEAN, Condition

CHOSEN = {"trained": True, "resamples": 50, "seed": 0}


def test_tables_by_hand() -> None:
    truth = np.tile([1, 2, 3, 9], 10)
    rows = make_tables(repeated(OUTCOMES), truth, **CHOSEN)
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


def test_what_rounds_to_zero_has_no_sign_and_what_is_undefined_is_a_dash() -> None:
    half, little = Share(0.5, 0.5, 0.5), Share(-0.00004, -0.00049, 0.1)
    undefined = Share(math.nan, math.nan, math.nan)
    row = TableRow("p", "quality", "top1", "QF 7", 400, half, half, little, undefined)
    assert "| 0.0 [0.0, 10.0] | – |" in "\n".join(tables_markdown([row]))


def test_where_compression_costs_nothing_no_share_of_it_is_recovered() -> None:
    """Nor has that share an interval, though some of the bootstrap's samples have lost labels."""
    truth = np.tile([1, 2, 3, 4], 10)
    worse_when_clean = {CLEAN: outcome([1, 2, 0, 0], [1, 2, 3, 0])}
    for direct, gain in (([1, 2, 3, 0], 0.25), ([1, 0, 3, 0], 0.5)):  # helped, and as before
        outcomes = repeated(worse_when_clean | {LOW: outcome(direct, [1, 2, 3, 4])})
        rows = make_tables(outcomes, truth, **CHOSEN)
        row = next(r for r in rows if (r.metric, r.row) == ("top1", "QF 25"))
        assert row.gain.value == gain
        assert all(math.isnan(x) for x in astuple(row.recovered))


def test_an_interval_allows_for_images_that_were_not_seen() -> None:
    """A bootstrap has none of them: of one lost image that is recovered, all would ever be."""
    [row, _, clean] = make_tables(
        counted(1, recovered=1), np.full(50, UNKNOWN), trained=True, resamples=2000, seed=0
    )
    assert (row.direct.value, row.afd.value, row.gain.value) == pytest.approx((0.98, 1, 0.02))
    assert 0.85 < row.direct.low < row.afd.low < 0.97
    assert row.afd.high == 1
    assert -0.1 < row.gain.low < -0.01
    assert 0.05 < row.gain.high < 0.15
    assert astuple(clean.direct) == (1, 1, 1)  # it agrees with itself
    assert clean.gain.low < clean.gain.high == 0
    many = counted(80, recovered=40, images=400)
    [row, _, _] = make_tables(many, np.full(400, UNKNOWN), trained=True, resamples=2000, seed=0)
    # As the normal approximation has them: of 320 and 40 in 400, and of 40 in 80.
    assert astuple(row.direct) == pytest.approx((0.8, 0.758, 0.836), abs=0.006)
    assert astuple(row.gain) == pytest.approx((0.1, 0.07, 0.13), abs=0.006)
    assert astuple(row.recovered) == pytest.approx((0.5, 0.39, 0.61), abs=0.02)


def test_without_a_module_there_is_no_gain_in_any_sample() -> None:
    rows = make_tables(counted(4), np.full(50, UNKNOWN), trained=False, resamples=50, seed=0)
    for row in rows:
        assert row.direct == row.afd
        assert astuple(row.gain) == (0, 0, 0)
    assert astuple(rows[-1].afd) == (1, 1, 1)
    assert rows[0].direct.low < rows[0].direct.high


def test_a_share_of_a_few_lost_images_is_not_given() -> None:
    for lost, given in ((9, False), (10, True)):
        rows = make_tables(counted(lost, recovered=6), np.full(50, UNKNOWN), **CHOSEN)
        for row in rows[:2]:  # QF 25 and the mean
            assert row.recovered.value == pytest.approx(6 / lost, nan_ok=True) or not given
            assert math.isnan(row.recovered.value) is not given
            assert math.isnan(row.recovered.low) is not given


def test_accuracy_is_of_the_images_whose_class_is_known() -> None:
    """Which half of them suffices for; and each kind of compression has a table of its own."""
    random = Condition(FULL_IMAGE, times=1)
    clean = outcome([1, 2, 3, 4], [1, 2, 3, 0])  # agreement is with the bare backbone's
    outcomes = {CLEAN: clean, LOW: OUTCOMES[LOW], random: OUTCOMES[LOWER]}
    truth = np.array([1, 99, UNKNOWN, UNKNOWN])  # the second is `direct`'s second guess
    rows = make_tables(outcomes, truth, **CHOSEN)
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
    assert {r.metric for r in make_tables(OUTCOMES, truth, **CHOSEN)} == {"agreement"}


def test_every_image_has_a_row_for_each_condition() -> None:
    """From which the tables can be made again."""
    truth = np.array([1, 2, 3, 9])
    model = {"has_trained_module": True}
    found = Evaluation(list("abcd"), truth, OUTCOMES, [], model, seed=0, angles=None)
    images = _image_rows(found)
    assert [row["name"] for row in images] == list("abcd") * 3
    for row in make_tables(OUTCOMES, truth, **CHOSEN):
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
