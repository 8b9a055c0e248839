"""timm's `Conv2dSame` without its padded copy, for depthwise convolutions of stride 2 on CPUs.

TensorFlow's "same" padding pads inputs of even size at the right and bottom only. PyTorch's
convolution cannot, so timm's layer copies its input into a larger tensor first. Symmetric padding
gives the same result with a kernel that has a row and a column of zeros in front.
"""

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2dSame(nn.Conv2d):
    """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)), bit for bit, but for maps one or two wide.

    Attributes:
        weight: (C, 1, k + 1, k + 1), its first row and column zero.
    """

    def __init__(self, same: nn.Conv2d) -> None:
        channels, side = same.in_channels, same.kernel_size[0]
        super().__init__(
            *(channels, channels, side + 1),
            stride=2,
            padding=(side - 1) // 2,
            groups=channels,
            bias=same.bias is not None,
            device=same.weight.device,
            dtype=same.weight.dtype,
        )
        self.weight = nn.Parameter(F.pad(same.weight.detach(), (1, 0, 1, 0)))
        self.bias = same.bias
        self.requires_grad_(requires_grad=same.weight.requires_grad).train(same.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        # For odd sizes "same" padding is symmetric, so the zeros are left out.
        weight = self.weight[:, :, x.shape[2] % 2 :, x.shape[3] % 2 :]
        return F.conv2d(x, weight, self.bias, 2, self.padding, 1, self.groups)


def replace_conv2d_same(model: nn.Module) -> int:
    """Replaces timm's depthwise `Conv2dSame` of stride 2, in place; returns their number."""
    replaced = 0
    for name, child in model.named_children():
        if _applies(child):
            setattr(model, name, DepthwiseConv2dSame(child))
            replaced += 1
        else:
            replaced += replace_conv2d_same(child)
    return replaced


def _applies(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    # By name: importing timm takes a second, and only its models contain this layer.
    return (
        type(module).__name__ == "Conv2dSame"
        and isinstance(module, nn.Conv2d)
        and module.in_channels == module.out_channels == module.groups > 1
        and module.stride == (2, 2)
        and module.dilation == (1, 1)
        and module.kernel_size[0] == module.kernel_size[1]
        and module.kernel_size[0] in (3, 5, 7)
    )
