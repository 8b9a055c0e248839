"""Drift scores: how far compression has moved a classifier's features.

docs/method.md, "Drift scores". The angle is the Feature Response Angle of Peng et al. 2024, Fig. 4,
between the stem's features and the enhanced ones, so no original is needed.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TINY = torch.finfo(torch.float32).tiny


class Drift(NamedTuple):
    """The scores of a batch; (B,) float32 each."""

    angle_deg: Tensor
    energy: Tensor


def drift(features: Tensor, enhanced: Tensor) -> Drift:
    """Drift angle and drift energy.

    Args:
        features: (B, C, H, W), f: the stem's features, any floating dtype.
        enhanced: (B, C, H, W), f^: the enhanced features (for the true drift: the original's).

    Returns:
        angle_deg: sum_p w_p acos(<f, f^> / (|f| |f^|)) / sum_p w_p over positions p, with
            w_p = |f^(p)|; degrees, 0 to 180. Where f(p) is zero the angle counts as 0.
        energy: |f^ - f| / |f|; 0 if f is all zero.
        Both are exactly 0 for identical inputs. Sums are float32 (float64 for float64 input).
    """
    return _scores(_lengths(features, enhanced))


def drift_by_convolutions(features: Tensor, enhanced: Tensor) -> Drift:
    """`drift` in operators that OpenVINO runs fast; float32.

    OpenVINO computes everything behind the last convolution in float32. Sums over channels are
    written as convolutions, so that behind them come tensors of (B, H, W) only, not (B, C, H, W).
    """
    ones = features.new_ones(1, features.shape[1], 1, 1)
    difference = enhanced - features
    products = (features * features, features * difference, difference * difference)
    norm_squared, dot, moved_squared = (F.conv2d(p, ones).squeeze(1) for p in products)
    # Rounding may make a sum of squares slightly negative.
    norm, moved = norm_squared.clamp(min=0).sqrt(), moved_squared.clamp(min=0).sqrt()
    weight = (norm_squared + 2 * dot + moved_squared).clamp(min=0).sqrt()
    return _scores(_Lengths(norm, moved, dot / norm.clamp(min=_TINY), weight))


class _Lengths(NamedTuple):
    """Per position, (B, H, W) each, with d = f^ - f: |f|, |d|, <f, d> / |f| and |f^|."""

    norm: Tensor
    moved: Tensor
    along: Tensor
    weight: Tensor


def _scores(lengths: _Lengths) -> Drift:
    norm, moved, along, weight = lengths
    # acos is ill-conditioned near 1, where most positions are. With d split into the parts parallel
    # and perpendicular to f, the angle is atan2(|d_across|, |f| + d_along), exactly 0 for d = 0.
    across = ((moved - along) * (moved + along)).clamp(min=0).sqrt()
    angle = torch.atan2(across, norm + along) * (norm > 0)
    size = torch.linalg.vector_norm(norm, dim=(1, 2))
    energy = torch.linalg.vector_norm(moved, dim=(1, 2)) * (size > 0) / size.clamp(min=_TINY)
    mean_angle = (angle * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=_TINY)
    return Drift(torch.rad2deg(mean_angle), energy)


def _lengths(features: Tensor, enhanced: Tensor) -> _Lengths:
    dtype = torch.promote_types(features.dtype, torch.float32)
    # Three norms write no tensor of the features' size. On a CPU they take a third of the time of
    # the products <f, f^>. Small differences of half-precision numbers are exact.
    norm = torch.linalg.vector_norm(features, dim=1, dtype=dtype)
    weight = torch.linalg.vector_norm(enhanced, dim=1, dtype=dtype)
    moved = torch.linalg.vector_norm(enhanced - features, dim=1, dtype=dtype)
    along = ((weight - norm) * (weight + norm) - moved.square()) / (2 * norm.clamp(min=_TINY))
    return _Lengths(norm, moved, along, weight)


def drift_angle_deg(features: Tensor, enhanced: Tensor) -> Tensor:
    """The angle alone; see `drift`."""
    return drift(features, enhanced).angle_deg


# Label smoothing spreads the softmax over all classes. At a temperature below 1 the confidence
# predicts flips better (docs/experiments.md).
FLIP_TEMPERATURE = 0.7
_MAX_LOGIT = 10.0
_ANGLE_OFFSET_DEG = 0.1  # keeps the logarithm finite

FLIP_FEATURES: tuple[str, ...] = (
    "confidence_logit",
    "log_drift_angle",
    "luma_low",
    "luma_mid",
    "luma_high",
    "quality",
    "quality_missing",
)


def confidence_logit(probabilities: Tensor) -> Tensor:
    """log(s / (1 - s)), with s the top-1 probability of the softmax at `FLIP_TEMPERATURE`.

    Args:
        probabilities: (B, K) softmax at temperature 1, K >= 2.

    Returns:
        (B,) in the input's dtype, clamped to -10..10.
    """
    powers = probabilities ** (1 / FLIP_TEMPERATURE)
    best, others = powers.max(1).values, powers.sum(1)
    others = others - best
    logit = best.log() - others.clamp(min=torch.finfo(others.dtype).tiny).log()
    return logit.clamp(-_MAX_LOGIT, _MAX_LOGIT)


@dataclass(frozen=True)
class FlipModel:
    """Logistic regression on `FLIP_FEATURES`; stored in the AFD checkpoint.

    Attributes:
        intercept: bias of the logit.
        coefficients: one per standardised feature.
        means, scales: mean and standard deviation of each feature in the training data. A missing
            quality is replaced by the mean.
    """

    intercept: float
    coefficients: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("coefficients", "means", "scales"):
            if len(getattr(self, name)) != len(FLIP_FEATURES):
                raise ValueError(
                    f"flip model: {len(getattr(self, name))} {name}, not {len(FLIP_FEATURES)}"
                )
        numbers = (self.intercept, *self.coefficients, *self.means, *self.scales)
        if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
            raise ValueError("flip model: not all of its numbers are finite numbers")
        if min(self.scales) <= 0:
            raise ValueError("flip model: not all of its scales are positive")


def flip_features(
    angle_deg: Tensor, probabilities: Tensor, dct: Tensor, jpeg_quality: Tensor
) -> Tensor:
    """The inputs of the flip model: what predicts whether compression changed the label.

    Args:
        angle_deg: (B,), see `drift`.
        probabilities: (B, K) softmax, K >= 2.
        dct: (B, 192, h, w) as `block_dct` gives it.
        jpeg_quality: (B,) 1..100, NaN where the header has none.

    Returns:
        (B, 7) float32 in the order of `FLIP_FEATURES`: `confidence_logit`; log(0.1 + angle);
        log(1 + mean |c|) of the luma coefficients at zigzag 1-5, 6-20 and 21-63; quality (NaN if
        missing); 1 if quality is missing, else 0.
    """
    size = dct[:, :64].abs().mean((2, 3), dtype=torch.float32)  # (B, 64)
    bands = (size[:, 1:6], size[:, 6:21], size[:, 21:])
    quality = jpeg_quality.to(torch.float32)
    columns = [confidence_logit(probabilities.float())]
    columns += [torch.log(angle_deg.float() + _ANGLE_OFFSET_DEG)]
    columns += [torch.log1p(band.mean(1)) for band in bands]
    columns += [quality, quality.isnan().float()]
    return torch.stack(columns, dim=1)


class FlipScorer(nn.Module):
    """A `FlipModel` as an `nn.Module`."""

    means: Tensor
    scales: Tensor
    coefficients: Tensor

    def __init__(self, model: FlipModel) -> None:
        super().__init__()
        self.intercept = model.intercept
        for name in ("means", "scales", "coefficients"):
            self.register_buffer(name, torch.tensor(getattr(model, name), dtype=torch.float32))

    def forward(self, features: Tensor) -> Tensor:
        """(B, 7) float32 from `flip_features` -> (B,) float32 in [0, 1]."""
        standard = torch.nan_to_num((features - self.means) / self.scales)
        return torch.sigmoid(standard @ self.coefficients + self.intercept)


def flip_probability(model: FlipModel, features: Tensor) -> Tensor:
    """(B, 7) from `flip_features` -> (B,) float32 in [0, 1]."""
    return FlipScorer(model).to(features.device)(features)
