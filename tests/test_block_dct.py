"""The CPU's DCT against scipy; the decoder's two routes are compared in test_decode."""

import numpy as np
import pytest
import torch
from decoding import scipy_dct
from jpegs import photo

from afd_model.dct import block_dct
from pipeline.block_dct import BlockDct, order_mfcc_spectra

TOLERANCE = 1e-3  # on the 0..255 scale, float32


@pytest.mark.parametrize(("side", "batch"), [(224, 4), (224, 7), (160, 1), (64, 5), (8, 9), (8, 0)])
def test_it_is_scipys_dct_of_jfif_ycbcr(side: int, batch: int) -> None:
    rgb = np.stack([photo(side, side, seed) for seed in range(batch)] or [photo(8, 8)])[:batch]
    found = BlockDct(side)(torch.from_numpy(rgb)).numpy()
    assert found.shape == (batch, 192, side // 8, side // 8)
    assert found.dtype == np.float32
    for image, coefficients in zip(rgb, found, strict=True):
        assert np.abs(coefficients - scipy_dct(image)).max() <= TOLERANCE


def test_extremes_and_noise() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 2, (6, 64, 64, 3), dtype=np.uint8) * 255  # the largest coefficients
    rgb[0], rgb[1] = 0, 255
    found = BlockDct(64)(torch.from_numpy(rgb)).numpy()
    for image, coefficients in zip(rgb, found, strict=True):
        assert np.abs(coefficients - scipy_dct(image)).max() <= TOLERANCE
    # Luma's DC: 8 x (0 - 128), and 8 x (255 - 128); a gray picture has nothing else.
    np.testing.assert_allclose(found[:2, 0, 0, 0], [-1024, 1016], atol=TOLERANCE)
    assert np.abs(found[:2, 1:]).max() <= TOLERANCE


def test_batches_of_other_sizes_leave_nothing_behind_in_the_buffers() -> None:
    rgb = np.stack([photo(64, 64, seed) for seed in range(9)])
    transform = BlockDct(64)
    for batch in (rgb[:9], rgb[:2], rgb[3:9], rgb[5:6]):
        found = transform(torch.from_numpy(batch.copy())).numpy()
        assert len(found) == len(batch)
        for image, coefficients in zip(batch, found, strict=True):
            assert np.abs(coefficients - scipy_dct(image)).max() <= TOLERANCE


def test_a_result_is_overwritten_only_where_the_caller_says_so() -> None:
    transform = BlockDct(64)
    first, second = (torch.from_numpy(photo(64, 64, seed)[None].copy()) for seed in (1, 2))
    kept = transform(first)
    expected = kept.clone()
    out = torch.empty_like(kept)
    assert transform(second, out=out) is out
    assert torch.equal(kept, expected)
    assert torch.equal(out, transform(second))


def test_the_models_own_reference_agrees() -> None:
    rgb = torch.from_numpy(photo(96, 96)[None].copy())
    reference = block_dct(rgb.permute(0, 3, 1, 2).double())
    assert (BlockDct(96)(rgb) - reference).abs().max() <= TOLERANCE


def test_the_graphs_spectra_are_put_in_order() -> None:
    """Each value of the spectra says where it belongs."""
    blocks = 3
    spectra = torch.zeros(1, blocks * 8 * blocks, 8, 3)
    for row in range(blocks):
        for v in range(8):
            for column in range(blocks):
                for u in range(8):
                    for component in range(3):
                        code = [component, v, u, row, column]
                        number = sum(digit * 10**place for place, digit in enumerate(code))
                        spectra[0, (row * 8 + v) * blocks + column, u, component] = number
    ordered = order_mfcc_spectra(spectra, side=8 * blocks)
    # T.81 figure A.6: places 0, 1, 2 and 63 hold the frequencies (v, u) below.
    for place, (v, u) in {0: (0, 0), 1: (0, 1), 2: (1, 0), 63: (7, 7)}.items():
        for component in range(3):
            found = ordered[0, component * 64 + place, 2, 1]
            assert found == component + 10 * v + 100 * u + 1000 * 2 + 10000 * 1
