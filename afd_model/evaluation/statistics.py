"""Rank statistics, the paired bootstrap and binned medians, in NumPy."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

_RESAMPLES_AT_A_TIME = 100


def places(values: np.ndarray) -> np.ndarray:
    """Each value's place among the distinct ones: (N,) -> (N,) integers from 0.

    They have the ranks of the values, in a sample of them too, and are ranked without sorting.
    """
    found: np.ndarray = np.unique(values, return_inverse=True)[1]
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties get their mean rank: (N,) values or their `places` -> (N,) float64."""
    at = values if values.dtype.kind == "i" else places(values)
    counts = np.bincount(at)
    last = np.cumsum(counts)
    mean: np.ndarray = (last - (counts - 1) / 2)[at]
    return mean


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two (N,) arrays or their `places`; NaN if one is constant."""
    x, y = ranks(a) - (len(a) + 1) / 2, ranks(b) - (len(b) + 1) / 2
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else float("nan")


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve; NaN unless there are positives and negatives.

    score: (N,), or its `places`; positive: (N,) bool.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    above = ranks(score)[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def resampled_means(values: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means over bootstrap samples: K measures of N images, (K, N) -> (resamples, K) float64.

    Paired: all measures use the same samples of images.
    """
    count = values.shape[1]
    rng = np.random.default_rng(seed)
    found = [
        rng.multinomial(count, np.full(count, 1 / count), size=size) @ values.T / count
        for size in _portions(resamples)
    ]
    return np.concatenate(found)


def resampled(
    statistics: Callable[[np.ndarray], Sequence[float]], count: int, *, resamples: int, seed: int
) -> np.ndarray:
    """K statistics of bootstrap samples, given as (count,) indices: (resamples, K) float64."""
    rng = np.random.default_rng(seed)
    return np.array([statistics(rng.integers(0, count, count)) for _ in range(resamples)])


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The central 95 % interval of bootstrap samples, ignoring NaN (a ratio with denominator 0)."""
    if np.isnan(samples).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return float(low), float(high)


class BinnedMedians(NamedTuple):
    """Quartiles of y in K bins of x that hold equally many points; (K,) float64 each.

    Attributes:
        x: the median x of each bin.
        low, median, high: the quartiles of its y.
        points: the number of its points.
    """

    x: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    points: np.ndarray


def binned_medians(x: np.ndarray, y: np.ndarray, *, bins: int) -> BinnedMedians:
    """The quartiles of y (N,) over at most `bins` bins of x (N,); N is at least 1."""
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    low, median, high = np.array([np.percentile(y[part], [25, 50, 75]) for part in parts]).T
    middle = np.array([np.median(x[part]) for part in parts])
    points = np.array([len(part) for part in parts], np.float64)
    return BinnedMedians(middle, low, median, high, points)


def _portions(total: int) -> Iterator[int]:
    """Chunk sizes, so that a bootstrap of 50,000 images does not hold all samples at once."""
    for start in range(0, total, _RESAMPLES_AT_A_TIME):
        yield min(_RESAMPLES_AT_A_TIME, total - start)
