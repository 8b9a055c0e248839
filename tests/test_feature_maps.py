"""Features and FDMs as pictures: against numpy's SVD and against real FDE-Nets."""

import numpy as np
import pytest
import torch

from afd_model.dct import block_dct
from afd_model.evaluation.feature_maps import denormalized, difference_map, fdm_views, fit_colours
from afd_model.fde_net import FDM_KINDS, FDENet


def features(channels: int = 6, seed: int = 0) -> torch.Tensor:
    """(channels, 9, 7) with a variance of its own along every direction."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(channels, channels, generator=generator)
    scales = 2.0 ** -torch.arange(channels)
    return torch.einsum(
        "dc,chw->dhw", mixed * scales, torch.randn(channels, 9, 7, generator=generator)
    )


def test_colours_are_the_principal_components() -> None:
    found = features()
    colours = fit_colours(found)
    samples = found.flatten(1).T.double().numpy()
    _, singular, axes = np.linalg.svd(samples - samples.mean(0), full_matrices=False)
    for k in range(3):
        assert abs(axes[k] @ colours.axes[:, k].numpy()) == pytest.approx(1)
    assert colours.explained == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum())
    components = (samples - samples.mean(0)) @ colours.axes.numpy()
    ends = np.percentile(components, [1, 99], axis=0)
    expected = np.clip((components - ends[0]) / (ends[1] - ends[0]), 0, 1).reshape(9, 7, 3)
    np.testing.assert_allclose(colours.rgb(found), expected, atol=1e-6)


def test_one_scale_serves_every_picture() -> None:
    clean, degraded = features(), features()
    degraded[:, :4] += features(seed=1)[:, :4]
    colours = fit_colours(clean)
    same = (colours.rgb(clean) == colours.rgb(degraded)).all(2)
    assert same[4:].all()
    assert not same[:4].any()


def test_an_axis_points_the_same_way_wherever_it_is_computed() -> None:
    axes = fit_colours(features()).axes
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_missing_components_are_black(channels: int) -> None:
    rgb = fit_colours(features(channels)).rgb(features(channels))
    assert rgb.shape == (9, 7, 3)
    assert rgb[..., channels:].max() == 0
    assert rgb[..., :channels].max() == 1


def test_a_blank_picture_has_colours_too() -> None:
    colours = fit_colours(torch.full((4, 5, 5), 2.0))
    assert np.isfinite(colours.rgb(torch.full((4, 5, 5), 2.0))).all()
    assert np.isfinite(colours.explained)


def test_difference_is_over_all_channels() -> None:
    a, b = features(), features(seed=1)
    expected = np.linalg.norm(a.numpy() - b.numpy(), axis=0)
    np.testing.assert_allclose(difference_map(a, b), expected, rtol=1e-6)
    assert not difference_map(a, a).any()


@pytest.mark.parametrize("kind", FDM_KINDS)
def test_an_fdm_is_seen_where_it_varies(kind: str) -> None:
    torch.manual_seed(0)
    rgb = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        fdm = FDENet(5, 8, kind)(block_dct(rgb), torch.empty(1, 5, 16, 16))[0]
    views = fdm_views(fdm)
    assert (views.places is None) == (kind == "channel")
    assert (views.gates is None) == (kind == "spatial")
    whole = fdm.expand(5, 16, 16).numpy()
    if views.places is not None:
        np.testing.assert_allclose(views.places, whole.mean(0), rtol=1e-6)
    if views.gates is not None:
        np.testing.assert_allclose(views.gates, whole.mean((1, 2)), rtol=1e-5)


def test_a_picture_is_what_was_normalised() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1) / 255 - torch.tensor(mean)[:, None, None]
    pixels /= torch.tensor(std)[:, None, None]
    np.testing.assert_array_equal(denormalized(pixels, mean, std), rgb)
