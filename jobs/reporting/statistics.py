"""Quantiles and distances of distributions, from counts in bins of equal width.

So two runs can be compared without reading their rows again. All arrays of counts are int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BAND_WIDTH = 5  # of JPEG quality: 1-5, 6-10, ... 96-100
BANDS = 100 // BAND_WIDTH
QUALITIES = 101  # rows of counts by quality; row 0: images without an IJG-like table
_PSI_BINS = 10
_CHI_SQUARED = 27.9  # its 99.9th percentile with _PSI_BINS - 1 degrees of freedom


def band_name(band: int) -> str:
    return f"{band * BAND_WIDTH + 1}–{(band + 1) * BAND_WIDTH}"


def by_band(counts: np.ndarray) -> np.ndarray:
    """(101, ...) by JPEG quality 0 to 100 -> (20, ...) by band, without quality 0 (unknown)."""
    return counts[1:].reshape(BANDS, BAND_WIDTH, *counts.shape[1:]).sum(1)


def quantiles(counts: np.ndarray, width: float, shares: Sequence[float]) -> list[float] | None:
    """The quantiles for these shares, interpolated linearly within a bin; None without any values.

    counts: (n,); bin k holds the values from k * width to (k + 1) * width. A share that falls
    exactly between two values, as the median of an even number may, is the mean of the two.
    """
    total = counts.sum()
    if total == 0:
        return None
    edges = np.concatenate([[0], np.cumsum(counts)]) / total  # (n + 1,), share below each edge
    found = []
    for share in shares:
        sides = (int(np.searchsorted(edges, share, side=side)) - 1 for side in ("left", "right"))
        bins = [k for k in sides if 0 <= k < len(counts)]  # not below the least, above the largest
        places = [k + (share - edges[k]) / (edges[k + 1] - edges[k]) for k in bins]
        found.append(float(np.mean(places)) * width)
    return found


def median(counts: np.ndarray, width: float) -> float | None:
    """See `quantiles`."""
    found = quantiles(counts, width, [0.5])
    return found[0] if found else None


def coarser(counts: np.ndarray, factor: int, bins: int) -> np.ndarray:
    """(..., n) -> (..., bins): merges `factor` bins each; the last one gets all above it too."""
    padded = np.zeros((*counts.shape[:-1], max(factor * bins, counts.shape[-1])), counts.dtype)
    padded[..., : counts.shape[-1]] = counts
    found = padded[..., : factor * bins].reshape(*counts.shape[:-1], bins, factor).sum(-1)
    found[..., -1] += padded[..., factor * bins :].sum(-1)
    return found


def nice_factor(top: int, bins: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... for which `bins` bins of that width exceed `top`."""
    factor = 1
    while True:
        for step in (1, 2, 5):
            if factor * step * bins > top:
                return factor * step
        factor *= 10


def population_stability_index(before: np.ndarray, now: np.ndarray) -> float | None:
    """PSI: sum over bins of (q - p) ln(q / p), p and q the shares before and now.

    before, now: (n,) counts in the same bins; merged into about ten bins with equal counts of
    `before`. Half an image is added to every bin, so that none is empty. Usually a PSI below 0.1
    is considered a small shift, and one of 0.25 or more a large one. None when either is empty.
    """
    if before.sum() == 0 or now.sum() == 0:
        return None
    below = np.cumsum(before)
    cuts = np.searchsorted(below, np.arange(1, _PSI_BINS) / _PSI_BINS * below[-1]) + 1
    # A bin with more than a tenth of all is not merged with the bins below it.
    crowded = np.flatnonzero(before > below[-1] / _PSI_BINS)
    starts = np.unique(np.concatenate([[0], cuts, crowded]))
    starts = starts[starts < len(before)]
    p = np.add.reduceat(before, starts) + 0.5
    q = np.add.reduceat(now, starts) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def psi_by_chance(before: int, now: int) -> float:
    """The PSI that two samples of one population, of so many values, exceed once in a thousand.

    In ten bins and without a shift, PSI / (1 / before + 1 / now) is distributed as chi-squared.
    """
    return _CHI_SQUARED * (1 / before + 1 / now)


def kolmogorov_smirnov(before: np.ndarray, now: np.ndarray) -> float | None:
    """The largest distance between the cumulative shares, 0 to 1; None when either is empty."""
    if before.sum() == 0 or now.sum() == 0:
        return None
    distance = np.cumsum(before) / before.sum() - np.cumsum(now) / now.sum()
    return float(np.abs(distance).max())


def same_length(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (..., n) and (..., m), the shorter one padded with zeros at the end."""
    bins = max(first.shape[-1], second.shape[-1])
    padded = [
        np.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(0, bins - counts.shape[-1])])
        for counts in (first, second)
    ]
    return padded[0], padded[1]
