import io
import time

import numpy as np
import pytest
import turbojpeg
from jpegs import (
    encode,
    every_kind,
    flip_bits,
    insert_segment,
    photo,
    save,
    segments,
    twelve_bit_jpeg,
    with_declared_size,
    without_segment,
)
from PIL import Image, JpegPresets

from pipeline.degrade import compress
from pipeline.jpeg_quality import MAX_STANDARD_TABLE_ERROR, fit_quality, ijg_luma_tables
from pipeline.jpeg_scan import (
    JpegFormatError,
    check_integrity,
    find_zero_hole,
    scan_jpeg,
    sniff_format,
    strict_decode_error,
)

KINDS = every_kind(photo(90, 131))


def zigzag(table: list[int]) -> bytes:
    """64 entries in natural order -> zigzag order, by the rule of T.81 figure A.6."""
    by_diagonal = sorted(
        range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8)
    )
    return bytes(table[i] for i in by_diagonal)


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
    assert header.arithmetic == kind.startswith("arithmetic")
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


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_ijg_quality_from_pillow(mode, progressive: bool) -> None:
    rgb = photo(16, 16)
    for quality in range(1, 101):
        sampling = ("4:2:0", "4:2:2", "4:4:4")[quality % 3]
        jpeg = encode(
            rgb, quality=quality, subsampling=sampling, mode=mode, progressive=progressive
        )
        header = scan_jpeg(jpeg)
        assert (header.quality, header.quality_error) == (quality, 0.0)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_every_ijg_quality_from_libjpeg_turbo(subsampling: str) -> None:
    rgb = photo(16, 16)
    found = [scan_jpeg(compress(rgb, quality, subsampling)).quality for quality in range(1, 101)]
    assert found == list(range(1, 101))


def test_16_bit_tables_are_fitted_without_the_clamp_at_255() -> None:
    for quality in (1, 5, 24, 60, 100):
        table = ijg_luma_tables(32767)[quality - 1]
        jpeg = without_segment(KINDS["gray"], 0xDB)
        jpeg = insert_segment(jpeg, 0xDB, b"\x10" + table.astype(">u2").tobytes())
        assert (scan_jpeg(jpeg).quality, scan_jpeg(jpeg).quality_error) == (quality, 0.0)


def test_component_0_names_the_table_that_is_fitted() -> None:
    luma, chroma = (bytes(ijg_luma_tables()[q - 1].astype(np.uint8)) for q in (33, 90))
    jpeg = without_segment(KINDS["baseline"], 0xDB)
    jpeg = bytearray(
        insert_segment(jpeg, 0xDB, b"\x00" + chroma + b"\x03" + luma + b"\x01" + chroma)
    )
    assert scan_jpeg(bytes(jpeg)).quality == 90
    start = next(start for marker, start, _ in segments(jpeg) if marker == 0xC0)
    jpeg[start + 12] = 3
    assert scan_jpeg(bytes(jpeg)).quality == 33


def test_fit_is_the_least_squares_one_and_refuses_foreign_tables() -> None:
    rng = np.random.default_rng(0)
    for quality in (10, 50, 75, 92):
        noisy = ijg_luma_tables()[quality - 1] + rng.integers(-3, 4, 64)
        table = np.clip(noisy, 1, 255).astype(np.uint8)
        squares = [np.square(table - t.astype(float)).sum() for t in ijg_luma_tables()]
        nearest = ijg_luma_tables()[int(np.argmin(squares))]
        assert fit_quality(table.tobytes())[1] == pytest.approx(np.abs(table - nearest).mean())
    rounded_otherwise = np.maximum(ijg_luma_tables()[74] - (np.arange(64) % 2), 1).astype(np.uint8)
    assert fit_quality(rounded_otherwise.tobytes())[0] == 75
    for preset in ("web_low", "web_medium", "web_high", "low", "medium", "high"):
        photoshop = zigzag(JpegPresets.presets[preset]["quantization"][0])
        quality, error = fit_quality(photoshop)
        assert quality is None
        assert error > MAX_STANDARD_TABLE_ERROR
    with pytest.raises(ValueError, match="got 63"):
        fit_quality(bytes(63))


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


def test_12_bit_file_is_described() -> None:
    header = scan_jpeg(twelve_bit_jpeg())
    assert (header.precision_bits, header.width, header.height) == (12, 48, 32)
    assert check_integrity(twelve_bit_jpeg(), header, "full") is None


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
            check_integrity(data, header, "fast", max_pixels=0)
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
            check_integrity(data + b"\xff\xd9", scan_jpeg(data + b"\xff\xd9"), "fast", max_pixels=0)
            check_integrity(data, header, "fast", max_pixels=0)
        except JpegFormatError:
            pass
    assert time.process_time() - begin < 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_not_accused(kind: str) -> None:
    jpeg = KINDS[kind]
    for level in ("off", "fast", "full"):
        assert check_integrity(jpeg, scan_jpeg(jpeg), level) is None


def test_flat_pictures_full_of_zero_runs_are_not_accused() -> None:
    suspects = 0
    for level in (0, 128, 255):
        rgb = np.full((512, 512, 3), level, np.uint8)
        rgb[200:216, 200:216] = photo(16, 16)
        for options in ({"optimize": True}, {"progressive": True}, {}):
            for mode in ("RGB", "L"):
                jpeg = encode(rgb, mode=mode, **options)
                header = scan_jpeg(jpeg)
                suspects += find_zero_hole(jpeg, header) is not None
                assert check_integrity(jpeg, header, "fast") is None
    assert suspects > 0


def test_damage_is_found_and_named() -> None:
    jpeg = encode(photo(300, 400), quality=60)
    header = scan_jpeg(jpeg)
    middle = (header.scan_offset + len(jpeg)) // 2
    cut = jpeg[:middle]
    hole = jpeg[:middle] + bytes(3000) + jpeg[middle + 3000 :]
    stray_marker = jpeg[:middle] + b"\xff\xc0" + jpeg[middle + 2 :]
    assert find_zero_hole(hole, header) in range(middle - 2, middle + 1)
    assert find_zero_hole(jpeg, header) is None
    for damaged, reason in (
        (cut, "truncated"),
        (hole, "zero-filled hole at byte"),
        (stray_marker, "marker 0xFFC0 inside"),
        (cut + jpeg, "marker 0xFFD8 inside"),
    ):
        found = scan_jpeg(damaged)
        assert reason in (check_integrity(damaged, found, "fast") or "")
        assert reason in (check_integrity(damaged, found, "full") or "")
        assert check_integrity(damaged, found, "off") is None
    closed = cut + b"\xff\xd9"
    assert check_integrity(closed, scan_jpeg(closed), "fast") is None
    assert "premature end" in (check_integrity(closed, scan_jpeg(closed), "full") or "")


def test_restart_markers_must_count_up() -> None:
    jpeg = encode(photo(300, 400), restart_marker_rows=1)
    at = jpeg.index(b"\xff\xd3", scan_jpeg(jpeg).scan_offset)
    lost = jpeg[:at] + jpeg[jpeg.index(b"\xff\xd4", at) :]
    assert "restart marker 4" in (check_integrity(lost, scan_jpeg(lost), "fast") or "")


def test_most_bit_flips_are_found_by_a_strict_decode() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for seed in range(20):
        jpeg = encode(photo(96, 128, seed))
        damaged = flip_bits(jpeg, rng, flips=10, start=scan_jpeg(jpeg).scan_offset)
        found += check_integrity(damaged, scan_jpeg(damaged), "full") is not None
    assert found >= 15


def test_scans_and_pixels_are_limited() -> None:
    jpeg = KINDS["progressive"]
    last_scan = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:-2] + jpeg[last_scan:-2] * 600 + jpeg[-2:]
    assert check_integrity(bomb, scan_jpeg(bomb), "fast") == "more than 500 scans"
    huge = with_declared_size(KINDS["baseline"], 65500, 65500)
    assert check_integrity(huge, scan_jpeg(huge), "full") is None
    with pytest.raises(ValueError, match="'deep'"):
        check_integrity(jpeg, scan_jpeg(jpeg), "deep")  # type: ignore[arg-type]


def test_strict_decode_error_is_one_line_or_none() -> None:
    assert strict_decode_error(KINDS["baseline"]) is None
    message = strict_decode_error(KINDS["baseline"][:-500])
    assert message
    assert "\n" not in message


def test_formats_are_known_by_content() -> None:
    rgb = photo(20, 20)
    for name in ("png", "webp", "gif", "bmp", "tiff", "jpeg2000", "jpeg", "avif"):
        assert sniff_format(save(rgb, name)) == name
    assert sniff_format(b"") == "empty"
    assert sniff_format(b"\n <!DOCTYPE HTML>") == "html"
    assert sniff_format(b"\xef\xbb\xbf<?xml version") == "xml"
    assert sniff_format(b"PAR1....") == "parquet"
    assert sniff_format(bytes(257) + b"ustar\0") == "tar"
    assert sniff_format(b"\x1f\x8b\x08") == "gzip"
    assert sniff_format(b"anything else") is None


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
