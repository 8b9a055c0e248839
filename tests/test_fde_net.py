"""FDE-Net: the map's shape, range and meaning."""

import pytest
import torch

from afd_model.fde_net import DCT_INPUTS, FDM_KINDS, FDENet

SHAPES = {
    "channel": (2, 6, 1, 1),
    "spatial": (2, 1, 9, 12),
    "both": (2, 6, 9, 12),
    "full": (2, 6, 9, 12),
    "full+channel": (2, 6, 9, 12),
}


def grid(rows: int, columns: int) -> torch.Tensor:
    return torch.empty(2, 6, rows, columns)


def random_dct(scale: float = 30.0) -> torch.Tensor:
    return torch.randn(2, 192, 4, 6, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.parametrize("dct_input", DCT_INPUTS)
@pytest.mark.parametrize("kind", FDM_KINDS)
def test_shape_and_range(kind: str, dct_input: str) -> None:
    fdm = FDENet(6, 8, kind, dct_input)(random_dct(), grid(9, 12))
    assert fdm.shape == SHAPES[kind]
    assert fdm.min() > 0
    assert fdm.max() < 1


@pytest.mark.parametrize("kind", FDM_KINDS)
def test_the_map_does_not_depend_on_the_inputs_layout(kind: str) -> None:
    net, dct = FDENet(6, 8, kind), random_dct()
    laid_out_otherwise = dct.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(laid_out_otherwise, grid(9, 12)), net(dct, grid(9, 12)))


@pytest.mark.parametrize("dct_input", DCT_INPUTS)
@pytest.mark.parametrize("kind", FDM_KINDS)
def test_fused_is_the_same_map(kind: str, dct_input: str) -> None:
    net = FDENet(6, 8, kind, dct_input).double()
    dct = random_dct().double()
    like = grid(9, 12).double()
    expected = net(dct, like)
    net.fuse()
    net.fuse()
    torch.testing.assert_close(net(dct, like), expected)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_map_is_of_the_dtype_and_layout_of_what_it_gates(layout: torch.memory_format) -> None:
    net = FDENet(6, 8, "full+channel")
    like = grid(8, 12).to(dtype=torch.bfloat16, memory_format=layout)
    fdm = net(random_dct(), like)
    assert fdm.dtype == torch.bfloat16
    assert fdm.is_contiguous(memory_format=layout)
    torch.testing.assert_close(fdm.float(), net(random_dct(), grid(8, 12)), rtol=0.02, atol=0.02)


def test_the_channel_gate_ignores_where_and_the_spatial_map_does_not() -> None:
    dct = random_dct()
    moved = dct.flip(3)
    channel = FDENet(6, hidden=8, kind="channel")
    torch.testing.assert_close(channel(moved, grid(4, 6)), channel(dct, grid(4, 6)))
    spatial = FDENet(6, hidden=8, kind="spatial")
    torch.testing.assert_close(spatial(moved, grid(4, 6)), spatial(dct, grid(4, 6)).flip(3))
    assert not torch.allclose(spatial(moved, grid(4, 6)), spatial(dct, grid(4, 6)))


def test_the_input_of_a_photograph_is_standardised() -> None:
    data = pytest.importorskip("skimage.data")
    from afd_model.dct import block_dct

    photos = [data.astronaut(), data.chelsea()[:296, :448], data.coffee()]
    spreads = []
    for photo in photos:
        dct = block_dct(torch.from_numpy(photo).permute(2, 0, 1)[None].float())
        spreads.append((dct[0] * FDENet(4).inverse_scale[:, None, None]).std((1, 2)))
    spread = torch.stack(spreads).mean(0)
    # Raw, the same figure runs over three decades.
    assert spread.max() / spread.min() < 30
    assert 0.1 < spread.median() < 10


def test_the_logarithm_sees_a_coefficients_size_alone() -> None:
    dct = random_dct()
    net = FDENet(6, hidden=8, dct_input="log")
    torch.testing.assert_close(net(-dct, grid(4, 6)), net(dct, grid(4, 6)))
    assert not torch.allclose(net(dct / 4, grid(4, 6)), net(dct, grid(4, 6)))
    linear = FDENet(6, hidden=8)
    assert not torch.allclose(linear(-dct, grid(4, 6)), linear(dct, grid(4, 6)))


def test_the_logarithm_in_half_precision_takes_the_largest_coefficients() -> None:
    net = FDENet(6, hidden=8, dct_input="log")
    dct = random_dct(600.0)
    expected = net(dct, grid(4, 6))
    net.fuse()
    found = net.half()(dct.half(), grid(4, 6).half()).float()
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
