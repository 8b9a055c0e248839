"""The drift scores against their definitions."""

import math
from collections.abc import Callable

import pytest
import torch

from afd_model.drift import Drift, drift, drift_angle_deg, drift_by_convolutions


def by_definition(f: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The documented formulas, in float64, with acos."""
    f, g = f.double(), g.double()
    cosine = (f * g).sum(1) / (f.norm(dim=1) * g.norm(dim=1))
    weight = g.norm(dim=1)
    angle = (weight * torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))).sum((1, 2))
    energy = (g - f).flatten(1).norm(dim=1) / f.flatten(1).norm(dim=1)
    return angle / weight.sum((1, 2)), energy


def features(seed: int = 0, shape: tuple[int, ...] = (3, 16, 9, 7)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step", [3.0, 0.3, 1e-2, 1e-3])
def test_equals_the_definition(step: float) -> None:
    f = features()
    g = f + step * features(1)
    angle, energy = by_definition(f, g)
    found = drift(f, g)
    torch.testing.assert_close(found.angle_deg.double(), angle, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.energy.double(), energy, rtol=1e-4, atol=1e-6)
    assert torch.equal(drift_angle_deg(f, g), found.angle_deg)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_identical_features_have_not_drifted_at_all(dtype: torch.dtype) -> None:
    f = (features() * 10).to(dtype)
    found = drift(f, f.clone())
    assert torch.equal(found.angle_deg, torch.zeros(3))
    assert torch.equal(found.energy, torch.zeros(3))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_features_are_scored_in_float32(
    dtype: torch.dtype, tolerance: float
) -> None:
    f = (features() * 100).to(dtype)
    g = (f.float() + 5 * features(1)).to(dtype)
    angle, energy = by_definition(f, g)
    found = drift(f, g)
    assert found.angle_deg.dtype == found.energy.dtype == torch.float32
    torch.testing.assert_close(found.angle_deg.double(), angle, rtol=tolerance, atol=0)
    torch.testing.assert_close(found.energy.double(), energy, rtol=tolerance, atol=0)


@pytest.mark.parametrize("step", [0.005, 0.02, 0.3])
def test_bfloat16_roundings_cancel_over_the_positions(step: float) -> None:
    shape = (2, 16, 64, 64)
    f = features(0, shape).relu().bfloat16().to(memory_format=torch.channels_last)
    g = (f + step * features(1, shape)).bfloat16()
    angle, energy = by_definition(f, g)
    found = drift(f, g)
    torch.testing.assert_close(found.angle_deg.double(), angle, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.energy.double(), energy, rtol=1e-3, atol=0)


def test_known_angles() -> None:
    f = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    for degrees in (0.0, 1e-2, 1.0, 60.0, 90.0, 179.0):
        turn = math.radians(degrees)
        g = 2 * torch.tensor([math.cos(turn), math.sin(turn)]).reshape(1, 2, 1, 1)
        assert drift_angle_deg(f, g).item() == pytest.approx(degrees, rel=1e-3, abs=0.05)
    torch.testing.assert_close(drift(f, 3 * f).energy, torch.tensor([2.0]))


def test_the_angle_does_not_see_scale_and_weighs_by_the_enhanced_norm() -> None:
    f, g = features(), features(1)
    torch.testing.assert_close(
        drift_angle_deg(f * 7, g * 3), drift_angle_deg(f, g), rtol=1e-4, atol=0
    )
    f = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    g = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)  # 0 deg weighs 3, 90 deg 1.
    assert drift_angle_deg(f, g).item() == pytest.approx(22.5, abs=1e-3)


@pytest.mark.parametrize("scores", [drift, drift_by_convolutions])
def test_zero_features_give_numbers(scores: Callable[..., Drift]) -> None:
    zero, f = torch.zeros(1, 16, 8, 8), features(shape=(1, 16, 8, 8))
    for before, after in ((zero, zero), (zero, f), (f, zero)):
        found = scores(before, after)
        assert found.angle_deg.item() == 0
        assert found.energy.item() == pytest.approx(float(before is f))


def test_zero_features_have_no_angle_however_their_norms_are_rounded() -> None:
    """PyTorch sums a view with gaps in another order than a tensor without."""
    for seed in range(5):
        view = features(seed, (2, 96, 2, 2))[:, :, :1, :1]
        assert drift(torch.zeros(2, 96, 1, 1), view).angle_deg.tolist() == [0, 0]


def test_images_do_not_mix() -> None:
    f, g = features(), features(1)
    whole = drift(f, g)
    for k in range(3):
        alone = drift(f[k : k + 1], g[k : k + 1])
        torch.testing.assert_close(alone.angle_deg, whole.angle_deg[k : k + 1])
