"""Quality factors, against the tables of two encoders and of others' making."""

import numpy as np
import pytest
from jpegs import encode, every_kind, insert_segment, photo, segments, without_segment
from PIL import JpegPresets

from pipeline.degrade import compress
from pipeline.jpeg_quality import MAX_STANDARD_TABLE_ERROR, fit_quality, ijg_luma_tables
from pipeline.jpeg_scan import scan_jpeg

KINDS = every_kind(photo(90, 131))


def zigzag(table: list[int]) -> bytes:
    """64 entries in natural order -> zigzag order, by the rule of T.81 figure A.6."""
    by_diagonal = sorted(
        range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8)
    )
    return bytes(table[i] for i in by_diagonal)


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
