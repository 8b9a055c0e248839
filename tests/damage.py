"""Every kind of damage and trickery that a JPEG of a crawl may carry, made from a sound one."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
from jpegs import (
    adobe_marker_removed,
    arithmetic,
    encode,
    insert_segment,
    lossless,
    mpo,
    photo,
    save,
    segments,
    without_segment,
    ycck,
)

from jobs.demo_corpus import flip_bits, twelve_bit_jpeg, with_declared_size
from pipeline.jpeg_scan import scan_jpeg

Damage = Callable[[bytes, np.random.Generator], bytes]
_EOI = b"\xff\xd9"
_DQT, _DHT, _SOF0, _SOS, _DRI = 0xDB, 0xC4, 0xC0, 0xDA, 0xDD


def many_scans(jpeg: bytes, scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    last = jpeg.rfind(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * scans + _EOI


def _entropy(jpeg: bytes) -> int:
    return scan_jpeg(jpeg).scan_offset


def _cut(jpeg: bytes, rng: np.random.Generator) -> bytes:
    return jpeg[: int(rng.integers(2, len(jpeg)))]


def _cut_in_scan(jpeg: bytes, rng: np.random.Generator) -> bytes:
    return jpeg[: int(rng.integers(_entropy(jpeg) + 1, len(jpeg)))]


def _flipped(flips: int) -> Damage:
    return lambda jpeg, rng: flip_bits(jpeg, rng, flips=flips, start=_entropy(jpeg))


def _flipped_header(jpeg: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(2, _entropy(jpeg)))
    damaged = bytearray(jpeg)
    damaged[start] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _hole(jpeg: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(_entropy(jpeg), len(jpeg) - 3))
    length = int(rng.integers(1, len(jpeg) - start))
    return jpeg[:start] + bytes(length) + jpeg[start + length :]


def _swapped_blocks(jpeg: bytes, rng: np.random.Generator) -> bytes:
    """Two pieces have changed places: disk blocks, or thirds of a scan that has no two."""
    size = min(512, (len(jpeg) - _entropy(jpeg)) // 3)
    a, b = (int(x) for x in np.sort(rng.integers(_entropy(jpeg), len(jpeg) - size, 2)))
    damaged = bytearray(jpeg)
    damaged[a : a + size], damaged[b : b + size] = jpeg[b : b + size], jpeg[a : a + size]
    return bytes(damaged)


def _missing_piece(jpeg: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(_entropy(jpeg), len(jpeg) - 3))
    return jpeg[:start] + jpeg[start + int(rng.integers(1, 2000)) :]


def _wrong_length(jpeg: bytes, rng: np.random.Generator) -> bytes:
    _, start, _ = segments(jpeg)[int(rng.integers(len(segments(jpeg))))]
    length = int(rng.integers(65536))
    return jpeg[: start + 2] + struct.pack(">H", length) + jpeg[start + 4 :]


def _wrong_marker(jpeg: bytes, rng: np.random.Generator) -> bytes:
    _, start, _ = segments(jpeg)[int(rng.integers(len(segments(jpeg))))]
    return jpeg[: start + 1] + bytes([int(rng.integers(1, 255))]) + jpeg[start + 2 :]


def _junk(jpeg: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that belong to no segment: libjpeg passes over them, not every parser does."""
    _, start, _ = segments(jpeg)[int(rng.integers(len(segments(jpeg))))]
    junk = bytes(rng.integers(0, 255, int(rng.integers(1, 40)), np.uint8))  # no 0xFF
    return jpeg[:start] + junk + jpeg[start:]


def _png_cut(png: bytes, rng: np.random.Generator) -> bytes:
    """Behind its header, which says the size."""
    return png[: int(rng.integers(33, len(png)))]


def _sof_byte(offset: int, values: tuple[int, ...]) -> Damage:
    """Another value at an offset of the frame header (T.81 B.2.2) behind its length."""

    def damage(jpeg: bytes, rng: np.random.Generator) -> bytes:
        [start] = [start for marker, start, _ in segments(jpeg) if marker == _SOF0]
        value = values[int(rng.integers(len(values)))]
        return jpeg[: start + 4 + offset] + bytes([value]) + jpeg[start + 5 + offset :]

    return damage


def _zip_polyglot(jpeg: bytes, _: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("payload.txt", "a zip behind a picture")
    return jpeg + buffer.getvalue()


def _extreme(height: int, width: int) -> Damage:
    return lambda _, __: save(np.full((height, width, 3), 90, np.uint8), "JPEG")


def _declared(height: int, width: int) -> Damage:
    return lambda jpeg, _: with_declared_size(jpeg, height, width)


def _made(make: Callable[[np.ndarray], bytes]) -> Damage:
    """A sound file of another kind, from a small picture."""
    return lambda _, rng: make(photo(48, 64, seed=int(rng.integers(40))))


KINDS: dict[str, Damage] = {
    "cut anywhere": _cut,
    "cut in the scan": _cut_in_scan,
    "cut and closed": lambda jpeg, rng: _cut_in_scan(jpeg, rng) + _EOI,
    "one bit": _flipped(1),
    "forty bits": _flipped(40),
    "a header bit": _flipped_header,
    "zero hole": _hole,
    "blocks swapped": _swapped_blocks,
    "piece missing": _missing_piece,
    "wrong length": _wrong_length,
    "wrong marker": _wrong_marker,
    "no quantization table": lambda jpeg, _: without_segment(jpeg, _DQT),
    "no Huffman table": lambda jpeg, _: without_segment(jpeg, _DHT),
    "no frame": lambda jpeg, _: without_segment(jpeg, _SOF0),
    "components 0 to 255": _sof_byte(5, (0, 2, 4, 5, 255)),
    "bogus subsampling": _sof_byte(7, (0x00, 0x13, 0x44, 0xF1, 0x33)),
    "table that is not there": _sof_byte(8, (2, 3, 4, 255)),
    "16-bit samples": _sof_byte(0, (0, 12, 16, 255)),
    "declared 65500x65500": _declared(65500, 65500),
    "declared 1x1": _declared(1, 1),
    "declared 0 lines": _declared(0, 64),
    "declared twice as high": _declared(4000, 90),
    "1x1": _extreme(1, 1),
    "1 pixel wide": _extreme(9000, 1),
    "1 pixel high": _extreme(1, 65500),
    "4000 scans": lambda _, rng: many_scans(
        encode(photo(48, 64, seed=int(rng.integers(40))), progressive=True), 4000
    ),
    "60 scans": lambda _, rng: many_scans(
        encode(photo(48, 64, seed=int(rng.integers(40))), progressive=True), 60
    ),
    "giant ICC profile": lambda _, __: encode(photo(48, 64), icc_profile=bytes(4_000_000)),
    "giant EXIF": lambda jpeg, _: insert_segment(jpeg, 0xE1, b"Exif\0\0" + bytes(65000)),
    "thousands of segments": lambda jpeg, _: jpeg[:2] + b"\xff\xfe\x00\x02" * 20000 + jpeg[2:],
    "two files in one": lambda jpeg, _: jpeg + jpeg,
    "trailing junk": lambda jpeg, rng: jpeg + rng.bytes(50_000),
    "zip polyglot": _zip_polyglot,
    "HTML before it": lambda jpeg, _: b"<html><script>alert(1)</script>" + jpeg,
    "MPO": _made(mpo),
    "12 bits": lambda _, __: twelve_bit_jpeg(),
    "lossless": _made(lossless),
    "arithmetic": _made(arithmetic),
    "CMYK": _made(lambda rgb: encode(rgb, mode="CMYK")),
    "CMYK without Adobe": _made(lambda rgb: adobe_marker_removed(encode(rgb, mode="CMYK"))),
    "YCCK": _made(ycck),
    "PNG": _made(lambda rgb: save(rgb, "PNG")),
    "TIFF": _made(lambda rgb: save(rgb, "TIFF")),
    "noise": lambda _, rng: b"\xff\xd8" + rng.bytes(3000),
    "empty": lambda _, __: b"",
    "PNG cut": lambda _, rng: _png_cut(save(photo(48, 64, seed=int(rng.integers(40))), "PNG"), rng),
    "junk between segments": _junk,
}


def damaged(kind: str, seed: int) -> bytes:
    """A file of that kind; the same for the same arguments."""
    rng = np.random.default_rng((seed, list(KINDS).index(kind)))
    sound = encode(photo(90 + seed % 7, 110 + seed % 11, seed=seed % 40), quality=40 + seed % 50)
    return KINDS[kind](sound, rng)
