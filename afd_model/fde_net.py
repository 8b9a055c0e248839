"""FDE-Net: DCT coefficients -> Feature Drifting Map (FDM), in (0, 1).

Peng et al. 2024, section III-B: JPEG quantizes DCT coefficients, so the coefficients tell where and
in which channels the features drift.
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

# Centres log(1 + |coefficient|), roughly: its mean over 200 ImageNet photographs at 224 pixels is
# 0.9. Checkpoints were trained with this number and do not hold it.
_MEAN_LOG = 1.5


def log_magnitude(dct: Tensor, dtype: torch.dtype) -> Tensor:
    """log(1 + |x|), computed in the input's dtype and returned as `dtype`."""
    return dct.abs().log1p_().to(dtype)


def dct_scale() -> Tensor:
    """The typical magnitude of each DCT coefficient in photographs at a classifier's input size.

    Like the spectrum of photographs, a power law in the spatial frequency, with separate values for
    DC. It only standardises FDE-Net's input, whose channels otherwise span three decades. How its
    numbers were fitted was not recorded; over 200 ImageNet photographs at 224 pixels, the root mean
    squares of the coefficients are 0.3 to 1.2 of it. Checkpoints were trained with these numbers
    and do not hold them.

    Returns:
        (192,) float32, on the scale of JPEG's quantization tables.
    """
    index = torch.tensor(ZIGZAG)
    frequency = torch.hypot((index // 8).float(), (index % 8).float())
    luma = torch.where(frequency == 0, 490.0, 95.0 / frequency.clamp(min=1) ** 1.2)
    chroma = torch.where(frequency == 0, 130.0, 22.0 / frequency.clamp(min=1) ** 1.2)
    return torch.cat([luma, chroma, chroma])


class FDENet(nn.Module):
    """Two 1x1 convolutions with a ReLU between them on the standardised DCT, then a sigmoid.

    Args:
        channels: of the features that the FDM gates.
        hidden: output channels of the first convolution (the paper: 128).
        kind: shape of the FDM before the sigmoid. "channel": one value per channel, from the mean
            over the image (the authors' released code); "spatial": one per position (the paper's
            text); "both": the sum of these two; "full": one per channel and position;
            "full+channel": the sum of "full" and "channel", since no block alone shows how
            strongly the image was compressed.
        dct_input: "linear": coefficients divided by their typical magnitude (the paper); "log":
            log(1 + |coefficient|), on which the zeros that coarse quantization leaves stand out.

    Attributes:
        log_magnitude: implementation of the logarithm; `cpu_kernels` has a faster one.
        fused_gate: implementation of `gate` in one pass, (this net, dct) -> the FDM; None: in
            separate steps.
        preprocesses: whether `forward` takes DCT coefficients; if False, it takes the result of
            `preprocess`, for compiled models whose own logarithm is slow.
    """

    inverse_scale: Tensor
    log_magnitude: Callable[[Tensor, torch.dtype], Tensor] = staticmethod(log_magnitude)
    fused_gate: Callable[["FDENet", Tensor], Tensor] | None = None

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
        self.preprocesses = True

    def preprocess(self, dct: Tensor) -> Tensor:
        """The input of the first convolution, in its dtype: coefficients, or their logarithms."""
        dtype = self.hidden.weight.dtype
        return self.log_magnitude(dct, dtype) if self.dct_input == "log" else dct.to(dtype)

    def forward(self, dct: Tensor, like: Tensor) -> Tensor:
        """The FDM at the resolution of the features.

        Args:
            dct: as for `gate`.
            like: (B, C, H, W): gives the FDM's height, width, dtype and memory format.

        Returns:
            In (0, 1): (B, channels, 1, 1) for "channel", (B, 1, H, W) for "spatial",
            (B, channels, H, W) otherwise.
        """
        gate = self.gate(dct).to(dtype=like.dtype)
        if self.local is None:
            return gate
        if _is_channels_last(like):
            gate = gate.contiguous(memory_format=torch.channels_last)
        return _resized(gate, (like.shape[2], like.shape[3]))

    def gate(self, dct: Tensor) -> Tensor:
        """The FDM at the resolution of the DCT: at stride 2, a sixteenth of the stem's positions.

        Args:
            dct: (B, 192, H/8, W/8) as `block_dct` gives it, any floating dtype; the logarithm is
                computed in that dtype.

        Returns:
            In (0, 1): (B, channels, 1, 1) for "channel", (B, 1, H/8, W/8) for "spatial",
            (B, channels, H/8, W/8) otherwise.
        """
        if self.fused_gate is not None:
            return self.fused_gate(self, dct)
        hidden = self._hidden(dct)
        # Pooling and a 1x1 convolution commute. Pooling first leaves one position of 28 x 28.
        gate = self.pooled(hidden.mean((2, 3), keepdim=True)) if self.pooled else None
        if self.local is not None:
            local = _pointwise(hidden, self.local.weight, self.local.bias)
            gate = local if gate is None else local + gate
        assert gate is not None
        return torch.sigmoid(gate)

    def _hidden(self, dct: Tensor) -> Tensor:
        """(B, 192, h, w) -> (B, hidden, h, w)."""
        weight, bias = self.standardised_hidden()
        if self.preprocesses:
            dct = self.preprocess(dct)
        return F.relu(_pointwise(dct, weight, bias))

    def standardised_hidden(self) -> tuple[Tensor, Tensor]:
        """The first convolution's weight and bias, with the standardisation of its input folded in.

        This saves a pass over the coefficients.
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
        weight, bias = self.standardised_hidden()
        assert self.hidden.bias is not None
        self.hidden.weight.copy_(weight)
        self.hidden.bias.copy_(bias)
        self.fused = True


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution: (B, in, H, W), (out, in, 1, 1), (out,) -> (B, out, H, W)."""
    assert bias is not None
    if x.is_cuda or not x.is_contiguous():
        return F.conv2d(x, weight, bias)
    # On a CPU, with few output channels, a matrix product takes a quarter of a convolution's time.
    kernel = weight.flatten(1).expand(x.shape[0], -1, -1)
    return torch.baddbmm(bias[:, None], kernel, x.flatten(2)).unflatten(2, x.shape[2:])


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
