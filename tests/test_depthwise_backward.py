"""Gradients through frozen strided depthwise convolutions: PyTorch's own, by the fast way."""

import pytest
import timm
import torch
import torch.nn.functional as F

from afd_model.training import depthwise_backward
from afd_model.training.depthwise_backward import FastDepthwiseBackward, applies


def kernel(channels: int = 6, side: int = 3) -> torch.Tensor:
    return torch.randn(channels, 1, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("side", "stride", "padding"), [(3, 2, 1), (5, 2, 2), (5, 2, 0), (3, (2, 1), (0, 1)), (7, 4, 3)]
)
@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_the_gradient_is_autograds(
    side: int, stride: object, padding: object, size: object
) -> None:
    weight, bias = kernel(side=side).double(), torch.randn(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    outputs, gradients = [], []
    for way in (FastDepthwiseBackward(), torch.enable_grad()):
        with way:
            output = F.conv2d(x, weight, bias, stride, padding, 1, 6)
        (gradient,) = torch.autograd.grad(output.square().sum(), x)
        outputs.append(output)
        gradients.append(gradient)
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_only_strided_depthwise_convolutions_that_are_frozen_are_taken() -> None:
    x, weight = torch.randn(1, 6, 8, 8, requires_grad=True), kernel()
    assert applies(x, weight, None, 2, 1, 1, 6)
    assert applies(x, weight, torch.zeros(6), (2, 2), (1, 1), (1, 1), 6)
    assert not applies(x.detach(), weight, None, 2, 1, 1, 6)  # nobody asks for its gradient
    assert not applies(x, weight, None, 1, 1, 1, 6)
    assert not applies(x, weight, None, 2, 1, 2, 6)
    assert not applies(x, weight, None, 2, "same", 1, 6)
    assert not applies(x, weight, None, 2, 3, 1, 6)  # more padding than the turned kernel has
    assert not applies(x, kernel().requires_grad_(), None, 2, 1, 1, 6)
    assert not applies(x, weight, torch.zeros(6, requires_grad=True), 2, 1, 1, 6)
    assert not applies(x, torch.randn(12, 1, 3, 3), None, 2, 1, 1, 6)
    assert not applies(x, torch.randn(6, 6, 3, 3), None, 2, 1, 1, 1)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100"])
def test_a_whole_backbone_has_the_same_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real = depthwise_backward.applies
    monkeypatch.setattr(
        depthwise_backward, "applies", lambda *a: real(*a) and (taken.append(a), True)[1]
    )
    torch.manual_seed(0)
    backbone = timm.create_model(name).eval().requires_grad_(requires_grad=False).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    with FastDepthwiseBackward():
        logits = backbone(x)
    assert len(taken) >= 4
    (found,) = torch.autograd.grad(logits.square().sum(), x)
    (expected,) = torch.autograd.grad(backbone(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 + 1e-9 * expected.abs().max())


def test_under_autocast_the_gradient_is_near_float32s() -> None:
    x = torch.randn(2, 6, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), FastDepthwiseBackward():
        output = F.conv2d(x, kernel(), None, 2, 1, 1, 6)
    assert output.dtype == torch.bfloat16
    (found,) = torch.autograd.grad(output.float().sum(), x)
    (expected,) = torch.autograd.grad(F.conv2d(x, kernel(), None, 2, 1, 1, 6).sum(), x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
