"""FDE-Net: DCT coefficients -> Feature Drifting Map (FDM), in (0, 1).

Peng et al. 2024, section III-B: quantization acts on DCT coefficients, so they say where and in
which channels the features drift.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afd_model.dct import DCT_CHANNELS, ZIGZAG

FDMKind = Literal["channel", "spatial", "both", "full", "full+channel"]
FDM_KINDS: tuple[str, ...] = get_args(FDMKind)
DCTInput = Literal["linear", "log"]
DCT_INPUTS: tuple[str, ...] = get_args(DCTInput)

# About the mean of log(1 + |coefficient|) over the 192 channels of photographs.
_MEAN_LOG = 1.5


def log_magnitude(dct: Tensor, dtype: torch.dtype) -> Tensor:
    """log(1 + |x|), computed in the input's dtype, as `dtype`."""
    return dct.abs().log1p_().to(dtype)


def dct_scale() -> Tensor:
    """About the size of the larger DCT coefficients of photographs at a classifier's input size.

    A power law in the spatial frequency, which is how photographs fall off; the DC terms'
    spread is set apart. It only conditions the first layer's input, which is otherwise spread
    over three decades: the coefficients' mean sizes are 0.1 to 1.1 of it.

    Returns:
        (192,) float32, on the scale of JPEG's quantization tables.
    """
    place = torch.tensor(ZIGZAG)
    radius = torch.hypot((place // 8).float(), (place % 8).float())
    luma = torch.where(radius == 0, 490.0, 95.0 / radius.clamp(min=1) ** 1.2)
    chroma = torch.where(radius == 0, 130.0, 22.0 / radius.clamp(min=1) ** 1.2)
    return torch.cat([luma, chroma, chroma])


class FDENet(nn.Module):
    """Two 1x1 convolutions on the standardised DCT, then the map.

    Args:
        channels: how many channels the map gates.
        hidden: the width between the two convolutions (the paper: 128).
        kind: "channel": one gate a channel, averaged over the image (the authors' released code);
            "spatial": one gate a position (the paper's text); "both": the sigmoid of their sum;
            "full": its own gate for every channel and position; "full+channel": the sigmoid of
            that and the image's gate summed, since how strongly a picture was compressed shows
            in no block alone.
        dct_input: "linear": the coefficients over their typical size (the paper's); "log":
            log(1 + |coefficient|), since a coarsely quantized block shows in which coefficients
            are nearly 0, a matter of ratios.

    Attributes:
        log_magnitude: how the logarithms are taken; see the function of that name.
        hidden_of_logs: the logarithms, the first convolution and its ReLU in one pass, given the
            coefficients and its weight and bias; None: in steps.
    """

    inverse_scale: Tensor
    log_magnitude: Callable[[Tensor, torch.dtype], Tensor] = staticmethod(log_magnitude)
    hidden_of_logs: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __init__(
        self,
        channels: int,
        hidden: int = 128,
        kind: FDMKind = "both",
        dct_input: DCTInput = "linear",
    ) -> None:
        super().__init__()
        self.dct_input = dct_input
        self.hidden = nn.Conv2d(DCT_CHANNELS, hidden, 1)
        pooled = channels if "channel" in kind or kind == "both" else 0
        local = {"channel": 0, "spatial": 1, "both": 1}.get(kind, channels)
        self.pooled = nn.Conv2d(hidden, pooled, 1) if pooled else None
        self.local = nn.Conv2d(hidden, local, 1) if local else None
        self.register_buffer("inverse_scale", 1 / dct_scale(), persistent=False)
        self.fused = False
        self.prepares = True

    def prepared(self, dct: Tensor) -> Tensor:
        """What is taken of the coefficients before any weight: their logarithms, or themselves.

        With `prepares` off, `forward` is given this instead: a compiled model, whose own logarithm
        may be a slow one.
        """
        dtype = self.hidden.weight.dtype
        return self.log_magnitude(dct, dtype) if self.dct_input == "log" else dct.to(dtype)

    def forward(self, dct: Tensor, like: Tensor) -> Tensor:
        """The map for the features that it gates.

        Args:
            dct: as for `gate`.
            like: (B, channels, h, w), those features, or others of their grid, dtype and layout.

        Returns:
            In (0, 1), in `like`'s dtype, broadcastable against it: (B, channels, 1, 1) for
            "channel", (B, 1, h, w) for "spatial", the full shape otherwise.
        """
        gate = self.gate(dct).to(dtype=like.dtype)
        if self.local is None:
            return gate
        if _is_channels_last(like):
            gate = gate.contiguous(memory_format=torch.channels_last)
        return _resized(gate, (like.shape[2], like.shape[3]))

    def gate(self, dct: Tensor) -> Tensor:
        """The map on the DCT's grid, which is a sixteenth of the features'.

        Args:
            dct: (B, 192, H/8, W/8) as `block_dct` gives it, any floating dtype; what is computed
                before the first convolution is computed in it.

        Returns:
            In (0, 1): (B, channels, 1, 1) for "channel", (B, 1, H/8, W/8) for "spatial",
            (B, channels, H/8, W/8) otherwise.
        """
        hidden = self._hidden(dct)
        # The mean of a linear map is the map of the mean: pool first, it is 784 times less.
        gate = self.pooled(hidden.mean((2, 3), keepdim=True)) if self.pooled else None
        if self.local is not None:
            local = _pointwise(hidden, self.local.weight, self.local.bias)
            gate = local if gate is None else local + gate
        assert gate is not None
        return torch.sigmoid(gate)

    def _hidden(self, dct: Tensor) -> Tensor:
        """(B, 192, h, w) -> (B, hidden, h, w)."""
        weight, bias = self._standardised()
        if self.prepares:
            if self.dct_input == "log" and self.hidden_of_logs is not None:
                return self.hidden_of_logs(dct, weight, bias)
            dct = self.prepared(dct)
        return F.relu(_pointwise(dct, weight, bias))

    def _standardised(self) -> tuple[Tensor, Tensor]:
        """The first convolution's weight and bias with its input's standardisation in them.

        It saves a pass over the coefficients.
        """
        weight, bias = self.hidden.weight, self.hidden.bias
        assert bias is not None
        if self.fused:
            return weight, bias
        if self.dct_input == "log":
            return weight, bias - _MEAN_LOG * weight.sum((1, 2, 3))
        return weight * self.inverse_scale[:, None, None], bias

    @torch.no_grad()
    def fuse(self) -> None:
        """Folds the standardisation into the first convolution, in place."""
        weight, bias = self._standardised()
        assert self.hidden.bias is not None
        self.hidden.weight.copy_(weight)
        self.hidden.bias.copy_(bias)
        self.fused = True


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution: (B, in, H, W), (out, in, 1, 1), (out,) -> (B, out, H, W)."""
    assert bias is not None
    if x.is_cuda or not x.is_contiguous():
        return F.conv2d(x, weight, bias)
    # As a product of matrices it takes a quarter of the time that a CPU's convolution to a few
    # channels does.
    kernel = weight.flatten(1).expand(x.shape[0], -1, -1)
    return torch.baddbmm(bias[:, None], kernel, x.flatten(2)).unflatten(2, x.shape[2:])


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
