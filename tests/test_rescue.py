"""Which errors blame an image, and how a refused batch is split; the whole is in test_decode."""

import struct

import numpy as np
import pytest
from decoding import screened
from hypothesis import given
from hypothesis import strategies as st
from jpegs import encode, photo, png_chunk, save
from turbojpeg import PF, SAMP, compress

from pipeline import rescue
from pipeline.records import Status
from pipeline.rescue import (
    admit,
    is_refusal,
    known_good_image,
    reject,
    split_refused,
)
from pipeline.screening.screen import Limits, screen

# As DALI 2.4 words them, shortened.
IN_DECODER = "Error in CPU operator `nvidia.dali.fn.decoders.image`, encountered:\n\n"
NAMED = IN_DECODER + "Failed to decode sample #{} :\n\nCurrent pipeline object is no longer valid."
UNNAMED = IN_DECODER + "nvImageCodec failure: '#{}'\n\nCurrent pipeline object is no longer valid."


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (NAMED.format(0), True),
        (NAMED.format(31), True),
        (UNNAMED.format(3), True),
        (UNNAMED.format(17), True),
        ("CUDA runtime API error cudaErrorMemoryAllocation (2): out of memory", False),
        ("nvImageCodec failure: '#8': out of memory", False),
        (UNNAMED.format(5), False),
        (UNNAMED.format(21), False),
        ("Failed to decode sample #3: Out of Memory", False),
        (f"{NAMED.format(3)}: CUDA allocation failed", False),
        (f"{NAMED.format(3)}: Can't allocate 268435456 bytes on device 0.", False),
        (f"{NAMED.format(3)}: std::bad_alloc", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("Error in GPU operator `nvidia.dali.fn.resize`: roi_start is not finite", False),
        ("", False),
    ],
)
def test_only_what_blames_the_input_is_a_refusal(message: str, expected: bool) -> None:
    assert is_refusal(message) is expected


@given(size=st.integers(2, 70), named=st.none() | st.integers(0, 200))
def test_the_groups_are_the_batch_and_each_is_smaller(size: int, named: int | None) -> None:
    batch = list(range(size))
    groups = split_refused(batch, UNNAMED.format(3) if named is None else NAMED.format(named))
    assert sorted(item for group in groups for item in group) == batch
    assert all(0 < len(group) < size for group in groups)
    if named is not None and named < size:
        assert groups[0] == [named]
    for group in groups:
        assert group == sorted(group)


@given(bad=st.sets(st.integers(0, 39)), names=st.booleans())
def test_splitting_until_it_works_finds_exactly_the_bad(bad: set[int], names: bool) -> None:
    """With one bad image the rest is tried once more, and a few halves; never every image alone."""
    queue, kept, given_up, tries = [list(range(40))], [], [], 0
    while queue:
        batch = queue.pop(0)
        tries += 1
        first = next((place for place, item in enumerate(batch) if item in bad), None)
        if first is None:
            kept += batch
        elif len(batch) == 1:
            given_up += batch
        else:
            queue += split_refused(batch, NAMED.format(first) if names else UNNAMED.format(17))
    assert sorted(kept) == sorted(set(range(40)) - bad)
    assert sorted(given_up) == sorted(bad)
    if len(bad) == 1:
        assert tries <= (4 if names else 13)


def test_the_reason_is_the_best_to_be_had() -> None:
    jpeg, png = encode(photo(40, 40)), save(photo(40, 40), "PNG")
    at = jpeg.index(b"\xff\xc4") + 5
    gray = photo(40, 40)[..., :1]
    lossless = compress(
        np.ascontiguousarray(gray), 75, SAMP.GRAY, pixelformat=PF.GRAY, lossless=True
    )
    cases = [
        (jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :], NAMED.format(0), "Bogus Huffman table"),
        (png, UNNAMED.format(3), "its header is damaged"),
        (png, UNNAMED.format(4), "not an image format the decoder knows"),
        (png, UNNAMED.format(17), "its data is damaged"),
        (png, UNNAMED.format(99), "nvImageCodec status 99"),
        (png, NAMED.format(0), "its data is damaged"),
        (lossless, NAMED.format(0), "a lossless JPEG that is not RGB"),
        (jpeg, UNNAMED.format(3), "its header is damaged"),  # libjpeg has nothing against it
    ]
    for data, message, expected in cases:
        (image,) = screened([data])
        reject(image, message)
        assert image.status == Status.REJECTED
        assert image.data == b""
        assert (image.error or "").startswith(f"cannot be decoded: {expected}")
        assert "\n" not in (image.error or "")


def test_a_header_that_dali_would_refuse_is_told_beforehand(
    capfd: pytest.CaptureFixture[str],
) -> None:
    jpeg, png = encode(photo(40, 40)), save(photo(40, 40), "PNG")
    images = screened([jpeg, png, png[:-40], b""])
    assert images[2].decodable
    assert [admit(image) for image in images] == [True, True, False, False]
    assert [image.status for image in images[:2]] == [Status.OK] * 2
    assert images[2].error == "cannot be decoded: its data is damaged"
    assert capfd.readouterr() == ("", "")  # nor from native code


@pytest.mark.parametrize("side", [40_000, 1_000_000])
def test_a_second_size_in_a_header_is_told_before_memory_is_allocated_for_it(side: int) -> None:
    """The limits hold for the size that Pillow reads, which is the last; DALI takes the first."""
    png = save(photo(40, 60), "PNG")
    first = png_chunk(b"IHDR", struct.pack(">II", side, side) + png[24:29])
    (image,) = screened([png[:8] + first + png[8:]])
    assert image.decodable
    assert not admit(image)
    assert (image.status, image.size) == (Status.REJECTED, (40, 60))
    assert image.error == f"its header states two sizes, 60x40 and {side}x{side}"


def test_stray_bytes_that_only_dali_refuses_are_left_out() -> None:
    jpeg = encode(photo(40, 40))
    at = jpeg.index(b"\xff\xc4")
    stray = jpeg[:at] + b"junk" + jpeg[at:]
    images = screened([stray, stray[:-200]])
    assert all(admit(image) for image in images)
    assert images[0].data == jpeg
    assert [image.status for image in images] == [Status.DAMAGED] * 2
    assert images[0].error == "stray bytes between its segments"
    assert "truncated" in (images[1].error or "")  # what was found first


def test_a_parser_that_refuses_everything_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (image,) = screened([encode(photo(40, 40))])

    def failing(data: bytes) -> None:
        raise RuntimeError("Failed to get image info")

    monkeypatch.setattr(rescue.nvimgcodec, "CodeStream", failing)
    with pytest.raises(
        RuntimeError, match="refuses a known-good image too: Failed to get image info"
    ):
        admit(image)
    assert image.status == Status.OK


def test_the_known_good_image_has_nothing_wrong() -> None:
    image = known_good_image()
    size = image.size
    screen(image, Limits(integrity="full"))
    assert (image.status, image.size) == (Status.OK, size)
