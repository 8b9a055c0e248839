"""The crop window against torchvision's own arithmetic; pixels are compared in test_decode."""

import pytest
import torch
from decoding import plain
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional

from afd_model.backbones import Preprocessing
from pipeline.pixels.geometry import Geometry, crop_window

SIDES = st.integers(1, 4000)
CROPS = st.sampled_from([8, 64, 160, 224, 448])


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, crop=CROPS, margin=st.integers(0, 100))
@example(height=1, width=1025, crop=448, margin=35)  # resized to a row of 495,075 pixels
def test_the_window_is_what_torchvision_crops(
    height: int, width: int, crop: int, margin: int
) -> None:
    geometry = plain(crop + margin, crop)
    # A tensor without data: torchvision computes the size and resizes nothing.
    image = torch.empty(3, height, width, device="meta")
    resized = functional.resize(image, [crop + margin], antialias=False).shape[1:]
    top, left, bottom, right = crop_window((height, width), geometry).tolist()
    for start, end, whole, side in (
        (top, bottom, resized[0], height),
        (left, right, resized[1], width),
    ):
        offset = int(round((whole - crop) / 2.0))  # noqa: RUF046 (as torchvision writes it)
        near = max(0.02, whole * 2**-23)  # a window's sides are float32
        assert start * whole / side == pytest.approx(offset, abs=near)
        assert (end - start) * whole / side == pytest.approx(crop, abs=near)
        assert start >= 0
        assert end <= side * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_without_a_resize_it_is_the_centre_crop_with_its_padding(height: int, width: int) -> None:
    numbered = torch.arange(1, height * width + 1).reshape(1, height, width)
    expected = functional.center_crop(numbered, [24, 24])
    window = crop_window((height, width), plain(None, 24))
    top, left, bottom, right = (int(edge) for edge in window)
    assert (bottom - top, right - left) == (24, 24)
    padded = torch.nn.functional.pad(numbered, (64, 64, 64, 64))
    assert torch.equal(padded[:, 64 + top : 64 + bottom, 64 + left : 64 + right], expected)


@pytest.mark.parametrize(
    ("resize", "size", "doublings"),
    [
        (256, (64, 90), 2),
        (256, (300, 128), 1),
        (256, (256, 999), 0),
        (256, (9000, 9000), 0),
        (None, (16, 16), 0),
        (256, (0, 0), 0),
    ],
)
def test_only_small_pictures_are_enlarged(
    resize: int | None, size: tuple[int, int], doublings: float
) -> None:
    assert plain(resize, 224).enlargement(size) == doublings


@pytest.mark.parametrize(
    ("resize", "crop", "interpolation", "message"),
    [
        (256, 0, "bilinear", "crop 0 is not positive"),
        (256, -8, "bilinear", "crop -8 is not positive"),
        (200, 224, "bilinear", "resize 200 is smaller than crop 224"),
        (256, 224, "nearest", "'nearest' is not supported: use bilinear or bicubic"),
    ],
)
def test_what_cannot_be_is_refused(
    resize: int, crop: int, interpolation: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(resize, crop, interpolation, (0, 0, 0), (1, 1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ((256, 224), (256, 224)),
        ((320, 300), (320, 304)),  # EfficientNet-B3
        ((384, 380), (384, 384)),  # EfficientNet-B4
        ((342, 299), (342, 296)),  # Inception v3
        ((518, 518), (520, 520)),
        ((None, 299), (None, 296)),
    ],
)
def test_for_the_dct_a_preset_is_taken_to_the_nearest_multiple_of_eight(
    preset: tuple[int | None, int], expected: tuple[int | None, int]
) -> None:
    backbones = Preprocessing(*preset, "bilinear", (0.0,) * 3, (1.0,) * 3)
    found = Geometry.of_preset(backbones, in_blocks=True)
    found.check_blocks()
    assert (found.resize, found.crop) == expected
    exact = Geometry.of_preset(backbones, in_blocks=False)
    assert (exact.resize, exact.crop) == preset


def test_a_crop_that_blocks_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop 99 is not a multiple of 8.*use 96"):
        plain(256, 99).check_blocks()
