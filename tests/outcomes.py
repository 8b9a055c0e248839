"""Outcomes of `afd evaluate` that are made up: few enough to count."""

import numpy as np

from afd_model.evaluation.evaluator import Outcome
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


def repeated(outcomes: dict[Condition, Outcome], times: int = 10) -> dict[Condition, Outcome]:
    """As many images as a ratio needs."""
    return {condition: Outcome.joined([found] * times) for condition, found in outcomes.items()}


def counted(lost: int, *, recovered: int = 0, images: int = 50) -> dict[Condition, Outcome]:
    """Of so many images the first ones lose their label 1, and with the module fewer do."""
    right, wrong = [1] * images, [0] * images
    compressed = outcome(
        wrong[:lost] + right[lost:], wrong[recovered:lost] + right[lost - recovered :]
    )
    return {CLEAN: outcome(right, right), LOW: compressed}
