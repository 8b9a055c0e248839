"""TensorFlow's padding without its copy: timm's own result."""

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from afd_model.inference.conv2d_same import DepthwiseConv2dSame, replace_conv2d_same
from afd_model.training.depthwise_backward import FastDepthwiseBackward


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("size", [(16, 16), (15, 16), (16, 13), (7, 7), (8, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_timms_padding(side: int, size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    same = Conv2dSame(6, 6, side, stride=2, groups=6, bias=bias).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(DepthwiseConv2dSame(same)(x), same(x), rtol=0, atol=1e-14)


def test_only_depthwise_layers_of_stride_two_are_replaced() -> None:
    layers = nn.Sequential(
        Conv2dSame(6, 6, 3, stride=2, groups=6),
        Conv2dSame(6, 6, 3, stride=1, groups=6),
        Conv2dSame(6, 12, 3, stride=2),
        Conv2dSame(6, 6, 1, stride=2, groups=6),
        Conv2dSame(6, 6, 4, stride=2, groups=6),
        nn.Conv2d(6, 6, 3, stride=2, groups=6),
    )
    assert replace_conv2d_same(layers) == 1
    assert isinstance(layers[0], DepthwiseConv2dSame)


def test_a_whole_backbone_gives_the_same_logits_and_gradients() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("tf_efficientnet_lite0").eval().double()
    backbone.requires_grad_(requires_grad=False)
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    expected = backbone(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    assert replace_conv2d_same(backbone) == 4
    assert not any(p.requires_grad for p in backbone.parameters())
    with FastDepthwiseBackward():
        found = backbone(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9 * scale)
