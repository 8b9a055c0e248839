"""Features of many channels, and the FDM, as pictures that a person can compare."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CLIPPED_PERCENT = 1.0  # of the positions, at either end of a colour's scale
_MAX_COLOURS = 3


@dataclass(frozen=True)
class ColourScale:
    """Principal components as red, green and blue: one scale for every picture made with it.

    Attributes:
        mean: (C,) float64, of the features it was fitted to.
        axes: (C, k) float64, orthonormal, k = min(3, C), of falling variance.
        low, high: (k,) float64, the components' values that become 0 and 1.
        explained: share of the variance that the axes hold, 0 to 1.
    """

    mean: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor
    explained: float

    def rgb(self, features: Tensor) -> np.ndarray:
        """(C, H, W) -> (H, W, 3) float32 in 0..1; components that are missing are black."""
        scaled = (_components(features, self.mean, self.axes) - self.low) / (self.high - self.low)
        rows, columns = features.shape[1:]
        rgb = np.zeros((rows, columns, _MAX_COLOURS), np.float32)
        rgb[..., : self.axes.shape[1]] = scaled.clamp(0, 1).unflatten(0, (rows, columns)).numpy()
        return rgb


def fit_colours(features: Tensor) -> ColourScale:
    """The colour scale of a picture's features: (C, H, W) on the CPU, any floating dtype.

    An axis's largest loading is positive, so that the colours do not depend on the machine.
    """
    samples = features.flatten(1).T.double()  # (H * W, C)
    mean = samples.mean(0)
    centred = samples - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(samples))
    axes = vectors.flip(1)[:, :_MAX_COLOURS]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * largest.sign()
    ends = torch.tensor([_CLIPPED_PERCENT, 100 - _CLIPPED_PERCENT], dtype=torch.float64) / 100
    low, high = torch.quantile(centred @ axes, ends, dim=0)
    total = variances.clamp(min=0).sum()
    explained = variances.flip(0)[:_MAX_COLOURS].clamp(min=0).sum() / total if total > 0 else 1.0
    flat = high <= low  # a blank picture has no scale of its own
    return ColourScale(mean, axes, low, torch.where(flat, low + 1, high), float(explained))


def _components(features: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    return (features.flatten(1).T.double() - mean) @ axes


def difference_map(features: Tensor, reference: Tensor) -> np.ndarray:
    """How far apart two pictures' features are at each position, whatever the channel.

    (C, H, W) twice -> (H, W) float32, the length of their difference.
    """
    return torch.linalg.vector_norm(features.float() - reference.float(), dim=0).numpy()


class FdmViews(NamedTuple):
    """A Feature Drifting Map as what varies in it: over the picture, and over the channels.

    Attributes:
        places: (h, w) float32, mean over the channels; None where every position has the same.
        gates: (c,) float32, mean over the positions; None where every channel has the same.
    """

    places: np.ndarray | None
    gates: np.ndarray | None


def fdm_views(fdm: Tensor) -> FdmViews:
    """(c, h, w) of one picture, any of them 1, on the CPU; see `FDENet`."""
    channels, rows, columns = fdm.shape
    values = fdm.float()
    return FdmViews(
        places=values.mean(0).numpy() if rows * columns > 1 else None,
        gates=values.mean((1, 2)).numpy() if channels > 1 else None,
    )


def picture(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What the model was shown: (3, H, W) normalised, on the CPU -> (H, W, 3) uint8.

    mean, std: the pixels' normalisation on the 0..1 scale, R, G, B.
    """
    scale, offset = (torch.tensor(values)[:, None, None] for values in (std, mean))
    levels = (pixels.float() * scale + offset) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
