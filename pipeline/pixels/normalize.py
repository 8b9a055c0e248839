"""8-bit pixels -> pixels as the backbone was trained on, in the model's precision.

DALI has an operator for this. On a CPU, it takes ten times as long, does not support bfloat16, and
moves four bytes per value between the threads' caches instead of one. On CUDA, it needs a set-up
per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afd_model.inference.kernels import cpu_kernels
from pipeline.pixels.geometry import Geometry


class Normalize:
    """(x / 255 - mean) / std for square images of one size.

    geometry: gives mean, std and side. dtype: of the result, any floating-point type. device: of
    the pixels and of the result.
    """

    def __init__(
        self, geometry: Geometry, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        self._dtype = dtype
        mean, std = (
            255 * torch.tensor(values, dtype=torch.float64)
            for values in (geometry.mean, geometry.std)
        )
        # One vector per row of pixels: an inner loop over three channels would be too short.
        self._scale = (1 / std).float().repeat(geometry.crop).to(device)
        self._shift = (-mean / std).float().repeat(geometry.crop).to(device)
        kernels = cpu_kernels() if self._scale.device.type == "cpu" else None
        self._scale_rows = (
            _scale_rows if kernels is None or dtype not in kernels.DTYPES else kernels.scale_rows
        )

    def __call__(self, rgb: Tensor, out: Tensor | None = None) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 3, side, side), channels_last.

        out: (B, side, side, 3) of the dtype, written to; the result is a view of it.
        """
        if out is None:
            out = torch.empty(rgb.shape, dtype=self._dtype, device=rgb.device)
        rows = (-1, len(self._scale))
        self._scale_rows(rgb.reshape(rows), self._scale, self._shift, out.view(rows))
        return out.permute(0, 3, 1, 2)


def _scale_rows(rows: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """The same as the compiled `cpu_kernels.scale_rows`, in PyTorch."""
    out.copy_(torch.addcmul(shift, rows.float(), scale))
