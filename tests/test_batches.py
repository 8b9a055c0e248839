"""Which images are decoded together: each once, few enough to fit, the large ones apart."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pixels.batches import LARGE_PIXELS, batches
from pipeline.records import EncodedImage

LARGE = (1001, 1000)
HUGE = (10_000, 9_000)
MAX_PIXELS = 256_000_000


def images(sizes: Sequence[tuple[int, int]]) -> list[EncodedImage]:
    return [EncodedImage(row, b"data", size=size) for row, size in enumerate(sizes)]


def rows(
    sizes: Sequence[tuple[int, int]], max_images: int, *, large_apart: bool
) -> list[list[int]]:
    found = batches(images(sizes), max_images, MAX_PIXELS, large_apart=large_apart)
    return [[image.row for image in batch] for batch in found]


def test_small_ones_stay_in_their_order() -> None:
    for apart in (False, True):
        assert rows([(9, 9)] * 5, 2, large_apart=apart) == [[0, 1], [2, 3], [4]]
        assert rows([], 2, large_apart=apart) == []


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
    sizes=st.lists(st.tuples(side, side), max_size=30),
    max_images=st.integers(1, 8),
    large_apart=st.booleans(),
)
def test_every_image_comes_once(
    sizes: list[tuple[int, int]], max_images: int, *, large_apart: bool
) -> None:
    found = rows(sizes, max_images, large_apart=large_apart)
    assert sorted(row for batch in found for row in batch) == list(range(len(sizes)))
    for batch in found:
        pixels = [height * width for height, width in (sizes[row] for row in batch)]
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
