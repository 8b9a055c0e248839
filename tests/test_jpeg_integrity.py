"""Is damage found, and are sound files left alone?"""

import ctypes
from typing import Any

import numpy as np
import pytest
from jpegs import encode, every_kind, photo

from jobs.demo_corpus import flip_bits
from pipeline.jpeg_scan import scan_jpeg
from pipeline.screening import strict_decode
from pipeline.screening.jpeg_integrity import check_integrity, find_zero_hole, readable_part
from pipeline.screening.strict_decode import strict_decode_error

KINDS = every_kind(photo(90, 131))


def check(jpeg: bytes, level: Any) -> str | None:
    return check_integrity(jpeg, scan_jpeg(jpeg), level)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_not_accused(kind: str) -> None:
    jpeg = KINDS[kind]
    for level in ("off", "fast", "full"):
        assert check(jpeg, level) is None


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
                assert check(jpeg, "fast") is None
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
        assert reason in (check(damaged, "fast") or "")
        assert reason in (check(damaged, "full") or "")
        assert check(damaged, "off") is None
    closed = cut + b"\xff\xd9"
    assert check(closed, "fast") is None
    assert "premature end" in (check(closed, "full") or "")


def test_a_table_between_scans_must_have_its_length() -> None:
    jpeg = KINDS["progressive"]
    header = scan_jpeg(jpeg)
    table = jpeg.index(b"\xff\xc4", header.scan_offset)
    end = table + 2 + int.from_bytes(jpeg[table + 2 : table + 4], "big")
    longer = jpeg[:end] + b"." + jpeg[end:]
    expected = f"no marker follows the segment 0xFFC4 at byte {table}"
    assert check(longer, "fast") == expected


def test_restart_markers_must_count_up() -> None:
    jpeg = encode(photo(300, 400), restart_marker_rows=1)
    at = jpeg.index(b"\xff\xd3", scan_jpeg(jpeg).scan_offset)
    lost = jpeg[:at] + jpeg[jpeg.index(b"\xff\xd4", at) :]
    assert "restart marker 4" in (check(lost, "fast") or "")


def test_most_bit_flips_are_found_by_a_strict_decode() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for seed in range(20):
        jpeg = encode(photo(96, 128, seed))
        damaged = flip_bits(jpeg, rng, flips=10, start=scan_jpeg(jpeg).scan_offset)
        found += check(damaged, "full") is not None
    assert found >= 15


def test_scans_are_limited() -> None:
    jpeg = KINDS["progressive"]
    last_scan = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:-2] + jpeg[last_scan:-2] * 600 + jpeg[-2:]
    assert check(bomb, "fast") == "more than 500 scans"
    with pytest.raises(ValueError, match="'deep'"):
        check(jpeg, "deep")


@pytest.mark.parametrize("name", ["baseline", "progressive", "restart"])
def test_what_libjpeg_cannot_get_past_is_cut_off(name: str) -> None:
    jpeg = KINDS[name]
    header = scan_jpeg(jpeg)
    assert readable_part(jpeg, header) == jpeg
    assert readable_part(jpeg[:-2], header) == jpeg
    cut = jpeg[:-100] + b"\xff\xd9"
    for broken in (
        b"\xff\x14",
        b"\xff\x14\0\2",
        b"\xff\xd8",
        b"\xff\xd8\0\2",
        b"\xff\xc4\xff\xff",
        b"\xff\xda\0\2",
        b"\xff\xc4\0\4\0\0.",
    ):
        assert readable_part(jpeg[:-100] + broken + jpeg[-50:], header) == cut
        assert readable_part(jpeg[:-100] + broken, header) == cut
    for skipped in (b"\xff\x01", b"\xff\xfe\0\4..", b"\xff\xe1\0\2..."):
        data = jpeg[:-100] + skipped + jpeg[-100:]
        assert readable_part(data, header) == data


@pytest.mark.parametrize("progressive", [False, True])
def test_libjpeg_goes_on_at_the_restart_marker_behind_a_bad_one(progressive: bool) -> None:
    jpeg = encode(photo(300, 400), restart_marker_rows=1, progressive=progressive)
    header = scan_jpeg(jpeg)
    restart = jpeg.index(b"\xff\xd3", header.scan_offset)
    at = restart - 40
    bad = jpeg[:at] + b"\xff\x9f" + jpeg[at + 2 :]
    assert "marker 0xFF9F inside" in (check(bad, "fast") or "")
    assert readable_part(bad, header) == jpeg[:at] + jpeg[restart:]
    several = jpeg[:at] + b"\xff\x9f..\xff\xbf" + jpeg[at + 6 :]
    assert readable_part(several, header) == jpeg[:at] + jpeg[restart:]
    dri = jpeg.index(b"\xff\xdd")
    undeclared = bad[:dri] + bad[dri + 6 :]  # libjpeg expects no restart markers
    kept = undeclared[: at - 6] + b"\xff\xd9"
    assert readable_part(undeclared, scan_jpeg(undeclared)) == kept
    needless = jpeg[:-2] + b"\xff\x9f..\xff\xd0\xff\xd9"
    assert readable_part(needless, header) == jpeg[:-2] + b"\xff\xd0\xff\xd9"

    last = jpeg.rindex(b"\xff\xd9") - 20
    for marker, start in ((b"\xff\x9f\xff\xd8", at), (b"\xff\xc8", at), (b"\xff\x9f", last)):
        hopeless = jpeg[:start] + marker + jpeg[start + len(marker) :]
        assert readable_part(hopeless, header) == jpeg[:start] + b"\xff\xd9"


def test_strict_decode_error_is_one_line_or_none() -> None:
    assert strict_decode_error(KINDS["baseline"]) is None
    message = strict_decode_error(KINDS["baseline"][:-500])
    assert message
    assert "\n" not in message


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_without_turbojpegs_c_functions(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = KINDS[kind]
    files = (jpeg, jpeg[: len(jpeg) * 2 // 3], b"", b"\xff\xd8\xff\xd9")
    expected = [strict_decode_error(data) is None for data in files]
    other_library = ctypes.CDLL("libc.so.6")  # as a package that hides the library's symbols
    monkeypatch.setattr(strict_decode.ctypes, "CDLL", lambda _: other_library)
    strict_decode._library.cache_clear()
    try:
        assert [strict_decode_error(data) is None for data in files] == expected
    finally:
        strict_decode._library.cache_clear()
