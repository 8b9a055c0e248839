"""RepConv: three linear branches in training, one 3x3 convolution in use.

Peng et al. 2024, section III-C, after RepVGG (arXiv 2101.03697): the sum of 1x1 -> 3x3, 3x3 -> 1x1
and 1x1. All three are linear, so their sum is one 3x3 convolution.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RepConv(nn.Module):
    """A 3x3 convolution (stride 1, zero padding 1) over-parameterised by three branches.

    `forward` composes the branches' kernels and convolves once, so training costs one convolution
    too; `branches` is the definition that it is tested against. The leading 1x1 of the first branch
    has no bias: zero padding comes after it, so that its bias would be missing in the padding, and
    no single 3x3 convolution could reproduce that at the border. Elsewhere the bias of the 3x3
    expresses the same.

    Args:
        in_channels, out_channels: as in `torch.nn.Conv2d`.
        zero_init: start as the zero map. The layers before the last ones are not zero, so that
            gradients reach the weights.
    """

    def __init__(self, in_channels: int, out_channels: int, *, zero_init: bool = False) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.expand_3x3 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.squeeze_3x3 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.squeeze = nn.Conv2d(out_channels, out_channels, 1)
        self.point = nn.Conv2d(in_channels, out_channels, 1)
        if zero_init:
            for last in (self.expand_3x3, self.squeeze, self.point):
                nn.init.zeros_(last.weight)
            for biased in (self.expand_3x3, self.squeeze_3x3, self.squeeze, self.point):
                nn.init.zeros_(_bias(biased))

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the three branches, one by one: (B, in, H, W) -> (B, out, H, W)."""
        first = self.expand_3x3(self.expand(x))
        second = self.squeeze(self.squeeze_3x3(x))
        return first + second + self.point(x)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """The equivalent 3x3 kernel (out, in, 3, 3) and bias (out,), in the weights' dtype.

        Differentiable.
        """
        # Autocast would compose the kernel in half precision, and fusing would not be exact. It
        # knows no "meta" device, where a forward pass gives shapes.
        device = self.point.weight.device.type
        with torch.autocast(device, enabled=False) if device != "meta" else nullcontext():
            first = torch.einsum(
                "omyx,mi->oiyx", self.expand_3x3.weight, self.expand.weight[:, :, 0, 0]
            )
            squeeze = self.squeeze.weight[:, :, 0, 0]
            second = torch.einsum("om,miyx->oiyx", squeeze, self.squeeze_3x3.weight)
            weight = first + second + F.pad(self.point.weight, (1, 1, 1, 1))
            bias = squeeze @ _bias(self.squeeze_3x3)
            for last in (self.expand_3x3, self.squeeze, self.point):
                bias = bias + _bias(last)
            return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        weight, bias = self.kernel()
        return F.conv2d(x, weight, bias, padding=1)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The equivalent `nn.Conv2d`, for inference."""
        weight, bias = self.kernel()
        out_channels, in_channels = weight.shape[:2]
        fused = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        fused = fused.to(device=weight.device, dtype=weight.dtype)
        fused.weight.copy_(weight)
        _bias(fused).copy_(bias)
        return fused.train(self.training)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def fuse_rep_convs(module: nn.Module) -> None:
    """Replaces every `RepConv` below `module` by its fused convolution, in place."""
    for name, child in module.named_children():
        if isinstance(child, RepConv):
            setattr(module, name, child.fuse())
        else:
            fuse_rep_convs(child)
