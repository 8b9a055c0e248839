"""A picture under the paper's protocols, as a file; the coder itself is tested in test_degrade."""

import io
import resource

import numpy as np
import pytest
from decoding import decode_all, plain, screened, torchvision_input
from jpegs import encode, photo, save
from PIL import Image

from pipeline.decode import DecodeOptions, Decoder
from pipeline.degrade import FULL_IMAGE, IMAGENET_C, PROTOCOLS, compress, decompress
from pipeline.pairs.recompress import (
    compressed_file,
    drawn_qualities,
    model_window,
    open_rgb,
)
from pipeline.pixels.geometry import Geometry

GEOMETRY = plain(72, 64)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_full_image_is_compressed_at_its_own_size(subsampling: str) -> None:
    rgb = photo(90, 120)
    found = compressed_file(
        rgb, [40, 10], protocol=FULL_IMAGE, geometry=GEOMETRY, subsampling=subsampling
    )
    assert found == compress(decompress(compress(rgb, 40, subsampling)), 10, subsampling)


def test_imagenet_c_is_compressed_as_the_model_sees_it_and_again_at_85() -> None:
    rgb = photo(90, 120)
    found = compressed_file(rgb, [10], protocol=IMAGENET_C, geometry=GEOMETRY)
    window = torchvision_input(save(rgb, "PNG"), GEOMETRY)
    once = decompress(compress(window, 10, "4:2:0"))
    assert found == compress(once, 85, "4:2:0")
    assert PROTOCOLS == {"full-image": FULL_IMAGE, "imagenet-c": IMAGENET_C}


@pytest.mark.parametrize(
    "geometry",
    [
        plain(256, 224),
        plain(232, 224),
        plain(235, 224, "bicubic"),
        plain(299, 299, "bicubic"),
        plain(None, 64),
    ],
)
@pytest.mark.parametrize(
    ("height", "width"),
    [(500, 375), (375, 500), (1000, 300), (256, 256), (235, 600), (3, 2), (1, 40), (900, 11)],
)
def test_the_window_is_torchvisions_pixel_by_pixel(
    height: int, width: int, geometry: Geometry
) -> None:
    """Of pictures that Pillow resizes down their columns first, and along their rows first."""
    rgb = photo(height, width)
    expected = torchvision_input(save(rgb, "PNG"), geometry)
    np.testing.assert_array_equal(model_window(rgb, geometry), expected)


def test_the_window_of_a_line_is_resized_without_the_rest() -> None:
    """Which would take 17 GB."""
    columns = np.arange(65_000) // 256
    rgb = np.repeat(columns.astype(np.uint8)[None, :, None], 3, axis=2)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    window = model_window(rgb, plain(256, 224))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000
    np.testing.assert_array_equal(window, np.full((224, 224, 3), columns[32_500]))


def test_a_moved_grid_ends_at_the_files_own() -> None:
    """As when the picture was part of a larger one that had been compressed before."""
    larger = photo(96, 128)
    whole = decompress(compress(larger, 10, "4:2:0"))
    down, right = 5, 3
    expected = compress(whole[down:, right:], 60, "4:2:0")
    found, aligned = (
        compressed_file(
            larger[down:, right:],
            [10, 60],
            protocol=FULL_IMAGE,
            geometry=GEOMETRY,
            grid_shift=shift,
        )
        for shift in ((down, right), (0, 0))
    )
    inner = slice(32, None)  # away from the blocks that the cut went through
    of_found, of_aligned, of_expected = (
        decompress(jpeg)[inner, inner] for jpeg in (found, aligned, expected)
    )
    np.testing.assert_array_equal(of_found, of_expected)
    assert (of_aligned != of_expected).any()


def test_random_qualities_are_the_images_own_and_fewer_are_the_first_of_more() -> None:
    drawn = drawn_qualities("a/b.jpg", 0, 5)
    assert drawn[:3] == drawn_qualities("a/b.jpg", 0, 3)
    assert all(5 <= quality <= 95 for quality in drawn)
    assert len({drawn, drawn_qualities("a/c.jpg", 0, 5), drawn_qualities("a/b.jpg", 1, 5)}) == 3


def test_sixteen_bits_of_gray_are_scaled_as_the_decoder_does() -> None:
    gray = photo(40, 50)[:, :, 0]
    file = io.BytesIO()
    between_levels = np.minimum(gray.astype(np.uint32) * 257 + 100, 65_535)
    Image.fromarray(between_levels.astype(np.uint16)).save(file, "PNG")
    found = open_rgb(file.getvalue())
    np.testing.assert_array_equal(found, np.repeat(gray[:, :, None], 3, axis=2))
    decoder = Decoder(plain(None, 40), DecodeOptions())
    (image,) = decode_all(decoder, screened([file.getvalue()])).values()
    assert np.abs(image.rgb.astype(int) - found[:, 5:45]).max() <= 1


def test_a_file_is_opened_whole_or_refused_in_one_line() -> None:
    rgb = photo(40, 50)
    np.testing.assert_array_equal(open_rgb(save(rgb, "PNG")), rgb)
    assert open_rgb(encode(rgb, mode="CMYK", exif_orientation=6)).shape == rgb.shape
    for damaged in (encode(rgb)[:-200], b"", b"<html>", save(rgb, "PNG")[:300]):
        with pytest.raises(ValueError, match=r"\Acannot be decoded: [^\n]+\Z"):
            open_rgb(damaged)


def test_a_picture_that_no_jpeg_can_hold_is_not_opened() -> None:
    largest, larger = (np.full((1, side, 3), 90, np.uint8) for side in (65_500, 65_501))
    assert open_rgb(save(largest, "PNG")).shape == (1, 65_500, 3)
    assert decompress(compress(largest, 50)).shape == (1, 65_500, 3)
    with pytest.raises(ValueError, match="at most 65500 pixels, got 65501x1"):
        open_rgb(save(larger, "PNG"))
