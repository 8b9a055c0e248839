"""8-bit pixels -> pixels as the backbone was trained on, in the model's precision.

DALI has an operator for this. On a CPU, it takes ten times as long, does not support bfloat16, and
moves four bytes per value between the threads' caches instead of one. On CUDA, it needs a set-up
per image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from afd_model.inference.kernels import DTYPES, as_array, has_numba
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
        self._scale_levels: Callable[..., None] | None = None
        if self._scale.device.type == "cpu" and dtype in DTYPES and has_numba():
            from pipeline.pixels.normalize_kernel import scale_levels

            self._scale_levels = scale_levels

    def __call__(self, rgb: Tensor, out: Tensor | None = None) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 3, side, side), channels_last.

        out: (B, side, side, 3) of the dtype, written to; the result is a view of it.
        """
        if out is None:
            out = torch.empty(rgb.shape, dtype=self._dtype, device=rgb.device)
        flat = (-1, len(self._scale))
        rows, found = rgb.reshape(flat), out.view(flat)
        if self._scale_levels is None:
            found.copy_(torch.addcmul(self._shift, rows.float(), self._scale))
        else:
            scale, shift = self._scale.numpy(), self._shift.numpy()
            self._scale_levels(rows.numpy(), scale, shift, as_array(found))
        return out.permute(0, 3, 1, 2)
