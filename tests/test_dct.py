"""The DCT reference against scipy and Pillow."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image

from afd_model.dct import JFIF_RGB_TO_YCBCR, ZIGZAG, block_dct, block_dct_of_normalized, dct_basis


def random_rgb(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).double()


def scipy_block_dct(rgb: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (192, H/8, W/8), one block at a time."""
    ycbcr = np.einsum("kc,chw->khw", np.array(JFIF_RGB_TO_YCBCR), rgb)
    ycbcr[0] -= 128
    rows, columns = rgb.shape[1] // 8, rgb.shape[2] // 8
    out = np.empty((192, rows, columns))
    for component in range(3):
        for r in range(rows):
            for c in range(columns):
                block = ycbcr[component, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
                spectrum = scipy.fft.dctn(block, norm="ortho").flatten()
                out[component * 64 : component * 64 + 64, r, c] = spectrum[list(ZIGZAG)]
    return out


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (64, 24)])
def test_equals_scipy(size: tuple[int, int]) -> None:
    rgb = random_rgb(2, 3, *size)
    expected = np.stack([scipy_block_dct(image) for image in rgb.numpy()])
    np.testing.assert_allclose(block_dct(rgb).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(block_dct(rgb.float()).numpy(), expected, atol=1e-3)


def test_the_basis_is_orthonormal() -> None:
    basis = dct_basis()
    torch.testing.assert_close(basis @ basis.T, torch.eye(8, dtype=torch.float64))


def test_zigzag_walks_the_anti_diagonals() -> None:
    assert sorted(ZIGZAG) == list(range(64))
    places = [divmod(index, 8) for index in ZIGZAG]
    for (v, h), (next_v, next_h) in pairwise(places):
        same = v + h == next_v + next_h
        assert abs(v - next_v) <= 1
        assert abs(h - next_h) <= 1
        assert same or next_v + next_h == v + h + 1
    assert places[1] == (0, 1)  # T.81 Figure A.6 goes right first.


def test_the_colour_matrix_is_pillows_jfif() -> None:
    rgb = random_rgb(3, 32, 32).numpy()
    ycbcr = np.einsum("kc,chw->khw", np.array(JFIF_RGB_TO_YCBCR), rgb)
    ycbcr[1:] += 128
    picture = Image.fromarray(rgb.transpose(1, 2, 0).astype(np.uint8)).convert("YCbCr")
    expected = np.asarray(picture).transpose(2, 0, 1)
    # Pillow's tables truncate each term.
    assert np.abs(ycbcr - expected).max() <= 1.5


def test_mid_gray_is_zero_and_dc_is_eight_times_the_mean() -> None:
    gray = torch.full((1, 3, 8, 8), 128.0, dtype=torch.float64)
    torch.testing.assert_close(block_dct(gray), torch.zeros(1, 192, 1, 1, dtype=torch.float64))
    dc = block_dct(gray + 10)[0, :, 0, 0]
    assert dc[0] == pytest.approx(80)
    assert dc[1:].abs().max() < 1e-9


def test_partial_blocks_are_left_out() -> None:
    rgb = random_rgb(1, 3, 30, 20)
    torch.testing.assert_close(block_dct(rgb), block_dct(rgb[:, :, :24, :16]))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 7, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="block_dct takes"):
        block_dct(torch.zeros(shape))


def test_the_dct_of_normalised_pixels_is_that_of_their_grey_levels() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rgb = random_rgb(2, 3, 32, 48)
    pixels = (rgb / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = block_dct_of_normalized(pixels.float(), mean, std)
    assert (found - block_dct(rgb)).abs().max() < 2e-3
