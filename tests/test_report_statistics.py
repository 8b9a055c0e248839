"""Distributions as counts, held against numpy and scipy on the values themselves."""

import numpy as np
import pytest
from scipy import stats

from jobs.reporting.statistics import (
    BANDS,
    QUALITIES,
    band_name,
    by_band,
    coarser,
    kolmogorov_smirnov,
    nice_factor,
    population_stability_index,
    psi_by_chance,
    quantiles,
    same_length,
)

WIDTH = 0.01


def counted(values: np.ndarray, bins: int = 5000) -> np.ndarray:
    return np.bincount((values / WIDTH).astype(int), minlength=bins)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).gamma(3, 2, 5000)


def test_quantiles_are_numpys_to_a_bin(values: np.ndarray) -> None:
    shares = [0.0, 0.05, 0.25, 0.5, 0.75, 0.995]
    found = quantiles(counted(values), WIDTH, shares)
    # Where the values are sparse, the next one may be further away than a bin is wide.
    assert found == pytest.approx(np.quantile(values, shares), abs=0.15)
    assert found == sorted(found)
    (last,) = quantiles(counted(values), WIDTH, [1.0]) or []
    assert values.max() <= last < values.max() + WIDTH


def test_quantiles_of_little() -> None:
    assert quantiles(np.zeros(5, int), WIDTH, [0.5]) is None
    assert quantiles(np.array([0, 0, 4, 0]), 1.0, [0.0, 0.5, 1.0]) == [2.0, 2.5, 3.0]
    assert quantiles(np.array([1, 0, 0, 1]), 1.0, [0.25, 0.5, 0.75]) == [0.5, 2.0, 3.5]


@pytest.mark.parametrize("many", range(1, 17))
def test_the_median_of_an_even_number_is_between_the_middle_two(many: int) -> None:
    values = np.random.default_rng(many).gamma(3, 2, many)
    shares = [0.25, 0.5, 0.75]
    expected = np.quantile(values, shares, method="averaged_inverted_cdf")
    assert quantiles(counted(values), WIDTH, shares) == pytest.approx(expected, abs=WIDTH)


def test_bands_hold_five_qualities_each() -> None:
    counts = np.zeros((QUALITIES, 2), int)
    counts[:, 0] = np.arange(QUALITIES)
    counts[0, 1] = 7  # unknown
    bands = by_band(counts)
    assert bands.shape == (BANDS, 2)
    assert bands[0].tolist() == [1 + 2 + 3 + 4 + 5, 0]
    assert bands[-1, 0] == 96 + 97 + 98 + 99 + 100
    assert (band_name(0), band_name(BANDS - 1)) == ("1–5", "96–100")


def test_coarser_bins_lose_nothing(values: np.ndarray) -> None:
    counts = np.stack([counted(values), counted(values / 2)])
    for factor, bins in ((1, 10), (7, 40), (100, 40), (5000, 3)):
        found = coarser(counts, factor, bins)
        assert found.shape == (2, bins)
        assert found.sum(1).tolist() == counts.sum(1).tolist()
        assert found[0, 0] == counts[0, :factor].sum()


def test_nice_factors() -> None:
    assert [nice_factor(top, 40) for top in (0, 39, 40, 79, 80, 200, 399, 400, 18000)] == [
        1, 1, 2, 2, 5, 10, 10, 20, 500,
    ]  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 0.3, 4.0])
def test_kolmogorov_smirnov_is_scipys(values: np.ndarray, shift: float) -> None:
    other = np.random.default_rng(1).gamma(3, 2, 3000) + shift
    found = kolmogorov_smirnov(counted(values), counted(other))
    assert found == pytest.approx(stats.ks_2samp(values, other).statistic, abs=5e-3)


def test_psi_is_its_formula_on_the_deciles(values: np.ndarray) -> None:
    other = np.random.default_rng(1).gamma(3, 2, 50_000) * 1.3
    edges = np.quantile(values, np.linspace(0, 1, 11)[1:-1])
    p = np.bincount(np.digitize(values, edges), minlength=10) / len(values)
    q = np.bincount(np.digitize(other, edges), minlength=10) / len(other)
    expected = ((q - p) * np.log(q / p)).sum()
    found = population_stability_index(counted(values), counted(other))
    assert found == pytest.approx(expected, rel=0.03)
    assert found > 0.1


def test_distances_of_the_same_are_none_and_of_strangers_are_large(values: np.ndarray) -> None:
    counts = counted(values, 10_000)
    assert population_stability_index(counts, counts) == 0
    assert kolmogorov_smirnov(counts, counts) == 0
    far = counted(values + 60, 10_000)
    assert kolmogorov_smirnov(counts, far) == 1
    assert (population_stability_index(counts, far) or 0) > 5
    for before, now in ((counts * 0, counts), (counts, counts * 0)):
        assert population_stability_index(before, now) is None
        assert kolmogorov_smirnov(before, now) is None


def test_psi_where_all_values_are_one() -> None:
    counts = np.array([0, 0, 500, 0])
    assert population_stability_index(counts, counts) == pytest.approx(0, abs=1e-12)
    for elsewhere in ([0, 500, 0, 0], [0, 0, 0, 500]):
        moved = population_stability_index(counts, np.array(elsewhere))
        assert moved is not None
        assert 5 < moved < np.inf


@pytest.mark.parametrize("sizes", [(100, 100), (250, 4000), (10**9, 100)])
def test_psi_by_chance_is_chi_squareds_tail(sizes: tuple[int, int]) -> None:
    """With ten bins, PSI / (1/n + 1/m) of two samples has 9 degrees of freedom."""
    expected = stats.chi2(9).ppf(0.999) * (1 / sizes[0] + 1 / sizes[1])
    assert psi_by_chance(*sizes) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("sizes", [(100, 100), (150, 2000), (2000, 150)])
def test_chance_alone_rarely_makes_more_than_psi_by_chance(sizes: tuple[int, int]) -> None:
    """Of 1000 pairs of samples of one population, one is expected to; many reach the limit."""
    random = np.random.default_rng(0)
    found = [
        population_stability_index(*(counted(random.gamma(3, 2, many)) for many in sizes)) or 0
        for _ in range(1000)
    ]
    by_chance = psi_by_chance(*sizes)
    assert np.greater(found, by_chance).sum() <= 4
    assert by_chance / 2 < np.max(found)
    assert np.greater(found, 0.1).sum() > 100


def test_the_same_length() -> None:
    first, second = same_length(np.ones((3, 4), int), np.ones((3, 6), int))
    assert first.tolist() == [[1, 1, 1, 1, 0, 0]] * 3
    assert second.tolist() == [[1] * 6] * 3
