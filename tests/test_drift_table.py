"""What the drift scores are worth, on outcomes that can be counted."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from outcomes import LOW, LOWER, OUTCOMES, counted, outcome, repeated

from jobs.evaluation.drift_table import DriftRow, drift_markdown, make_drift_table
from jobs.evaluation.shares import Share
from pipeline.degrade import FULL_IMAGE
from pipeline.pairs.evaluate_images import CLEAN, Condition

DRAWN = {"resamples": 50, "seed": 0}


def test_what_rounds_to_zero_has_no_sign() -> None:
    none, little = Share(0.5, 0.5, 0.5), Share(-0.00004, -0.00049, 0.1)
    drift = DriftRow("p", "QF 7", 400, 9, little, none, none, none, none)
    assert "| 0.000 [0.000, 0.100] |" in "\n".join(drift_markdown([drift]))


@pytest.mark.parametrize("lost", [9, 10, 40, 41])
def test_a_rank_of_a_few_flips_is_not_given(lost: int) -> None:
    """Nor of all but a few; an image that flips at two qualities is one."""
    outcomes = counted(lost)
    outcomes[LOWER] = outcomes[LOW]
    rows = make_drift_table(outcomes, {LOW: 25, LOWER: 7}, **DRAWN)
    given = lost in (10, 40)
    for row, flips in zip(rows, (lost, lost, 2 * lost), strict=True):
        assert row.flips == flips
        for name in ("flip_probability", "max_softmax", "header_quality", "flip_gain"):
            assert math.isnan(getattr(row, name).value) is not given
            assert math.isnan(getattr(row, name).low) is not given
        assert row.spearman.value == pytest.approx(1)


def test_a_score_that_an_image_lacks_has_no_rank() -> None:
    outcomes = counted(20)
    scores = outcomes[LOW].flip_probability.copy()
    scores[7] = math.nan
    outcomes[LOW] = replace(outcomes[LOW], flip_probability=scores)
    row = make_drift_table(outcomes, {LOW: 25}, **DRAWN)[0]
    assert math.isnan(row.flip_probability.value)
    assert math.isnan(row.flip_gain.value)
    assert not math.isnan(row.max_softmax.value)


def test_drift_is_scored_within_a_quality_and_over_all() -> None:
    drift = make_drift_table(repeated(OUTCOMES), {LOW: 25, LOWER: 7}, **DRAWN)
    rows = {r.row: r for r in drift}
    assert set(rows) == {"QF 25", "QF 7", "all"}
    assert rows["QF 7"].spearman.value == pytest.approx(1)
    assert (rows["QF 7"].flips, rows["all"].flips, rows["all"].images) == (20, 20, 80)
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
    rows = {r.row: r for r in make_drift_table(outcomes, {LOW: 7, LOWER: 7}, **DRAWN)}
    for name in ("spearman", "flip_probability", "flip_gain"):
        one, both = getattr(rows["QF 25"], name), getattr(rows["all"], name)
        assert astuple(both) == pytest.approx(astuple(one))


def test_an_interval_hardly_depends_on_the_draw() -> None:
    rng = np.random.default_rng(0)
    angles = rng.random((2, 200)) + np.arange(200) / 100
    spread = {"drift_angle_deg": angles[0], "true_angle_deg": angles[1]}
    outcomes = {CLEAN: outcome([1] * 200, [1] * 200), LOW: outcome([1] * 200, [1] * 200, **spread)}
    found = [
        make_drift_table(outcomes, {LOW: 25}, resamples=1000, seed=seed)[0].spearman
        for seed in (0, 1)
    ]
    assert found[0].low != found[1].low
    assert astuple(found[0]) == pytest.approx(astuple(found[1]), abs=0.02)


def test_random_compressions_alone_have_no_drift_table() -> None:
    random = Condition(FULL_IMAGE, times=2)
    outcomes = {CLEAN: OUTCOMES[CLEAN], random: OUTCOMES[LOW]}
    assert make_drift_table(outcomes, {}, **DRAWN) == []
