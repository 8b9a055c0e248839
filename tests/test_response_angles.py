"""Block angles against their definition, and the angles of real compressed photographs."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE
from jpegs import photo

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.dct import block_dct
from afd_model.drift import drift_angle_deg
from afd_model.evaluation.evaluator import Evaluator
from afd_model.evaluation.response_angles import AngleMeter, block_angles_deg
from afd_model.evaluation.statistics import spearman
from pipeline.degrade import compress, decompress


def features(seed: int, shape: tuple[int, ...] = (2, 5, 9, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_blocks_angle_is_its_positions_weighted_mean() -> None:
    a, b = features(0), features(1)
    found = block_angles_deg(a, b, 4)
    assert found.shape == (2, 2, 2)  # nine rows hold two whole blocks
    for n in range(2):
        for row in range(2):
            for column in range(2):
                total = weights = 0.0
                for y in range(4 * row, 4 * row + 4):
                    for x in range(4 * column, 4 * column + 4):
                        f, g = a[n, :, y, x].double(), b[n, :, y, x].double()
                        cosine = float(f @ g / (f.norm() * g.norm()))
                        total += float(g.norm()) * math.degrees(math.acos(cosine))
                        weights += float(g.norm())
                assert float(found[n, row, column]) == pytest.approx(total / weights, rel=1e-4)


def test_one_block_is_the_pictures_own_angle() -> None:
    a, b = features(0, (3, 5, 8, 8)), features(1, (3, 5, 8, 8))
    torch.testing.assert_close(block_angles_deg(a, b, 8).flatten(), drift_angle_deg(a, b))
    assert not block_angles_deg(a, a, 2).any()


@cache
def backbone() -> Backbone:
    return load_backbone(MINIATURE, "none")


def meter(afd: AFDModule | None) -> AngleMeter:
    evaluator = Evaluator(
        AFDClassifier(backbone(), afd), device=torch.device("cpu"), precision=torch.float32
    )
    return AngleMeter(evaluator, backbone())


@cache
def pictures() -> np.ndarray:
    return np.stack([photo(224, 224, seed) for seed in range(2)])


def inputs(rgb: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixels, dct) of (B, 224, 224, 3) uint8."""
    levels = torch.from_numpy(rgb).permute(0, 3, 1, 2).float()
    preset = backbone().preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (preset.mean, preset.std))
    return (levels / 255 - mean) / std, block_dct(levels)


def compressed(quality: int) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs(np.stack([decompress(compress(rgb, quality)) for rgb in pictures()]))


def test_coarser_quantization_turns_blocks_further_and_features_with_them() -> None:
    ours = meter(None)
    pixels, dct = inputs(pictures())
    clean = ours.clean_stem(pixels)
    quality = torch.full((2,), math.nan)
    same = ours.measure(pixels, dct, clean, quality)
    assert same.dct_deg.shape == same.direct_deg.shape == (2, 28, 28)
    assert same.enhanced_deg is None
    assert same.dct_deg.max() < 0.1  # float32, by two routes
    assert same.direct_deg.max() == 0
    found = {q: ours.measure(*compressed(q), clean, quality) for q in (10, 25, 60)}
    for name in ("dct_deg", "direct_deg"):
        medians = [float(np.median(getattr(found[q], name))) for q in (10, 25, 60)]
        assert medians == sorted(medians, reverse=True)
        assert medians[-1] > 0.5
    for angles in found.values():  # what Fig. 4 says
        assert spearman(angles.dct_deg.ravel(), angles.direct_deg.ravel()) > 0.5


def test_with_a_trained_module_the_enhanced_features_are_measured_too() -> None:
    torch.manual_seed(0)
    afd = AFDModule(config_for(backbone(), "light"))
    untrained = meter(afd)
    quality = torch.full((2,), 10.0)
    clean = untrained.clean_stem(inputs(pictures())[0])
    assert untrained.measure(*compressed(10), clean, quality).enhanced_deg is None
    for parameter in afd.fe_net.exit.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    pixels, dct = compressed(10)
    found = meter(afd).measure(pixels, dct, clean, quality)
    assert found.enhanced_deg is not None
    with torch.no_grad():
        enhanced = AFDClassifier(backbone(), afd).eval().features(pixels, dct).enhanced_features
    expected = block_angles_deg(enhanced, clean.features, 4)
    np.testing.assert_allclose(found.enhanced_deg, expected.numpy(), rtol=1e-3, atol=1e-3)
