"""The compiled end of the AFD-Module against PyTorch's steps."""

import copy
from dataclasses import replace

import pytest
import torch

from afd_model.afd_config import AFDConfig
from afd_model.afd_module import AFDModule
from afd_model.drift import drift
from afd_model.fde_net import FDM_KINDS, FDENet, FDMKind, log_magnitude
from afd_model.inference.cpu_kernels import (
    enhance_and_score,
    fused_gate,
    fuses_gate,
    log_magnitude_in_one_pass,
)

PAPER = AFDConfig(stem_channels=24, stem_stride=2, width=8, fde_hidden=8, output_min=0.0)
LIGHT = replace(PAPER, size="light", reduction=2, depth=1, levels=0, fdm_on="bottleneck")
NARROW = replace(LIGHT, width=4)


def module(config: AFDConfig, scale: float = 0.3) -> AFDModule:
    torch.manual_seed(0)
    made = AFDModule(config).eval().requires_grad_(requires_grad=False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return made


def inputs(
    height: int = 48, width: int = 64, channels: int = 24
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (3, channels, -(-height // 2), -(-width // 2))
    features = torch.randn(shape, generator=generator).relu() * 2
    dct = torch.randn((3, 192, height // 8, width // 8), generator=generator) * 30
    return features, dct


@pytest.mark.parametrize("kind", FDM_KINDS)
@pytest.mark.parametrize("shape", [PAPER, LIGHT, NARROW], ids=["paper", "light", "narrow"])
def test_equals_the_steps(shape: AFDConfig, kind: str) -> None:
    made = module(replace(shape, fdm=kind))
    features, dct = inputs()
    expected, _ = made(features, dct)
    enhanced, scores = enhance_and_score(made, features, dct)
    torch.testing.assert_close(enhanced, expected, rtol=1e-5, atol=1e-5)
    reference = drift(features.double(), expected.double())
    assert reference.angle_deg.min() > 1
    torch.testing.assert_close(scores.angle_deg.double(), reference.angle_deg, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.energy.double(), reference.energy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "channels"), [*((PAPER, n) for n in (5, 16, 64)), (NARROW, 5)])
@pytest.mark.parametrize("limits", [(None, None), (0.0, 6.0), (-0.375, None)])
def test_any_channels_and_limits(
    shape: AFDConfig, channels: int, limits: tuple[float | None, float | None]
) -> None:
    low, high = limits
    made = module(replace(shape, stem_channels=channels, output_min=low, output_max=high), 0.6)
    features, dct = inputs(56, 40, channels)
    enhanced, _ = enhance_and_score(made, features, dct)
    torch.testing.assert_close(enhanced, made(features, dct)[0], rtol=1e-4, atol=1e-4)
    if low is not None:
        assert enhanced.min() == low
    if high is not None:
        assert enhanced.max() == high


@pytest.mark.parametrize(("width", "reduction"), [(4, 2), (1, 3)])
def test_a_narrow_module_on_a_grid_that_does_not_fit(width: int, reduction: int) -> None:
    made = module(replace(NARROW, width=width, reduction=reduction))
    features, dct = inputs(56, 40)
    features = features[:, :, :-1, :-3]
    expected, _ = made(features, dct)
    enhanced, scores = enhance_and_score(made, features, dct)
    torch.testing.assert_close(enhanced, expected, rtol=1e-5, atol=1e-5)
    reference = drift(features.double(), expected.double())
    torch.testing.assert_close(scores.energy.double(), reference.energy, rtol=1e-5, atol=1e-6)


def test_a_narrow_module_in_bfloat16_rounds_its_correction_only_when_added() -> None:
    made = module(NARROW).bfloat16()
    features, dct = inputs()
    features = features.bfloat16().contiguous(memory_format=torch.channels_last)
    narrow, gate = made.fe_net.encode(features).float(), made.fde_net.gate(dct).float()
    size = (narrow.shape[2], narrow.shape[3])
    spread = torch.nn.functional.interpolate(gate, size, mode="bilinear")
    correction = made.float().fe_net.decode(narrow * spread, (features.shape[2], features.shape[3]))
    expected = (features.float() + correction).clamp(min=0)
    enhanced, _ = enhance_and_score(made.bfloat16(), features, dct)
    torch.testing.assert_close(enhanced.float(), expected, rtol=2**-8 + 1e-5, atol=1e-6)
    assert (enhanced == expected.bfloat16()).float().mean() > 0.995


def test_bfloat16_is_rounded_once_and_scored_before_that() -> None:
    made = module(PAPER).bfloat16()
    features, dct = inputs()
    features = features.bfloat16().contiguous(memory_format=torch.channels_last)
    correction, gate = made.fe_net(features), made.fde_net.gate(dct)
    size = (features.shape[2], features.shape[3])
    spread = torch.nn.functional.interpolate(gate.float(), size, mode="bilinear")
    expected = (features.float() + correction.float() * spread).clamp(min=0)
    enhanced, scores = enhance_and_score(made, features, dct)
    assert enhanced.dtype == torch.bfloat16
    # Half a unit in the last of eight binary places, and what the interpolation's order makes.
    torch.testing.assert_close(enhanced.float(), expected, rtol=2**-8 + 1e-5, atol=1e-6)
    same = (enhanced == expected.bfloat16()).float().mean()
    assert same > 0.995
    reference = drift(features.double(), expected.double())
    torch.testing.assert_close(scores.angle_deg.double(), reference.angle_deg, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.energy.double(), reference.energy, rtol=1e-5, atol=1e-6)


def test_an_untrained_module_moves_nothing() -> None:
    features, dct = inputs()
    features[0] = 0
    enhanced, scores = enhance_and_score(AFDModule(PAPER).requires_grad_(False), features, dct)
    assert enhanced.equal(features)
    assert scores.angle_deg.equal(torch.zeros(3))
    assert scores.energy.equal(torch.zeros(3))


def test_features_may_turn_by_more_than_a_right_angle() -> None:
    made = module(replace(PAPER, output_min=None), 0.6)
    features, dct = inputs()
    expected, _ = made(features, dct)
    assert ((features * expected).sum(1) < 0).float().mean() > 0.1
    _, scores = enhance_and_score(made, features, dct)
    reference = drift(features.double(), expected.double())
    torch.testing.assert_close(scores.angle_deg.double(), reference.angle_deg, rtol=1e-4, atol=1e-4)


def test_where_the_features_are_zero_nothing_turns() -> None:
    made = module(PAPER)
    features, dct = inputs()
    features[:, :, :20] = 0
    expected = drift(features, made(features, dct)[0])
    _, scores = enhance_and_score(made, features, dct)
    torch.testing.assert_close(scores.angle_deg, expected.angle_deg, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.energy, expected.energy, rtol=1e-4, atol=1e-4)


def test_not_a_number_stays_one() -> None:
    features, dct = inputs()
    features[1, 3, 4, 5] = torch.nan
    enhanced, scores = enhance_and_score(module(PAPER), features, dct)
    assert enhanced[1].isnan().any()
    assert not enhanced[[0, 2]].isnan().any()
    assert scores.energy.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [PAPER, NARROW], ids=["paper", "narrow"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(shape: AFDConfig, threads: int) -> None:
    made = module(shape)
    features, dct = inputs()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected, _ = made(features, dct)
        enhanced, scores = enhance_and_score(made, features, dct)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(enhanced, expected, rtol=1e-5, atol=1e-5)
    expected_scores = drift(features, expected)
    torch.testing.assert_close(scores.angle_deg, expected_scores.angle_deg, rtol=1e-4, atol=1e-4)


def test_a_dtype_without_a_form_is_refused() -> None:
    features, dct = inputs()
    with pytest.raises(ValueError, match=r"not torch\.float16"):
        enhance_and_score(module(PAPER), features.half(), dct)


def test_logarithms_are_the_exact_ones_rounded() -> None:
    exponents = torch.linspace(-20, 120, 100_000)
    dct = torch.cat([torch.tensor([0.0, -0.0]), 2**exponents, -(2**exponents)]).view(2, 1, 1, -1)
    expected = log_magnitude(dct.double(), torch.float64)
    found = log_magnitude_in_one_pass(dct, torch.bfloat16)
    assert found.shape == dct.shape
    usual = dct.abs() > 1e-3
    torch.testing.assert_close(found[usual].double(), expected[usual], rtol=2**-8, atol=0)
    assert (found[usual] == expected[usual].bfloat16()).float().mean() > 0.999
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=2e-7)


def test_what_is_no_number_has_no_logarithm() -> None:
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38]).view(1, 1, 1, 4)
    all_set = torch.tensor([0xFFFFFFFF], dtype=torch.uint32).view(torch.float32).view(1, 1, 1, 1)
    odd = torch.cat([odd, all_set], dim=3)
    found = log_magnitude_in_one_pass(odd, torch.bfloat16)
    torch.testing.assert_close(found, log_magnitude(odd, torch.bfloat16), equal_nan=True)


def test_logarithms_of_float32_are_left_to_pytorch() -> None:
    _, dct = inputs()
    assert log_magnitude_in_one_pass(dct, torch.float32).equal(log_magnitude(dct, torch.float32))


def fde_net(hidden: int, kind: FDMKind, dct: torch.Tensor) -> FDENet:
    """A fused net whose hidden layer's ReLU cuts about half of its values."""
    torch.manual_seed(2)
    made = FDENet(4, hidden, kind, "log").requires_grad_(requires_grad=False)
    made.fuse()
    assert made.hidden.bias is not None
    logs = log_magnitude(dct, torch.float32)
    made.hidden.bias -= made.hidden(logs).mean((0, 2, 3))
    assert 0.2 < (made.hidden(logs) < 0).float().mean() < 0.8
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("hidden", "kind"), [(1, "full"), (4, "full+channel"), (4, "spatial")])
def test_the_gate_is_the_steps(hidden: int, kind: FDMKind, dtype: torch.dtype) -> None:
    _, dct = inputs()
    made = fde_net(hidden, kind, dct).to(dtype)
    assert fuses_gate(made)
    exact = copy.deepcopy(made).double().gate(dct.double())
    assert exact.std() > 0.01
    found = fused_gate(made, dct)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["channel", "both"])
def test_a_gate_of_another_form_is_not_fused(kind: FDMKind) -> None:
    assert not fuses_gate(FDENet(4, 4, kind, "log"))


def test_a_gate_that_would_be_slower_or_wrong_is_not_fused() -> None:
    assert not fuses_gate(FDENet(4, 16, "full", "log"))
    assert not fuses_gate(FDENet(4, 4, "full", "linear"))


def test_the_gate_in_threads_of_any_layout_keeps_what_is_no_number() -> None:
    _, dct = inputs()
    made = fde_net(4, "full", dct)
    dct[1, 5, 2, 3] = torch.nan
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = fused_gate(made, dct.contiguous(memory_format=torch.channels_last))
    finally:
        torch.set_num_threads(threads)
    odd = torch.zeros(found.shape, dtype=torch.bool)
    odd[1, :, 2, 3] = True
    assert found.isnan().equal(odd)
    torch.testing.assert_close(found[~odd], made.gate(dct)[~odd], rtol=1e-5, atol=1e-5)
