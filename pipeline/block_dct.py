"""The 8x8 block DCT of the model's input on the CPU, fast: colour and two 1-D passes as matrices.

DALI has an exact route too (`fn.mfcc`, see `pipeline.decode`), but on a CPU it costs seven times
as much. `afd_model.dct.block_dct` is the reference both are tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afd_model.dct import DCT_CHANNELS, JFIF_RGB_TO_YCBCR, ZIGZAG, dct_basis

LEVEL_SHIFT = 128.0
_IMAGES_AT_A_TIME = 4  # the intermediates of four 224x224 images stay in a core's L2 cache


class BlockDct:
    """The transform for square images of one size; keeps its intermediate buffers.

    Separable: the colour matrix and the horizontal DCT act on the 8 pixels x 3 channels of a
    block's row, which lie side by side in memory, so one (24, 24) matrix does both; the vertical
    DCT is an (8, 8) matrix on rows. ITU-T T.81 A.3.3, colour ITU-T T.871.
    """

    def __init__(self, side: int) -> None:
        self._side, self._blocks = side, side // 8
        basis = dct_basis()  # (frequency, sample)
        colour = torch.tensor(JFIF_RGB_TO_YCBCR, dtype=torch.float64)  # (component, channel)
        row = torch.einsum("vx,kc->xckv", basis, colour).reshape(24, 24)
        self._row = row.float().contiguous()  # (x * channel, component * frequency)
        self._column = basis.float()
        self._order = torch.tensor(
            [
                (index // 8) * 24 + component * 8 + index % 8
                for component in range(3)
                for index in ZIGZAG
            ]
        )
        n, blocks = _IMAGES_AT_A_TIME, self._blocks
        self._floats = torch.empty(n * side * blocks, 24)
        self._rows = torch.empty(n * side * blocks, 24)
        self._columns = torch.empty(n * blocks, 8, blocks * 24)
        self._planes = torch.empty(n, 8, 24, blocks, blocks)

    def __call__(self, rgb: Tensor) -> Tensor:
        """rgb: (B, side, side, 3) uint8 -> (B, 192, side/8, side/8) float32."""
        blocks = self._blocks
        dct = torch.empty(len(rgb), DCT_CHANNELS, blocks, blocks)
        for start in range(0, len(rgb), _IMAGES_AT_A_TIME):
            self._transform(rgb[start : start + _IMAGES_AT_A_TIME], dct[start:])
        return dct

    def _transform(self, rgb: Tensor, out: Tensor) -> None:
        n, side, blocks = len(rgb), self._side, self._blocks
        # A gray shift moves luma by as much and chroma not at all: it is luma's level shift, made
        # first so that the sums that follow stay small and exact.
        floats = self._floats[: n * side * blocks].copy_(rgb.reshape(-1, 24)).sub_(LEVEL_SHIFT)
        rows = torch.mm(floats, self._row, out=self._rows[: n * side * blocks])
        columns = torch.bmm(
            self._column.expand(n * blocks, 8, 8),
            rows.view(n * blocks, 8, blocks * 24),
            out=self._columns[: n * blocks],
        )
        spectra = columns.view(n, blocks, 8, blocks, 24)  # (image, row, v-freq, column, k * u-freq)
        planes = self._planes[:n].copy_(spectra.permute(0, 2, 4, 1, 3))
        torch.index_select(
            planes.view(n, DCT_CHANNELS, blocks, blocks), 1, self._order, out=out[:n]
        )


def order_mfcc_spectra(spectra: Tensor, side: int) -> Tensor:
    """The DALI graph's spectra in the order of the contract.

    spectra: (B, blocks * 8 * blocks, 8, 3), as two `fn.mfcc` passes leave them:
    (block row, vertical frequency, block column), horizontal frequency, component.
    Returns (B, 192, side/8, side/8) float32 on the same device.
    """
    blocks = side // 8
    planes = spectra.view(-1, blocks, 8, blocks, 8, 3).permute(0, 5, 2, 4, 1, 3)
    zigzag = torch.tensor(ZIGZAG, device=spectra.device)
    dct = planes.reshape(-1, 3, 64, blocks, blocks)[:, :, zigzag]
    return dct.reshape(-1, DCT_CHANNELS, blocks, blocks)
