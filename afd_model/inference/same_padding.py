"""TensorFlow's "same" padding without a padded copy, for depthwise convolutions of stride 2.

On a picture with even sides it pads right and below only, which PyTorch's convolution cannot, so
timm's `Conv2dSame` copies the features into a larger tensor first. The same sums come from equal
padding on both sides and a kernel with a row and a column of zeros before it.
"""

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional as F


class SamePaddedDepthwise(nn.Conv2d):
    """What `Conv2dSame` computes, to the last bit: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    weight: (C, 1, k + 1, k + 1), the first row and column 0.
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
        # On odd sides the padding is equal, and the zeros would shift it.
        weight = self.weight[:, :, x.shape[2] % 2 :, x.shape[3] % 2 :]
        return F.conv2d(x, weight, self.bias, 2, self.padding, 1, self.groups)


def inline_same_padding(model: nn.Module) -> int:
    """Replaces timm's depthwise `Conv2dSame` of stride 2 below `model`, in place; how many."""
    replaced = 0
    for name, child in model.named_children():
        if _applies(child):
            setattr(model, name, SamePaddedDepthwise(child))
            replaced += 1
        else:
            replaced += inline_same_padding(child)
    return replaced


def _applies(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    # By its name: importing timm takes a second, and nobody else's model holds such a layer.
    return (
        type(module).__name__ == "Conv2dSame"
        and isinstance(module, nn.Conv2d)
        and module.in_channels == module.out_channels == module.groups > 1
        and module.stride == (2, 2)
        and module.dilation == (1, 1)
        and module.kernel_size[0] == module.kernel_size[1]
        and module.kernel_size[0] in (3, 5, 7)
    )
