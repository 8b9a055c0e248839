"""Rank statistics, the bootstrap and binned medians, against their definitions."""

import math

import numpy as np
import pytest

from afd_model.evaluation.statistics import (
    auroc,
    binned_medians,
    interval,
    places,
    ranks,
    resampled,
    resampled_means,
    spearman,
)


def test_rank_statistics_are_their_definitions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 60), rng.normal(size=60)
    below, equal = (a[None] < a[:, None]).sum(1), (a[None] == a[:, None]).sum(1)
    np.testing.assert_array_equal(ranks(a), below + (equal + 1) / 2)
    np.testing.assert_array_equal(ranks(-b), 61 - ranks(b))
    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1])
    assert spearman(b, np.exp(b)) == pytest.approx(1)
    positive = rng.random(60) < 0.3
    pairs = a[positive][:, None] - a[~positive][None]
    assert auroc(a, positive) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    at = rng.integers(0, 60, 60)
    np.testing.assert_array_equal(ranks(places(b)[at]), ranks(b[at]))
    np.testing.assert_array_equal(ranks(places(-a)[at]), ranks(-a[at].astype(float)))
    assert math.isnan(spearman(np.ones(5), np.arange(5)))
    assert math.isnan(auroc(b, np.zeros(60, bool)))


def test_the_bootstrap_has_the_standard_error_and_keeps_pairs_together() -> None:
    rng = np.random.default_rng(1)
    a = (rng.random(400) < 0.7).astype(float)
    samples = resampled_means(np.stack([a, a, 1 - a]), resamples=2050, seed=0)
    assert samples.shape == (2050, 3)
    assert samples.std(0)[0] == pytest.approx(a.std() / 20, rel=0.08)
    np.testing.assert_allclose(samples[:, 0], samples[:, 1])
    np.testing.assert_allclose(samples[:, 0] + samples[:, 2], 1)
    low, high = interval(samples[:, 0])
    assert low < a.mean() < high
    assert high - low == pytest.approx(4 * a.std() / 20, rel=0.1)


def test_an_interval_is_of_the_samples_that_have_a_value() -> None:
    assert interval(np.array([1, math.nan, 3])) == pytest.approx((1.05, 2.95))
    assert all(math.isnan(bound) for bound in interval(np.full(3, math.nan)))


def test_a_statistics_bootstrap_draws_every_image_with_replacement() -> None:
    values = np.random.default_rng(2).normal(size=100)
    means = resampled(lambda at: values[at].mean(), 100, resamples=2000, seed=0)
    assert means.shape == (2000,)
    assert means.std() == pytest.approx(values.std() / 10, rel=0.08)
    counts = resampled(lambda at: np.bincount(at, minlength=3), 3, resamples=300, seed=0)
    assert counts.mean(0) == pytest.approx([1, 1, 1], abs=0.15)


def test_bins_hold_equally_many_points_in_order() -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=1000)
    found = binned_medians(x, 3 * x + 1, bins=10)
    assert found.points.tolist() == [100] * 10
    np.testing.assert_allclose(found.median, 3 * found.x + 1)
    order = np.argsort(x)
    np.testing.assert_allclose(found.x[0], np.median(x[order[:100]]))
    np.testing.assert_allclose(found.high[-1], np.percentile(3 * x[order[-100:]] + 1, 75))
    assert (np.diff(found.x) > 0).all()
    assert (found.low <= found.median).all()
    assert (found.median <= found.high).all()


def test_there_are_no_more_bins_than_points() -> None:
    found = binned_medians(np.array([2.0, 1.0]), np.array([5.0, 4.0]), bins=10)
    assert found.x.tolist() == [1, 2]
    assert found.median.tolist() == [4, 5]
