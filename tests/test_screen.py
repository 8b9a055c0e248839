"""What is decided from the bytes alone; whether the decoder agrees is in test_decode."""

import re
import struct
import tracemalloc
import zlib
from dataclasses import replace

import PIL
import pytest
from damage import many_scans
from decoding import screened
from jpegs import (
    arithmetic,
    encode,
    every_kind,
    photo,
    png_chunk,
    save,
    with_png_chunks,
)
from packaging.version import Version

from jobs.demo_corpus import twelve_bit_jpeg, with_declared_size
from pipeline.jpeg_scan import scan_jpeg
from pipeline.records import EncodedImage, Status
from pipeline.screening.screen import Limits, screen

RGB = photo(60, 80)
JPEG = encode(RGB)
PNG = save(RGB, "PNG")
WEBP = save(RGB, "WEBP", quality=80)
HUGE_SIZE = struct.pack(">IIL", 20_000, 10_000, 0x08020000) + b"\0"
# The canvas in its header is larger than its picture, and than Pillow allows.
HUGE_CANVAS = b"VP8X" + struct.pack("<II", 10, 0) + 2 * (60_000 - 1).to_bytes(3, "little")
HUGE_WEBP = b"RIFF" + struct.pack("<I", len(WEBP) - 8 + 18) + b"WEBP" + HUGE_CANVAS + WEBP[12:]
TOO_LARGE_WEBP = (
    "^webp is too large: Image size .3600000000 pixels. exceeds limit"
    if Version(PIL.__version__) >= Version("13")
    else "^webp header is damaged: could not create decoder object$"  # no more is known
)
HUGE_PNG = PNG[:8] + png_chunk(b"IHDR", HUGE_SIZE) + PNG[33:]


def one(data: bytes, **limits: object) -> EncodedImage:
    (image,) = screened([data], replace(Limits(), **limits))
    return image


def test_a_sound_image_is_ok_and_described() -> None:
    for name, data in every_kind(RGB).items():
        image = one(data, integrity="full")
        assert (name, image.status, image.error) == (name, Status.OK, None)
        assert (image.size, image.num_bytes) == ((60, 80), len(data))
        assert image.data is data
        assert image.header is not None


@pytest.mark.parametrize("data", [PNG, WEBP], ids=["png", "webp"])
def test_png_and_webp_are_ok_without_jpeg_columns(data: bytes) -> None:
    image = one(data)
    assert (image.status, image.error, image.size) == (Status.OK, None, (60, 80))
    assert image.header is None
    assert image.data is data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", r"^empty file \(0 bytes\)$"),
        (b"<!DOCTYPE html><title>404</title>", "^not a JPEG, PNG or WebP: the content is html$"),
        (save(RGB, "GIF"), "the content is gif$"),
        (save(RGB, "TIFF"), "the content is tiff$"),
        (b"PAR1" + bytes(99), "the content is parquet; a manifest has to be INPUT itself, as one"),
        (bytes(100), "the content is zeros$"),
        (b"some\nwords", r"^not an image: starts with b'some\\nwords'$"),
        (b"\xff\xd8", "^JPEG header ends before"),
        (b"\xff", "^not an image"),
        (twelve_bit_jpeg(), "^12-bit JPEG: only 8-bit JPEGs are supported$"),
        (PNG[:20], "^png header is damaged: "),
        (PNG[:8] + bytes(100), "^png header is damaged: "),
        (PNG[:8], "^png header is damaged: "),
        (WEBP[:16], "^webp header is damaged: "),
        (PNG[:16] + b"\xff\xff\xff\xf0" * 2 + PNG[24:], "^png "),
        (PNG[:20] + b"\xff" + PNG[21:], "^png header is damaged: broken PNG file"),
        (HUGE_PNG, "^20000x10000 is 200000000 pixels, over --max-pixels 100000000$"),
        (HUGE_WEBP, TOO_LARGE_WEBP),
    ],
)
def test_what_is_no_image_is_rejected_in_one_line(data: bytes, error: str) -> None:
    for integrity in ("off", "fast", "full"):
        image = one(data, integrity=integrity)
        assert image.status == Status.REJECTED
        assert re.search(error, image.error or "")
        assert "\n" not in (image.error or "")
        assert " at 0x" not in (image.error or "")  # else rows differ from run to run
        assert image.data == b""
        assert image.num_bytes == len(data)


def test_header_only() -> None:
    offset = one(JPEG).header.scan_offset  # type: ignore[union-attr]
    for data in (JPEG[:offset], JPEG[:offset] + b"\xff\xd9", JPEG[: offset + 1]):
        image = one(data)
        assert image.status == Status.REJECTED
        assert image.error == "header only: the JPEG ends before its image data"
        assert image.size == (60, 80)  # still known, and so in the row


def test_arithmetic_coding_is_ok() -> None:
    image = one(arithmetic(RGB), integrity="full")
    assert (image.status, image.error) == (Status.OK, None)


@pytest.mark.parametrize("integrity", ["off", "fast", "full"])
def test_a_truncated_jpeg_gets_its_end_back(integrity: str) -> None:
    cut = JPEG[: len(JPEG) * 2 // 3]
    image = one(cut, integrity=integrity)
    assert image.data == cut + b"\xff\xd9"
    assert image.num_bytes == len(cut)
    if integrity == "off":
        assert (image.status, image.error) == (Status.OK, None)
    else:
        assert image.status == Status.DAMAGED
        assert (image.error or "").startswith("truncated: ")


def test_the_levels_of_integrity_find_more_and_more() -> None:
    cut = JPEG[: len(JPEG) * 2 // 3]
    closed = cut + b"\xff\xd9"
    found = {
        level: (one(cut, integrity=level).status, one(closed, integrity=level).status)
        for level in ("off", "fast", "full")
    }
    assert found == {
        "off": (Status.OK, Status.OK),
        "fast": (Status.DAMAGED, Status.OK),
        "full": (Status.DAMAGED, Status.DAMAGED),
    }


BOMB = zlib.compress(bytes(2_000_000), 9)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"icc\0\0" + BOMB),
        png_chunk(b"zTXt", b"a\0\0" + BOMB),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        png_chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        png_chunk(b"acTL", struct.pack(">II", 0, 0)),
    ],
    ids=["profile", "text", "xmp", "checksum", "animation"],
)
@pytest.mark.filterwarnings("error")
def test_a_chunk_that_pillow_does_not_take_costs_no_png(chunk: bytes) -> None:
    image = one(with_png_chunks(PNG, b"IDAT", chunk))
    assert (image.status, image.error, image.size) == (Status.OK, None, (60, 80))
    assert image.data == PNG


def test_max_pixels_is_inclusive() -> None:
    for data in (JPEG, PNG, WEBP):
        assert one(data, max_pixels=60 * 80).status == Status.OK
        image = one(data, max_pixels=60 * 80 - 1)
        assert image.status == Status.REJECTED
        assert image.error == "80x60 is 4800 pixels, over --max-pixels 4799"
        assert image.data == b""
        assert image.size == (60, 80)


def test_max_pixels_is_the_only_limit() -> None:
    """Pillow has one of its own, of 179 million."""
    assert one(HUGE_PNG, max_pixels=200_000_000).status == Status.OK


def test_the_number_of_scans_is_limited_inclusively() -> None:
    whole = encode(photo(48, 64), progressive=True)
    own = scan_jpeg(whole).scans
    for scans, status in ((100, Status.OK), (101, Status.REJECTED)):
        assert one(many_scans(whole, scans - own)).status == status


def test_scans_of_single_components_count_too() -> None:
    whole = encode(photo(48, 64))
    start = scan_jpeg(whole).scan_offset
    header = whole.index(b"\xff\xda")
    luma, chroma = (
        b"\xff\xda\0\x08\1" + whole[at : at + 2] + b"\0\x3f\0" for at in (header + 5, header + 7)
    )
    for scans, status in ((100, Status.OK), (101, Status.REJECTED)):
        apart = whole[:header] + luma + whole[start:-2] + (chroma + bytes(4)) * (scans - 1)
        assert scan_jpeg(apart + b"\xff\xd9").scans == scans
        assert one(apart + b"\xff\xd9").status == status


@pytest.mark.parametrize("integrity", ["fast", "full"])
def test_absurd_dimensions_allocate_nothing(integrity: str) -> None:
    huge_jpeg = with_declared_size(JPEG, 65500, 65500)
    huge_hole = huge_jpeg[:-100] + bytes(98) + huge_jpeg[-2:]  # what has a strict decode ask more
    huge_png = save(photo(2, 2), "PNG")
    tracemalloc.start()
    try:
        for data in (huge_jpeg, huge_hole):
            image = one(data, integrity=integrity)
            assert image.error == "65500x65500 is 4290250000 pixels, over --max-pixels 100000000"
        assert one(huge_png, max_pixels=3).status == Status.REJECTED
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_pixels 0 is not positive"):
        Limits(max_pixels=0)


def test_an_image_that_was_not_read_is_left_alone() -> None:
    image = EncodedImage(0, num_bytes=7)
    image.fail(Status.UNREADABLE, "gone")
    screen(image, Limits())
    assert (image.status, image.error, image.num_bytes) == (Status.UNREADABLE, "gone", 7)
