"""Which images are decoded together: each once, few enough to fit, the large ones apart."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pixels.batches import LARGE_PIXELS, batches
from pipeline.records import EncodedImage, Status

LARGE = (1001, 1000)
HUGE = (10_000, 9_000)
MAX_PIXELS = 256_000_000


def images(sizes: Sequence[tuple[int, int] | None]) -> list[EncodedImage]:
    """None: an image that cannot be decoded."""
    made = []
    for row, size in enumerate(sizes):
        image = EncodedImage(row, b"data", size=size or (1, 1))
        if size is None:
            image.fail(Status.REJECTED, "damaged")
        made.append(image)
    return made


def rows(
    sizes: Sequence[tuple[int, int] | None], max_images: int, *, large_apart: bool
) -> list[list[int]]:
    found = batches(images(sizes), max_images, MAX_PIXELS, large_apart=large_apart)
    return [[image.row for image in batch] for batch in found]


def test_small_ones_stay_in_their_order() -> None:
    for apart in (False, True):
        assert rows([(9, 9)] * 5, 2, large_apart=apart) == [[0, 1], [2, 3], [4]]
        assert rows([(9, 9), None, (9, 9)], 2, large_apart=apart) == [[0, 2]]
        assert rows([None], 2, large_apart=apart) == rows([], 2, large_apart=apart) == []


def test_large_ones_wait_for_each_other() -> None:
    sizes = [(9, 9), LARGE, (9, 9), (1000, 1000), LARGE, LARGE]
    assert rows(sizes, 2, large_apart=True) == [[0, 2], [1, 4], [3], [5]]
    assert rows(sizes, 2, large_apart=False) == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_fits_whatever_the_images_are() -> None:
    assert rows([HUGE] * 5, 256, large_apart=True) == [[0, 1], [2, 3], [4]]
    assert rows([HUGE] * 5, 256, large_apart=False) == [[0, 1], [2, 3], [4]]
    assert rows([(20_000, 20_000), (9, 9)], 256, large_apart=False) == [[0], [1]]


side = st.integers(1, 30_000)


@given(
    sizes=st.lists(st.none() | st.tuples(side, side), max_size=30),
    max_images=st.integers(1, 8),
    large_apart=st.booleans(),
)
def test_every_decodable_image_comes_once(
    sizes: list[tuple[int, int] | None], max_images: int, *, large_apart: bool
) -> None:
    found = rows(sizes, max_images, large_apart=large_apart)
    assert sorted(row for batch in found for row in batch) == [
        row for row, size in enumerate(sizes) if size is not None
    ]
    for batch in found:
        pixels = [
            height * width for row in batch if (size := sizes[row]) for height, width in [size]
        ]
        assert 1 <= len(batch) <= max_images
        assert len(batch) == 1 or sum(pixels) <= MAX_PIXELS
        if large_apart:
            assert len({count > LARGE_PIXELS for count in pixels}) == 1
        else:
            assert batch == sorted(batch)


@pytest.mark.parametrize("large_apart", [False, True])
def test_no_more_images_are_asked_for_than_a_batch_needs(*, large_apart: bool) -> None:
    source = iter(images([(9, 9)] * 10))
    next(batches(source, 4, MAX_PIXELS, large_apart=large_apart))
    assert next(source).row == 4
