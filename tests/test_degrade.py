import io

import numpy as np
import pytest
from jpegs import encode, photo
from PIL import Image

from pipeline.degrade import (
    SUBSAMPLINGS,
    compress,
    decompress,
    degrade,
    random_grid_shift,
    random_qualities,
)
from pipeline.jpeg_scan import scan_jpeg


def pillow(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg))


def max_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("quality", [1, 7, 10, 15, 18, 25, 50, 75, 85, 95, 100])
def test_equals_pillows_encoder(quality: int, subsampling: str) -> None:
    rgb = photo(101, 135)
    ours = compress(rgb, quality, subsampling)
    theirs = encode(rgb, quality=quality, subsampling=subsampling)
    assert pillow(ours).quantization == pillow(theirs).quantization
    assert pillow(ours).size == (135, 101)
    assert scan_jpeg(ours).subsampling == scan_jpeg(theirs).subsampling == subsampling
    # The two may bundle different releases of libjpeg-turbo; the pixels stay within a level.
    assert max_difference(decompress(ours), np.asarray(pillow(theirs).convert("RGB"))) <= 1


def test_decompress_equals_pillow_and_does_not_turn_the_picture() -> None:
    rgb = photo(60, 91)
    for jpeg in (encode(rgb), encode(rgb, exif_orientation=6), encode(rgb, mode="L")):
        decoded = decompress(jpeg)
        assert decoded.shape == (60, 91, 3)
        assert decoded.dtype == np.uint8
        assert max_difference(decoded, np.asarray(pillow(jpeg).convert("RGB"))) <= 1


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_file_says_what_was_asked_for(subsampling: str) -> None:
    rgb = photo(40, 56)
    header = scan_jpeg(compress(rgb, 33, subsampling, progressive=True))
    assert (header.quality, header.subsampling, header.progressive) == (33, subsampling, True)


def test_lower_quality_is_further_from_the_original() -> None:
    rgb = photo(200, 300)
    qualities = (95, 75, 50, 25, 15, 10, 7)
    distances = [mean_difference(degrade(rgb, (q,), subsampling="4:4:4"), rgb) for q in qualities]
    assert distances == sorted(distances)
    assert distances[0] < 3 < distances[-1]


def test_views_are_compressed_as_they_look() -> None:
    rgb = photo(64, 80)
    for view in (rgb[:, ::-1], rgb[::2, ::3], rgb.transpose(1, 0, 2), rgb[..., ::-1]):
        assert compress(view, 60) == compress(view.copy(), 60)
    mirrored = degrade(rgb[:, ::-1], (95,), subsampling="4:4:4")
    assert mean_difference(mirrored[:, ::-1], rgb) < 3


def test_compressions_follow_one_another() -> None:
    rgb = photo(90, 120)
    before = rgb.copy()
    by_hand = decompress(compress(decompress(compress(rgb, 20)), 85))
    np.testing.assert_array_equal(degrade(rgb, (20, 85)), by_hand)
    np.testing.assert_array_equal(degrade(rgb, ()), rgb)
    assert degrade(rgb, ()) is not rgb
    np.testing.assert_array_equal(rgb, before)


def test_aligned_recompression_is_nearly_free_and_a_moved_grid_is_not() -> None:
    """The property by which double JPEG is detected: on its own grid it is almost a fixed point."""
    rgb = photo(160, 240)
    change = {}
    for down, right in ((0, 0), (8, 16), (4, 4), (0, 3)):
        twice = degrade(rgb, (15, 15), subsampling="4:4:4", grid_shift=(down, right))
        first = degrade(rgb, (15,), subsampling="4:4:4", grid_shift=(2 * down, 2 * right))
        inner = slice(16, -16)
        change[down, right] = mean_difference(twice[inner, inner], first[inner, inner])
    assert change[8, 16] == pytest.approx(change[0, 0], abs=0.05)
    assert change[4, 4] > 5 * change[0, 0]
    assert change[0, 3] > 3 * change[0, 0]


def test_a_moved_grid_is_that_of_a_picture_cut_between_compressions() -> None:
    rgb = photo(160, 240)
    down, right = 5, 3
    cut = degrade(rgb, (40,), subsampling="4:4:4")[down:, right:]
    moved = degrade(rgb[down:, right:], (40,), subsampling="4:4:4", grid_shift=(down, right))
    # But for the blocks that the cut went through.
    np.testing.assert_array_equal(moved[8 - down :, 8 - right :], cut[8 - down :, 8 - right :])


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (7, 9), (8, 8), (17, 16)])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_size_keeps_its_shape(shape: tuple[int, int], subsampling: str) -> None:
    rgb = photo(64, 64)[: shape[0], : shape[1]]
    degraded = degrade(rgb, (80, 30, 60), subsampling=subsampling, grid_shift=(7, 13))
    assert degraded.shape == (*shape, 3)
    assert degraded.dtype == np.uint8


def test_random_draws_follow_the_generator() -> None:
    rng = np.random.default_rng
    assert random_qualities(rng(3), 5) == random_qualities(rng(3), 5) != random_qualities(rng(4), 5)
    assert set(random_qualities(rng(0), 4000)) == set(range(5, 96))
    assert random_qualities(rng(0), 0) == ()
    generator = rng(0)
    drawn = {random_grid_shift(generator) for _ in range(3000)}
    assert drawn == {(down, right) for down in range(8) for right in range(8)} - {(0, 0)}


def test_values_that_cannot_be_are_refused() -> None:
    rgb = photo(16, 16)
    for quality in (0, 101, -1):
        with pytest.raises(ValueError, match=f"got {quality}"):
            compress(rgb, quality)
    with pytest.raises(ValueError, match="got '4:2:1'"):
        compress(rgb, 50, "4:2:1")
    for picture in (rgb[..., 0], rgb.astype(np.float32), rgb[:0], rgb[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            degrade(picture, (50,))
    with pytest.raises(ValueError, match="65536x1"):
        compress(np.zeros((1, 65536, 3), np.uint8), 50)
    with pytest.raises(ValueError, match="cannot decode"):
        decompress(b"<html>")
    with pytest.raises(ValueError, match="cannot decode"):
        decompress(encode(rgb, mode="CMYK"))
