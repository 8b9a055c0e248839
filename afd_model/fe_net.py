"""FE-Net: stem features -> the correction that is added to them, gated by the FDM.

Peng et al. 2024, section III-C: a U-Net of RepConv blocks at the stem's resolution. Not in the
paper: with `reduction` > 1 the network works at a lower resolution, between a strided and a
transposed convolution, for a tenth of the cost.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from afd_model.rep_conv import RepConv


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` for (B, C, H, W); on a CPU in channels_last, ten times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        rows = x.permute(0, 2, 3, 1)
        if x.is_cuda or x.is_contiguous() or not rows.is_contiguous():
            return super().forward(x)
        # PyTorch's kernel is not vectorised over so few channels. One row of the image, with the
        # slopes repeated W times, is long enough.
        b, h, w, c = rows.shape
        slopes = self.weight.expand(c).repeat(w)
        return F.prelu(rows.reshape(b * h, w * c), slopes).view(rows.shape).permute(0, 3, 1, 2)


class RepBlock(nn.Module):
    """RepConv and PReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, zero_init: bool = False) -> None:
        super().__init__()
        self.conv = RepConv(in_channels, out_channels, zero_init=zero_init)
        self.act = PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.act(self.conv(x))


class ResidualBlocks(nn.Sequential):
    """`count` residual RepBlocks, each of which starts as the identity."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(*(RepBlock(channels, channels, zero_init=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        for block in self:
            x = x + block(x)
        return x


class FENet(nn.Module):
    """C -> width -> 2 width -> 4 width -> 2 width -> width -> C, with skips.

    Args:
        channels: C, the stem's channels.
        width: channels of the U-Net's first level.
        reduction: 1: works at the stem's resolution, H x W. r > 1: at H/r x W/r; the first layer
            is an r x r convolution of stride r, the last one its transpose.
        depth: residual RepBlocks at the first level, before the U-Net.
        levels: downsampling steps of the U-Net (the paper: 2; 0: no U-Net).
        down_blocks: number of residual RepBlocks after each downsampling, in order; (): none.
        up_blocks: the same after each upsampling, in order (coarse to fine).
    """

    def __init__(
        self,
        channels: int,
        width: int = 16,
        reduction: int = 1,
        depth: int = 0,
        levels: int = 2,
        down_blocks: Sequence[int] = (),
        up_blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.reduction = reduction
        # Created for any reduction, so that a seed gives the weights it gave when the experiments
        # of docs/experiments.md were run; likewise `exit`.
        self.entry: nn.Module = RepBlock(channels, width)
        if reduction > 1:
            strided = nn.Conv2d(channels, width, reduction, stride=reduction)
            self.entry = nn.Sequential(strided, PReLU(width))
        self.body = nn.ModuleList(RepBlock(width, width) for _ in range(depth))
        widths = [width << level for level in range(levels + 1)]
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(RepBlock(narrow, wide) for narrow, wide in pairs)
        self.up = nn.ModuleList(RepBlock(wide, narrow) for narrow, wide in reversed(pairs))
        down_blocks, up_blocks = (tuple(n) or (0,) * levels for n in (down_blocks, up_blocks))
        self.refine_down = nn.ModuleList(map(ResidualBlocks, widths[1:], down_blocks))
        self.refine_up = nn.ModuleList(map(ResidualBlocks, reversed(widths[:-1]), up_blocks))
        # Zero weights make an untrained module the identity.
        self.exit: nn.Module = RepConv(width, channels, zero_init=True)
        if reduction > 1:
            # The FDM may gate the input of this layer; a bias would escape it.
            self.exit = nn.ConvTranspose2d(width, channels, reduction, stride=reduction, bias=False)
            nn.init.zeros_(self.exit.weight)

    def encode(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, ceil(H / reduction), ceil(W / reduction))."""
        rows, columns = features.shape[2:]
        bottom, right = -rows % self.reduction, -columns % self.reduction
        if bottom or right:
            features = F.pad(features, (0, right, 0, bottom))
        x = self.entry(features)
        for block in self.body:
            x = x + block(x)
        return self._unet(x)

    def decode(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, width, h, w) -> the correction (B, C, *size)."""
        correction = self.exit(x)
        if correction.shape[2:] == size:
            return correction
        return correction[:, :, : size[0], : size[1]]

    def forward(self, features: Tensor) -> Tensor:
        """The ungated correction: (B, C, H, W) -> (B, C, H, W)."""
        rows, columns = features.shape[2:]
        return self.decode(self.encode(features), (rows, columns))

    def _unet(self, x: Tensor) -> Tensor:
        skips = []
        for block, refine in zip(self.down, self.refine_down, strict=True):
            skips.append(x)
            x = refine(block(F.avg_pool2d(x, 2, ceil_mode=True)))
        # Convolving before upsampling costs a quarter, with the same receptive field.
        for block, refine in zip(self.up, self.refine_up, strict=True):
            skip = skips.pop()
            x = F.interpolate(block(x), size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = refine(x + skip)
        return x
