"""RepConv's fusion, borders included."""

import pytest
import torch
from torch import nn

from afd_model.rep_conv import RepConv, fuse_rep_convs


def random_rep_conv(in_channels: int, out_channels: int, seed: int = 0) -> RepConv:
    torch.manual_seed(seed)
    module = RepConv(in_channels, out_channels).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize(("in_channels", "out_channels"), [(5, 7), (16, 16), (3, 1)])
def test_fused_equals_the_branches_everywhere(in_channels: int, out_channels: int) -> None:
    module = random_rep_conv(in_channels, out_channels)
    x = torch.randn(2, in_channels, 9, 6, dtype=torch.float64)
    expected = module.branches(x)
    fused = module.fuse()
    assert type(fused) is nn.Conv2d
    assert (fused(x) - expected).abs().max() <= 1e-10
    assert (module(x) - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fused_in_half_precision(dtype: torch.dtype) -> None:
    module = random_rep_conv(16, 16)
    x = torch.randn(2, 16, 12, 12, dtype=torch.float64).to(dtype)
    expected = module.branches(x.double())
    found = module.fuse().to(dtype)(x).double()
    assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()


def test_gradients_are_the_branches_gradients() -> None:
    module = random_rep_conv(4, 3)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    parameters = list(module.parameters())
    by_branch = torch.autograd.grad(module.branches(x).square().sum(), parameters)
    by_kernel = torch.autograd.grad(module(x).square().sum(), parameters)
    for expected, found in zip(by_branch, by_kernel, strict=True):
        torch.testing.assert_close(found, expected)


def test_zero_init_is_the_zero_map_and_can_learn() -> None:
    module = RepConv(4, 3, zero_init=True)
    out = module(torch.randn(1, 4, 6, 6))
    assert not out.any()
    (out - 1).square().sum().backward()
    assert all(
        layer.weight.grad is not None and layer.weight.grad.any()
        for layer in (module.expand_3x3, module.squeeze, module.point)
    )


def test_fusing_replaces_nested_modules() -> None:
    model = nn.Sequential(RepConv(3, 4), nn.Sequential(nn.ReLU(), RepConv(4, 2)))
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    fuse_rep_convs(model)
    assert not any(isinstance(m, RepConv) for m in model.modules())
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
