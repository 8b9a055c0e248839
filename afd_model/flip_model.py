"""The flip model: the probability that compression changed an image's label.

docs/method.md, "Drift scores". `afd_model.training.flip_fit` fits it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    "enlargement",
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
    angle_deg: Tensor, probabilities: Tensor, dct: Tensor, file_facts: Tensor
) -> Tensor:
    """The inputs of the flip model: what predicts whether compression changed the label.

    Args:
        angle_deg: (B,), see `drift`.
        probabilities: (B, K) softmax, K >= 2.
        dct: (B, 192, h, w) as `block_dct` gives it.
        file_facts: (B, 2): JPEG quality, 1..100, NaN where the header has none; and enlargement,
            the doublings by which the picture's sides were enlarged to the model's input, 0 where
            it was reduced.

    Returns:
        (B, 8) float32 in the order of `FLIP_FEATURES`: `confidence_logit`; log(0.1 + angle);
        log(1 + mean |c|) of the luma coefficients at zigzag 1-5, 6-20 and 21-63; quality (NaN if
        missing); 1 if quality is missing, else 0; enlargement.
    """
    size = dct[:, :64].abs().mean((2, 3), dtype=torch.float32)  # (B, 64)
    bands = (size[:, 1:6], size[:, 6:21], size[:, 21:])
    quality, enlargement = file_facts.to(torch.float32).unbind(1)
    columns = [confidence_logit(probabilities.float())]
    columns += [torch.log(angle_deg.float() + _ANGLE_OFFSET_DEG)]
    columns += [torch.log1p(band.mean(1)) for band in bands]
    columns += [quality, quality.isnan().float(), enlargement]
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
        """(B, 8) float32 from `flip_features` -> (B,) float32 in [0, 1]."""
        standard = torch.nan_to_num((features - self.means) / self.scales)
        return torch.sigmoid(standard @ self.coefficients + self.intercept)
