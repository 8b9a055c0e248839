"""Which images a decoder lets through, and that a bad one costs nobody else anything."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
import pytest
from decoding import Decoded, decode_all, plain, screened
from jpegs import encode, photo, refused

from pipeline.decode import DecodeOptions, Decoder
from pipeline.records import EncodedImage, Status
from pipeline.stage_clock import StageClock

BAD = refused()
GOOD = [encode(photo(60 + seed, 80, seed)) for seed in range(10)]


def assert_same(found: dict[int, Decoded], expected: dict[int, Decoded]) -> None:
    assert sorted(found) == sorted(expected)
    for row, image in found.items():
        np.testing.assert_array_equal(image.rgb, expected[row].rgb)
        np.testing.assert_array_equal(image.dct, expected[row].dct)


@pytest.mark.parametrize("bad", BAD, ids=["named", "unnamed"])
@pytest.mark.parametrize(
    "at", [(0,), (3,), (4,), (9,), (0, 1, 2, 3), (0, 3, 6, 9), (8, 9)], ids=str
)
def test_a_bad_image_costs_and_changes_no_other(
    small_decoder: Decoder, bad: bytes, at: tuple[int, ...]
) -> None:
    files = [bad if row in at else data for row, data in enumerate(GOOD)]
    images = screened(files)
    expected = decode_all(small_decoder, screened(GOOD))
    found = decode_all(small_decoder, images)
    assert_same(found, {row: image for row, image in expected.items() if row not in at})
    for image in images:
        assert image.status == (Status.REJECTED if image.row in at else Status.OK)
        assert (image.error is not None) == (image.row in at)
        assert image.data == b""  # the encoded bytes are freed either way


@pytest.mark.parametrize("at", [range(17, 32), range(16), [31]], ids=["last", "first", "one"])
def test_dali_never_sees_a_header_that_it_refuses(
    at: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch this large it reads the headers in two threads, and may kill the process."""
    decoder = Decoder(plain(64, 64), DecodeOptions(batch_size=32, num_threads=1))
    taken, refused_batches = decoder._pipeline.share_outputs, 0

    def counting() -> object:
        nonlocal refused_batches
        try:
            return taken()
        except RuntimeError:
            refused_batches += 1
            raise

    monkeypatch.setattr(decoder._pipeline, "share_outputs", counting)
    unnamed = BAD[1]
    images = screened(unnamed if row in at else GOOD[row % len(GOOD)] for row in range(32))
    assert sorted(decode_all(decoder, images)) == [row for row in range(32) if row not in at]
    assert {image.row for image in images if image.status == Status.REJECTED} == set(at)
    assert refused_batches == 0


def test_both_kinds_of_refusal_in_one_batch(small_decoder: Decoder) -> None:
    for order in permutations([BAD[0], BAD[1], GOOD[0], GOOD[1]]):
        images = screened(order)
        found = decode_all(small_decoder, images)
        good = [row for row, data in enumerate(order) if data in GOOD]
        assert sorted(found) == good
        assert [i.row for i in images if i.status == Status.OK] == good


def test_nothing_but_bad_images(small_decoder: Decoder) -> None:
    images = screened(BAD * 5)
    assert decode_all(small_decoder, images) == {}
    assert {image.status for image in images} == {Status.REJECTED}
    assert decode_all(small_decoder, []) == {}
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_images_left_over_come_in_a_smaller_batch(small_decoder: Decoder, count: int) -> None:
    batches = [
        [image.row for image in batch.images]
        for batch in small_decoder.decode(screened(GOOD[:count]), StageClock())
    ]
    assert [row for batch in batches for row in batch] == list(range(count))
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_what_is_not_decodable_is_passed_over(small_decoder: Decoder) -> None:
    images = screened([b"", *GOOD[:5], b"<html>"])
    images[2].fail(Status.UNREADABLE, "gone")
    assert sorted(decode_all(small_decoder, images)) == [1, 3, 4, 5]
    assert images[2].status == Status.UNREADABLE


def test_a_consumer_that_stops_leaves_the_decoder_usable(small_decoder: Decoder) -> None:
    expected = decode_all(small_decoder, screened(GOOD[:3]))
    for batches_taken in (0, 1, 2):
        batches = small_decoder.decode(screened([*GOOD, BAD[0], *GOOD]), StageClock())
        for _ in range(batches_taken):
            next(batches)
        batches.close()
        assert_same(decode_all(small_decoder, screened(GOOD[:3])), expected)


def test_a_source_that_fails_leaves_the_decoder_usable(small_decoder: Decoder) -> None:
    def images() -> Iterator[EncodedImage]:
        yield from screened(GOOD)
        raise KeyError("the reader's own error")

    with pytest.raises(KeyError, match="the reader's own error"):
        decode_all(small_decoder, images())
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


def test_an_error_that_no_image_is_to_blame_for_is_raised(
    small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = small_decoder._pipeline
    taken = pipeline.share_outputs

    def failing() -> object:
        taken()
        pipeline.release_outputs()
        raise RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation: out of memory")

    images = screened(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "share_outputs", failing)
        with pytest.raises(RuntimeError, match="cudaErrorMemoryAllocation"):
            decode_all(small_decoder, images)
    assert all(image.status == Status.OK for image in images)
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


@pytest.mark.parametrize(
    "message", ["Failed to decode sample #0 :", "nvImageCodec failure: '#17'"], ids=["named", "17"]
)
@pytest.mark.parametrize("sound_batches", [0, 1, 2])
def test_a_decoder_that_refuses_everything_is_not_the_images_fault(
    small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch, message: str, sound_batches: int
) -> None:
    """As a GPU does whose driver fails: DALI words it as it words a damaged picture."""
    pipeline = small_decoder._pipeline
    taken, calls = pipeline.share_outputs, 0

    def failing() -> object:
        nonlocal calls
        calls += 1
        if calls <= sound_batches:
            return taken()
        taken()
        pipeline.release_outputs()
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "share_outputs", failing)
        with pytest.raises(RuntimeError, match="refuses a known-good image too"):
            decode_all(small_decoder, screened(GOOD))
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


def test_batches_are_fed_ahead_but_not_all_at_once(small_decoder: Decoder) -> None:
    asked_for = 0

    def images() -> Iterator[EncodedImage]:
        nonlocal asked_for
        for image in screened(GOOD * 4):
            asked_for += 1
            yield image

    batches = small_decoder.decode(images(), StageClock())
    next(batches)
    assert 4 < asked_for <= 4 * 4  # one in use, two ahead, and the one being put together
    batches.close()
