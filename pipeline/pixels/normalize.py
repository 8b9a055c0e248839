"""8-bit pixels -> the scale that a backbone was trained on, in the model's precision.

DALI has an operator for it. On a CPU it takes ten times as long, knows no bfloat16, and hands four
bytes a number from one thread's cache to the other's instead of one; on CUDA it has to be prepared
image by image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afd_model.inference.kernels import cpu_kernels
from pipeline.pixels.geometry import Geometry


class Normalize:
    """(x / 255 - mean) / std for square pictures of one size.

    geometry: mean, std and the side. dtype: of the result, any floating one. device: of both.
    """

    def __init__(
        self, geometry: Geometry, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        self._dtype = dtype
        mean, std = (
            255 * torch.tensor(values, dtype=torch.float64)
            for values in (geometry.mean, geometry.std)
        )
        # A row of pixels as one vector: with three numbers an inner loop would be over at once.
        self._scale = (1 / std).float().repeat(geometry.crop).to(device)
        self._shift = (-mean / std).float().repeat(geometry.crop).to(device)
        kernels = cpu_kernels() if self._scale.device.type == "cpu" else None
        self._scale_rows = (
            _scale_rows if kernels is None or dtype not in kernels.DTYPES else kernels.scale_rows
        )

    def __call__(self, rgb: Tensor, out: Tensor | None = None) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 3, side, side), channels_last.

        out: (B, side, side, 3) of the dtype, to be overwritten; the result is a view of it.
        """
        if out is None:
            out = torch.empty(rgb.shape, dtype=self._dtype, device=rgb.device)
        rows = (-1, len(self._scale))
        self._scale_rows(rgb.reshape(rows), self._scale, self._shift, out.view(rows))
        return out.permute(0, 3, 1, 2)


def _scale_rows(rows: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """`cpu_kernels.scale_rows` by PyTorch."""
    out.copy_(torch.addcmul(shift, rows.float(), scale))
