import io
import time

import numpy as np
import pytest
import turbojpeg
from jpegs import (
    encode,
    every_kind,
    insert_segment,
    photo,
    segments,
    without_segment,
)
from PIL import Image

from jobs.demo_corpus import twelve_bit_jpeg, with_declared_size
from pipeline.jpeg_scan import JpegFormatError, scan_jpeg, without_stray_bytes
from pipeline.screening.jpeg_integrity import check_integrity
from pipeline.screening.strict_decode import strict_decode_error

KINDS = every_kind(photo(90, 131))


@pytest.mark.parametrize("kind", KINDS)
def test_header_agrees_with_pillow_and_libjpeg(kind: str) -> None:
    jpeg = KINDS[kind]
    header = scan_jpeg(jpeg)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (header.width, header.height) == image.size == (131, 90)
        assert header.components == len(image.getbands())
        assert header.progressive == bool(image.info.get("progressive"))
    assert header.scan_offset == segments(jpeg)[-1][2]
    assert header.complete
    assert not scan_jpeg(jpeg[:-2]).complete or kind == "mpo"
    assert header.precision_bits == 8
    assert (header.sof_marker > 0xC8) == kind.startswith("arithmetic")
    assert header.lossless == (kind == "lossless")
    assert header.quality == (None if kind == "lossless" else 75)
    assert header.quality_error == (None if kind == "lossless" else 0)


@pytest.mark.parametrize("name", ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "4:4:1"])
def test_subsampling_names(name: str) -> None:
    sampling = getattr(turbojpeg.SAMP, "Y" + name.replace(":", ""))
    assert scan_jpeg(turbojpeg.compress(photo(40, 40), 50, sampling)).subsampling == name
    assert scan_jpeg(encode(photo(8, 8), mode="L")).subsampling == "gray"


def with_sampling(factors: bytes) -> bytes:
    jpeg = bytearray(KINDS["baseline"])
    start = next(start for marker, start, _ in segments(jpeg) if marker == 0xC0)
    jpeg[start + 11 : start + 20 : 3] = factors
    return bytes(jpeg)


@pytest.mark.parametrize(
    ("factors", "name"),
    [
        (b"\x42\x11\x11", "4:1:0"),
        (b"\x21\x21\x21", "4:4:4"),
        (b"\x22\x21\x21", "4:4:0"),
        (b"\x22\x12\x11", "2x2,1x2,1x1"),
        (b"\x11\x22\x22", "1x1,2x2,2x2"),
        (b"\x31\x21\x21", "3x1,2x1,2x1"),
    ],
)
def test_unusual_sampling_factors(factors: bytes, name: str) -> None:
    assert scan_jpeg(with_sampling(factors)).subsampling == name


def test_thumbnail_and_second_picture_are_not_mistaken_for_the_picture() -> None:
    thumbnail = KINDS["thumbnail"]
    header = scan_jpeg(thumbnail)
    assert (header.width, header.quality) == (131, 75)
    assert not scan_jpeg(thumbnail[: header.scan_offset + 50]).complete
    assert scan_jpeg(KINDS["mpo"][: len(KINDS["mpo"]) // 2 + 400]).complete


def test_legal_but_unusual_layouts() -> None:
    plain = KINDS["baseline"]
    expected = scan_jpeg(plain)
    fill = plain[:2] + b"\xff" * 1000 + plain[2:]
    long_comments = plain
    for _ in range(50):
        long_comments = insert_segment(long_comments, 0xFE, bytes(65533))
    layouts = (fill, long_comments, insert_segment(plain, 0xFE, b""), plain + bytes(5000))
    for layout in layouts:
        header = scan_jpeg(layout)
        assert (header.width, header.quality, header.complete) == (131, expected.quality, True)
        assert check_integrity(layout, header, "fast") is None
    stray = scan_jpeg(plain[:20] + b"\x01\x02\xff\x00\x03" + plain[20:])
    assert stray.scan_offset == expected.scan_offset + 5


def test_a_frame_is_told_by_its_marker() -> None:
    jpeg = KINDS["baseline"]
    at = jpeg.index(b"\xff\xc0") + 1
    for marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB):
        header = scan_jpeg(jpeg[:at] + bytes([marker]) + jpeg[at + 1 :])
        assert header.sof_marker == marker
        assert header.progressive == (marker in (0xC2, 0xCA))
        assert header.lossless == (marker in (0xC3, 0xCB))
    for marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
        with pytest.raises(JpegFormatError, match="hierarchical"):
            scan_jpeg(jpeg[:at] + bytes([marker]) + jpeg[at + 1 :])


def test_12_bit_file_is_described() -> None:
    header = scan_jpeg(twelve_bit_jpeg())
    assert (header.precision_bits, header.width, header.height) == (12, 48, 32)


SOF = segments(KINDS["baseline"])[3][1]


def edited(at: int, new: bytes) -> bytes:
    return KINDS["baseline"][:at] + new + KINDS["baseline"][at + len(new) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<html><body>", "html: starts with '<html"),
        (b"\0" * 900, "zeros"),
        (b"\x01garbage", "not a JPEG: starts with"),
        (b"\xff\xd8", "ends before the frame"),
        (b"\xff\xd8\xff\xd9", "EOI marker at byte 2"),
        (KINDS["baseline"][:60], "ends inside segment 0xFFDB at byte 20: 38 of 67"),
        (KINDS["baseline"][:620], "ends"),
        (edited(22, b"\0\1"), "declares 1 bytes"),
        (edited(SOF + 9, b"\0"), "0 components"),
        (edited(SOF + 9, b"\x04"), "need 18"),
        (edited(SOF + 4, b"\x09"), "9-bit"),
        (edited(SOF + 11, b"\x50"), "sampling factors 5x0"),
        (edited(SOF + 12, b"\x07"), "table 7 but never defines"),
        (edited(SOF + 12, b"\x03"), "table 3 but never defines"),
        (with_declared_size(KINDS["baseline"], 0, 20), "height of 0.*DNL"),
        (with_declared_size(KINDS["baseline"], 20, 0), "width of 0"),
        (without_segment(KINDS["baseline"], 0xC0), "before any frame"),
        (without_segment(KINDS["baseline"], 0xDB), "never defines"),
        (edited(20, b"\xff\xd8"), "second start-of-image"),
        (edited(20, b"\xff\xf7"), "JPEG-LS"),
        (edited(20, b"\xff\xde"), "hierarchical"),
        (edited(20, b"\xff\x33"), "unknown marker 0xFF33"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000, "more than 10000 segments"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(JpegFormatError, match=message) as caught:
        scan_jpeg(data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def mutate(jpeg: bytes, end: int, rng: np.random.Generator) -> bytes:
    """One to four flips, deletions, insertions, length edits or a cut among the first `end`."""
    data = bytearray(jpeg)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, min(end, len(data) - 2)))
        match int(rng.integers(6)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.choice([0, 0xFF, 0xD8, 0xD9, 0xDA, 0xDB, 0xC0, 0xC4]))
            case 2:
                del data[at : at + int(rng.integers(1, 20))]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 20)))
            case 4:
                start = int(rng.choice([s for _, s, _ in segments(jpeg)]))
                if start + 4 < len(data):
                    data[start + 2 : start + 4] = rng.bytes(2)
            case 5 if rng.random() < 0.3:
                del data[max(at, 3) :]
                break
        if len(data) < 8:
            break
    return bytes(data)


def test_mutated_headers_raise_nothing_else_and_never_hang() -> None:
    rng = np.random.default_rng(7)
    originals = [
        *every_kind(photo(24, 33)).values(),
        twelve_bit_jpeg(),
    ]
    spans = [scan_jpeg(jpeg).scan_offset + 10 for jpeg in originals]
    read = refused = 0
    slowest_s = 0.0
    for index in range(12_000):
        which = index % len(originals)
        data = mutate(originals[which], spans[which], rng)
        start = time.process_time()
        try:
            header = scan_jpeg(data)
            read += 1
        except JpegFormatError:
            refused += 1
        else:
            check_integrity(data, header, "fast")
            assert 1 <= header.components <= 4
            assert header.width > 0 < header.height
            assert header.scan_offset <= len(data)
        slowest_s = max(slowest_s, time.process_time() - start)
    assert read > 1000 < refused
    assert slowest_s < 1.0


def test_nothing_that_libjpeg_decodes_without_complaint_is_refused() -> None:
    rng = np.random.default_rng(11)
    originals = list(every_kind(photo(24, 33)).values())
    refused = same_size = 0
    for index in range(4000):
        jpeg = originals[index % len(originals)]
        data = mutate(jpeg, scan_jpeg(jpeg).scan_offset, rng)
        try:
            size = turbojpeg.decompress_header(data)
            libjpeg_error = strict_decode_error(data)
        except RuntimeError as error:
            libjpeg_error = str(error)
        try:
            header = scan_jpeg(data)
        except JpegFormatError:
            refused += 1
            assert libjpeg_error is not None
            continue
        if libjpeg_error is None:
            assert (header.width, header.height) == (size["width"], size["height"])
            same_size += 1
    assert refused > 500 < same_size


@pytest.mark.parametrize("kind", KINDS)
def test_stray_bytes_are_left_out_wherever_they_stand(kind: str) -> None:
    jpeg = KINDS[kind]
    assert without_stray_bytes(jpeg) == jpeg
    for _, start, _ in segments(jpeg):
        stray = jpeg[:start] + b"\x00junk\xff\x00" + jpeg[start:]
        assert scan_jpeg(stray).quality == scan_jpeg(jpeg).quality
        assert without_stray_bytes(stray) == jpeg
        with_marker = jpeg[:start] + b"\xff\x01" + jpeg[start:]  # which has no length
        assert without_stray_bytes(with_marker) == with_marker


@pytest.mark.parametrize(
    "filler",
    [
        b"\xff",
        b"\xff\x00",
        b"\xff\xd0",
        b"\x00",
        b"\xff\xfe\x00\x02",
        b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00",
        b"\xff\xc4\x00\x02",
        b"\xff\xdb\x00\x02",
    ],
    ids=repr,
)
def test_time_is_linear_in_hostile_bytes(filler: bytes) -> None:
    """2 MB of the same bytes, in the header and behind the scan header, cost a second at most."""
    start, scan = (
        KINDS["baseline"][:2],
        KINDS["baseline"][: scan_jpeg(KINDS["baseline"]).scan_offset],
    )
    begin = time.process_time()
    for head in (start, scan):
        data = head + filler * (2_000_000 // len(filler))
        try:
            header = scan_jpeg(data)
            check_integrity(data + b"\xff\xd9", scan_jpeg(data + b"\xff\xd9"), "fast")
            check_integrity(data, header, "fast")
        except JpegFormatError:
            pass
    assert time.process_time() - begin < 2.0


def test_scan_costs_microseconds() -> None:
    """The budget is 20 µs an image; a loaded machine gets five times that before this fails."""
    jpeg = encode(photo(375, 500))
    best_s = min(_seconds_of_100_scans(jpeg) for _ in range(10))
    assert best_s / 100 < 100e-6


def _seconds_of_100_scans(jpeg: bytes) -> float:
    start = time.process_time()
    for _ in range(100):
        scan_jpeg(jpeg)
    return time.process_time() - start
