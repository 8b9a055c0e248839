"""Features of many channels and the FDM as images, for figures."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CLIPPED_PERCENT = 1.0  # of the positions, at either end of each colour's range
_MAX_COLOURS = 3


@dataclass(frozen=True)
class ColourScale:
    """The first three principal components as red, green and blue, with fixed ranges.

    Attributes:
        mean: (C,) float64, of the features that it was fitted to.
        axes: (C, k) float64, principal axes by decreasing variance, k = min(3, C).
        low, high: (k,) float64, the components' values that become 0 and 1.
        explained: share of the variance along the axes, 0 to 1.
    """

    mean: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor
    explained: float

    def rgb(self, features: Tensor) -> np.ndarray:
        """(C, H, W) -> (H, W, 3) float32 in 0..1; with fewer than 3 components, the rest are 0."""
        components = (features.flatten(1).T.double() - self.mean) @ self.axes
        scaled = (components - self.low) / (self.high - self.low)
        rows, columns = features.shape[1:]
        rgb = np.zeros((rows, columns, _MAX_COLOURS), np.float32)
        rgb[..., : self.axes.shape[1]] = scaled.clamp(0, 1).unflatten(0, (rows, columns)).numpy()
        return rgb


def fit_colours(features: Tensor) -> ColourScale:
    """The colour scale for features (C, H, W) on the CPU, any floating dtype.

    The sign of each axis is such that its largest loading is positive: the same on every machine.
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
    flat = high <= low  # constant features: avoid a division by 0
    return ColourScale(mean, axes, low, torch.where(flat, low + 1, high), float(explained))


def difference_map(features: Tensor, reference: Tensor) -> np.ndarray:
    """The norm of the difference at each position: (C, H, W) twice -> (H, W) float32."""
    return torch.linalg.vector_norm(features.float() - reference.float(), dim=0).numpy()


class FdmViews(NamedTuple):
    """The means of an FDM over its channels and over its positions.

    Attributes:
        places: (h, w) float32, mean over the channels; None if the FDM has one position.
        gates: (c,) float32, mean over the positions; None if the FDM has one channel.
    """

    places: np.ndarray | None
    gates: np.ndarray | None


def fdm_views(fdm: Tensor) -> FdmViews:
    """Of the FDM of one image, (c, h, w) on the CPU, each of which may be 1; see `FDENet`."""
    channels, rows, columns = fdm.shape
    values = fdm.float()
    return FdmViews(
        places=values.mean(0).numpy() if rows * columns > 1 else None,
        gates=values.mean((1, 2)).numpy() if channels > 1 else None,
    )


def denormalized(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Undoes the normalisation: (3, H, W) on the CPU -> (H, W, 3) uint8.

    mean, std: of the normalisation, R, G, B on the 0..1 scale.
    """
    scale, offset = (torch.tensor(values)[:, None, None] for values in (std, mean))
    levels = (pixels.float() * scale + offset) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
