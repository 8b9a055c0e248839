"""The 8x8 block DCT of the model's input as matrix products, for the CPU and for CUDA.

DALI has no such operator. Two passes of its `fn.mfcc` are exact, but take seven times as long on a
CPU and ten times on a GPU. Both classes are tested against `afd_model.dct.block_dct`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afd_model.dct import DCT_CHANNELS, JFIF_RGB_TO_YCBCR, ZIGZAG, dct_basis

LEVEL_SHIFT = 128.0
_IMAGES_AT_A_TIME = 4  # the intermediate results of four 224x224 images fit into an L2 cache


class BlockDct:
    """The transform for square images of one size on a CPU; reuses its buffers.

    It is separable. The 8 pixels x 3 channels of a block's row are contiguous in memory, so one
    (24, 24) matrix does both the colour conversion and the horizontal DCT; the vertical DCT is an
    (8, 8) matrix on the rows. ITU-T T.81 A.3.3; colour: ITU-T T.871.
    """

    def __init__(self, side: int) -> None:
        self._side, self._blocks = side, side // 8
        n, blocks = _IMAGES_AT_A_TIME, self._blocks
        basis = dct_basis()  # (frequency, sample)
        colour = torch.tensor(JFIF_RGB_TO_YCBCR, dtype=torch.float64)  # (component, channel)
        row = torch.einsum("ux,kc->kuxc", basis, colour).reshape(24, 24)
        self._row = row.float()  # (component * frequency, sample * channel)
        self._column = basis.float()
        channel = torch.tensor(
            [
                (place // 8) * 24 + component * 8 + place % 8
                for component in range(3)
                for place in ZIGZAG
            ]
        )
        # Row (image, channel, block row) of the result is row (image, block row, source channel) of
        # the transformed columns. Each row is contiguous: one value per block column.
        of_image = DCT_CHANNELS * blocks * torch.arange(n)[:, None, None]
        of_block_row = DCT_CHANNELS * torch.arange(blocks)
        self._source_row = (of_image + channel[:, None] + of_block_row).flatten()
        self._pixels = torch.empty(n * side, blocks, 24)
        self._rows = torch.empty(n * side, 24, blocks)
        self._columns = torch.empty(n * blocks, 8, 24 * blocks)

    def __call__(self, rgb: Tensor, out: Tensor | None = None) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 192, side/8, side/8) float32.

        out: written to, and returned. A new tensor doubles the time, because of page faults.
        """
        if out is None:
            out = torch.empty(len(rgb), DCT_CHANNELS, self._blocks, self._blocks)
        for start in range(0, len(rgb), _IMAGES_AT_A_TIME):
            self._transform(rgb[start : start + _IMAGES_AT_A_TIME], out[start:])
        return out

    def _transform(self, rgb: Tensor, out: Tensor) -> None:
        n, blocks = len(rgb), self._blocks
        num_rows, num_block_rows = n * self._side, n * blocks
        # Luma's level shift: an equal shift of R, G and B shifts luma by as much, and chroma not at
        # all. It comes first, so that the sums that follow stay small and exact.
        pixels = self._pixels[:num_rows].copy_(rgb.reshape(num_rows, blocks, 24)).sub_(LEVEL_SHIFT)
        rows = torch.bmm(
            self._row.expand(num_rows, 24, 24), pixels.transpose(1, 2), out=self._rows[:num_rows]
        )
        columns = torch.bmm(
            self._column.expand(num_block_rows, 8, 8),
            rows.view(num_block_rows, 8, 24 * blocks),
            out=self._columns[:num_block_rows],
        )
        source_row = self._source_row[: n * DCT_CHANNELS * blocks]
        result = out[:n].view(-1, blocks)
        torch.index_select(columns.view(-1, blocks), 0, source_row, out=result)


class BlockDctByOneProduct:
    """The same as one (192, 192) product per block: more arithmetic, but fewer passes over memory.

    This is faster on a GPU, where memory is the bottleneck. Works on any device.
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
