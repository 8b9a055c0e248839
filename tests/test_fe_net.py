"""FE-Net: zero at the start, any grid, exact when fused."""

from typing import Any

import pytest
import torch

from afd_model.fe_net import FENet, PReLU
from afd_model.rep_conv import fuse_rep_convs

SHAPES = [
    {"reduction": 1, "levels": 2, "depth": 0},
    {"reduction": 4, "levels": 0, "depth": 2},
    {"reduction": 2, "levels": 1, "depth": 1},
    {"levels": 2, "down_blocks": (1, 2), "up_blocks": (2, 0)},
]


def trained(net: FENet) -> FENet:
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.double()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_untrained_net_corrects_nothing(shape: dict[str, Any]) -> None:
    assert not FENet(6, width=4, **shape)(torch.randn(1, 6, 16, 16)).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(16, 16), (13, 18), (7, 5)])
def test_any_grid_and_exact_fusion(shape: dict[str, Any], size: tuple[int, int]) -> None:
    net = trained(FENet(6, width=4, **shape))
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = net(x)
    assert expected.shape == x.shape
    assert expected.abs().max() > 1e-3
    fuse_rep_convs(net)
    assert (net(x) - expected).abs().max() <= 1e-10


def test_the_coarse_grid_keeps_the_phases_of_a_block_apart() -> None:
    net = trained(FENet(3, width=8, reduction=4, levels=0, depth=0))
    correction = net(torch.ones(1, 3, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(correction[:, :, :4, :4], correction[:, :, 4:, 4:])
    assert correction[0, 0, :4, :4].std() > 1e-3


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_prelu_is_pytorchs_in_every_layout(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    own, reference = PReLU(6), torch.nn.PReLU(6)
    torch.nn.init.normal_(own.weight)
    reference.load_state_dict(own.state_dict())
    x = torch.randn(2, 6, 5, 7).to(memory_format=layout).requires_grad_()
    for module in (own.to(dtype), reference.to(dtype)):
        x.grad = None
        module(x.to(dtype)).square().sum().backward()
        module.seen = (module(x.to(dtype)), x.grad, module.weight.grad)
    for found, expected in zip(own.seen, reference.seen, strict=True):
        torch.testing.assert_close(found, expected)
    assert own(x.to(dtype)).is_contiguous(memory_format=layout)
