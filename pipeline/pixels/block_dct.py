"""The 8x8 block DCT of the model's input: a compiled kernel on a CPU, a matrix product on CUDA.

DALI has no such operator. Two passes of its `fn.mfcc` are exact, but take many times as long. Both
classes are tested against `afd_model.dct.block_dct`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from afd_model.dct import (
    DCT_CHANNELS,
    JFIF_RGB_TO_YCBCR,
    LEVEL_SHIFT,
    ZIGZAG,
    block_dct,
    dct_basis,
)
from afd_model.inference.kernels import has_numba, in_threads


class BlockDct:
    """The transform for square images of one size on a CPU, in as many threads as PyTorch uses."""

    def __init__(self, side: int) -> None:
        self._blocks = side // 8
        self._place = np.argsort(ZIGZAG)  # row-major index -> zigzag index
        self._transform_blocks: Callable[..., None] | None = None
        if has_numba():
            from pipeline.pixels.block_dct_kernel import transform_blocks

            self._transform_blocks = transform_blocks

    def __call__(self, rgb: Tensor, out: Tensor | None = None) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 192, side/8, side/8) float32.

        out: written to, and returned. A new tensor takes longer, because of page faults.
        """
        if out is None:
            out = torch.empty(len(rgb), DCT_CHANNELS, self._blocks, self._blocks)
        transform_blocks = self._transform_blocks
        if transform_blocks is None:
            return out.copy_(block_dct(rgb.permute(0, 3, 1, 2).float()))
        images = rgb.flatten(2).numpy()
        found = out.view(len(rgb), DCT_CHANNELS, self._blocks**2).numpy()

        def transform_some(part: slice) -> None:
            transform_blocks(images[part], self._place, found[part])

        in_threads(transform_some, len(rgb))
        return out


class BlockDctByOneProduct:
    """The same as one (192, 192) product per block: more arithmetic, but one pass over memory.

    Colour conversion and DCT are linear (T.81 A.3.3, T.871), and a GPU's bottleneck is memory.
    Works on any device.
    """

    def __init__(self, side: int, device: torch.device) -> None:
        self._blocks = side // 8
        basis = dct_basis()  # (frequency, sample)
        colour = torch.tensor(JFIF_RGB_TO_YCBCR, dtype=torch.float64)  # (component, channel)
        matrix = torch.einsum("vy,ux,kc->yxckvu", basis, basis, colour).reshape(64 * 3, 3, 64)
        self._matrix = matrix[:, :, list(ZIGZAG)].reshape(192, 192).float().to(device)

    def __call__(self, rgb: Tensor, out: Tensor | None = None) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 192, side/8, side/8) float32, channels_last.

        out: written to, and returned.
        """
        count, blocks = len(rgb), self._blocks
        if out is None:
            shape = (count, DCT_CHANNELS, blocks, blocks)
            out = torch.empty(shape, device=rgb.device, memory_format=torch.channels_last)
        samples = torch.empty(count, blocks, blocks, 8, 24, device=rgb.device)
        samples.copy_(rgb.reshape(count, blocks, 8, blocks, 24).transpose(2, 3)).sub_(LEVEL_SHIFT)
        flat = (-1, DCT_CHANNELS)
        torch.mm(samples.view(flat), self._matrix, out=out.permute(0, 2, 3, 1).view(flat))
        return out


def block_dct_on(device: torch.device, side: int) -> BlockDct | BlockDctByOneProduct:
    """The faster of the two on a device, for square images; its results lie as the model's there.

    That is contiguous on a CPU, and channels_last on CUDA.
    """
    return BlockDctByOneProduct(side, device) if device.type == "cuda" else BlockDct(side)
