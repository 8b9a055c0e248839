"""Fits the flip model: logistic regression with L2 regularisation, by Newton's method."""

import numpy as np
import torch
from torch import Tensor

from afd_model.classifier import AFDClassifier
from afd_model.drift import drift
from afd_model.flip_model import FLIP_FEATURES, FlipModel, flip_features
from afd_model.training.pairs import PairBatch

RIDGE = 1.0  # a standard normal prior of the coefficients of standardised features
_STEPS = 25
_TOLERANCE = 1e-9


@torch.no_grad()
def flip_samples(classifier: AFDClassifier, batch: PairBatch) -> Tensor:
    """The samples of a batch: (B, 8 + 1) float32, `FLIP_FEATURES` and the target.

    The target is 1 if the label of the compressed image, with the AFD-Module, differs from the
    label of the clean image by the backbone alone.
    """
    clean_labels = classifier.bare(batch.clean).logits.argmax(1)
    logits, before, after, _ = classifier.features(batch.degraded, batch.dct)
    probabilities = torch.softmax(logits.float(), dim=1)
    angle = drift(before, after).angle_deg
    features = flip_features(angle, probabilities, batch.dct, batch.file_facts)
    flipped = (logits.argmax(1) != clean_labels).float()
    return torch.cat([features, flipped[:, None]], dim=1)


def also_without_quality(
    features: np.ndarray, flipped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The samples that have a quality, and then all of them without it.

    Only what was never compressed lacks a quality in training. Taken as it is, a missing quality
    would speak for a clean picture. But encoders with quantization tables of their own write none.

    Args:
        features, flipped: see `fit_flip_model`.

    Returns:
        The same for the longer samples.
    """
    quality, missing = FLIP_FEATURES.index("quality"), FLIP_FEATURES.index("quality_missing")
    known = ~np.isnan(features[:, quality])
    hidden = features.copy()
    hidden[:, quality], hidden[:, missing] = np.nan, 1.0
    return np.concatenate([features[known], hidden]), np.concatenate([flipped[known], flipped])


def fit_flip_model(features: np.ndarray, flipped: np.ndarray) -> FlipModel:
    """Maximises the penalised likelihood; the intercept is not penalised.

    Args:
        features: (N, 8) from `flip_features`, NaN for a missing quality.
        flipped: (N,) 0 or 1.

    Raises:
        ValueError: N is 0, or there are not 8 features.
    """
    if features.ndim != 2 or features.shape[1] != len(FLIP_FEATURES) or not len(features):
        raise ValueError(f"flip fit takes (N, {len(FLIP_FEATURES)}) features, not {features.shape}")
    features, target = features.astype(np.float64), flipped.astype(np.float64)
    known = ~np.isnan(features)
    count = np.maximum(known.sum(0), 1)
    means = np.where(known, features, 0).sum(0) / count
    deviation = np.where(known, features - means, 0)
    scales = np.sqrt(np.square(deviation).sum(0) / count)
    scales[scales < 1e-12] = 1.0
    design = np.column_stack([np.ones(len(features)), deviation / scales])  # (N, 9)
    weights = _newton(design, target)
    return FlipModel(
        intercept=float(weights[0]),
        coefficients=tuple(weights[1:].tolist()),
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
    )


def _newton(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, d), (N,) -> (d,). A pseudo-sample keeps the intercept finite if nothing is flipped."""
    rate = (target.sum() + 0.5) / (len(target) + 1)
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(rate / (1 - rate))
    if not 0 < target.sum() < len(target):
        return weights  # nothing to tell apart
    penalty = np.full(len(weights), RIDGE)
    penalty[0] = 0.0
    loss = _penalised_loss(design, target, weights, penalty)
    for _ in range(_STEPS):
        p = _logistic(design @ weights)
        gradient = design.T @ (p - target) + penalty * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        # Far from the optimum a full Newton step can overshoot; the loss is convex, so halve it.
        while (new := _penalised_loss(design, target, weights - size * step, penalty)) > loss:
            size /= 2
            if size < 1e-6:
                return weights
        weights, change, loss = weights - size * step, loss - new, new
        if change < _TOLERANCE * max(1.0, loss):
            break
    return weights


def _penalised_loss(
    design: np.ndarray, target: np.ndarray, weights: np.ndarray, penalty: np.ndarray
) -> float:
    z = design @ weights
    likelihood = np.logaddexp(0, z) - target * z
    return float(likelihood.sum() + (penalty * np.square(weights)).sum() / 2)


def _logistic(z: np.ndarray) -> np.ndarray:
    positive: np.ndarray = 0.5 * (1 + np.tanh(z / 2))
    return positive
