"""A fast backward pass of strided depthwise convolutions with frozen weights, for bf16 on CPUs.

PyTorch's own is slow there: in EfficientNet-Lite0, four such layers take half of a training step.
The gradient of the input is a depthwise convolution of stride 1 too, of the output's gradient with
zeros inserted between its rows and columns, with the kernel rotated by 180 degrees. That is fast.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


class FastDepthwiseBackward(TorchFunctionMode):
    """While active, the `conv2d` calls that `applies` accepts get the fast backward pass.

    Outputs and gradients are the same up to the order of sums. A function mode rather than a layer,
    because backbones call `conv2d` from layers of their own (timm's `Conv2dSame`).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and applies(*args):
            x, weight, bias, stride, padding, *_ = args
            return _StridedDepthwise.apply(x, weight, bias, _pair(stride), _pair(padding))
        return func(*args, **(kwargs or {}))


def applies(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> bool:
    """Whether a `conv2d` call is a strided depthwise convolution with frozen weights on a CPU.

    True needs an x of (B, C, H, W) that requires a gradient and a weight of (C, 1, h, w).
    """
    return (
        x.device.type == "cpu"
        and x.requires_grad
        and x.ndim == 4
        and groups == weight.shape[0] == x.shape[1] > 1
        and weight.shape[1] == 1
        and max(_pair(stride)) > 1
        and _pair(dilation) == (1, 1)
        and not isinstance(padding, str)
        and all(pad < side for pad, side in zip(_pair(padding), weight.shape[2:], strict=True))
        and not weight.requires_grad
        and not (bias is not None and bias.requires_grad)
    )


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.of_input = x.shape, x.dtype
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        (batch, channels, height, width), dtype = ctx.of_input
        (pad_y, pad_x), (kernel_y, kernel_x) = ctx.padding, weight.shape[2:]
        # The output's gradient on the grid of a convolution of stride 1, zero between.
        rows, columns = height + 2 * pad_y - kernel_y + 1, width + 2 * pad_x - kernel_x + 1
        spread = gradient.new_zeros(batch, rows, columns, channels).permute(0, 3, 1, 2)
        spread[:, :, :: ctx.stride[0], :: ctx.stride[1]] = gradient
        rotated = weight.to(gradient.dtype).flip(2, 3)
        around = (kernel_y - 1 - pad_y, kernel_x - 1 - pad_x)
        of_input = F.conv2d(spread, rotated, None, 1, around, 1, channels)
        return of_input.to(dtype), None, None, None, None


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
