"""RepConv: three linear branches in training, one 3x3 convolution in use.

Peng et al. 2024, section III-C (after RepVGG, arXiv 2101.03697): the sum of 1x1 -> 3x3,
3x3 -> 1x1 and 1x1. All three are linear, so their sum is one 3x3 convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RepConv(nn.Module):
    """A 3x3 convolution (stride 1, zero padding 1) over-parameterised by three branches.

    The forward pass composes the branches' kernels and convolves once, so training costs one
    convolution as well; `branches` is the definition it is tested against. The leading 1x1 of the
    first branch has no bias: the 3x3's zero padding would hide it on the border, where the fused
    kernel could not follow, and the 3x3's own bias can express it everywhere else.

    Args:
        in_channels, out_channels: as in `torch.nn.Conv2d`.
        zero_init: start as the zero map, with gradients that do not vanish.
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
        """The three branches one by one: (B, in, H, W) -> (B, out, H, W)."""
        first = self.expand_3x3(self.expand(x))
        second = self.squeeze(self.squeeze_3x3(x))
        return first + second + self.point(x)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """The equal 3x3 kernel (out, in, 3, 3) and bias (out,), differentiable, at full dtype."""
        # Autocast would compose the kernel in half precision and lose what fusion promises.
        with torch.autocast(self.point.weight.device.type, enabled=False):
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
        """The one convolution that equals this module, for use without training."""
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
