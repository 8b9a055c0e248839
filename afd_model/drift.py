"""Drift scores: how far compression has moved a classifier's features.

docs/method.md, "Drift scores". The angle is the Feature Response Angle of Peng et al. 2024, Fig. 4,
between the stem's features and the enhanced ones, so no original is needed.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
