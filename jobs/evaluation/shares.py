"""What the tables of `afd evaluate` consist of: a statistic with its bootstrap interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from afd_model.evaluation.statistics import interval
from jobs import quantities
from pipeline.pairs.evaluate_images import Condition

# A ratio of fewer images, or an area under the curve, has no interval that could be relied on.
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class Share:
    """A share of images or another statistic, with its 95 % interval; NaN when undefined."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(value: float, samples: np.ndarray) -> Share:
        """The value with the interval of its bootstrap samples; all NaN when the value is."""
        return Share(value, *((math.nan, math.nan) if math.isnan(value) else interval(samples)))


def condition_name(condition: Condition) -> str:
    if condition.times is not None:
        return f"{condition.times} random"
    return "clean" if condition.quality is None else f"QF {condition.quality}"


def share_cell(share: Share, *, scale: int = 1, decimals: int = 3) -> str:
    """The value with its interval. What rounds to zero has no sign."""
    if math.isnan(share.value):
        return quantities.UNKNOWN
    value, low, high = (
        f"{scale * number:z.{decimals}f}" for number in (share.value, share.low, share.high)
    )
    return f"{value} [{low}, {high}]"
