"""What a JPEG's markers say, without decoding it: size, sampling, quantization tables, damage.

Source of every number here: ITU-T T.81 (the JPEG standard); clauses are cited where they matter.
`scan_jpeg` reads only the header (about 5 µs); `check_integrity` looks at the entropy-coded data.
"""

import functools
import re
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import turbojpeg

IntegrityLevel = Literal["off", "fast", "full"]

# Consecutive IJG luma tables of quality 40-99 differ by 1.1 on average, so a residual below 1
# is right to about one step (and covers encoders that round differently); the best-fitting
# Photoshop and ImageMagick tables worth calling non-standard leave 1.1 to 18.
MAX_STANDARD_TABLE_ERROR = 1.0
# An ICC profile and an extended XMP packet take at most a few hundred segments. The limit keeps
# a file made of empty segments from costing seconds.
MAX_SEGMENTS = 10_000
# A strict decode allocates 3 bytes a pixel, whatever the file's size is.
MAX_PIXELS_FOR_STRICT_DECODE = 100_000_000
ZERO_HOLE_BYTES = 48

_EOI_BYTES = b"\xff\xd9"
_DHT, _EOI, _SOS, _DQT, _DNL, _DRI, _COM = 0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE
_SKIP, _TABLES, _FRAME, _SCAN, _STANDALONE, _REFUSED = range(6)
# Any marker, and any that is not a restart marker, which belongs inside the scan data (B.1.1.3).
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN_ENDER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_FRAME_HEADER = struct.Struct(">BHHB")  # P, Y, X, Nf of B.2.2

# T.81 table K.1 in zigzag order, as a DQT segment carries it.
_IJG_LUMA_ZIGZAG = (
    *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
    *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
    *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
    *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
)
_MAGIC = (
    (b"\xff\xd8", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\0\0\0\x0cjP  ", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\xff\x0a", "jpeg-xl"),
    (b"\0\0\0\x0cJXL ", "jpeg-xl"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"PAR1", "parquet"),
    (b"%PDF", "pdf"),
    (b"8BPS", "psd"),
    (b"\0\0\1\0", "ico"),
)
_TEXT_MAGIC = (
    (b"<!doctype html", "html"),
    (b"<html", "html"),
    (b"<head", "html"),
    (b"<svg", "svg"),
    (b"<?xml", "xml"),
    (b"{", "json"),
    (b"version https://git-lfs", "git-lfs pointer"),
)
_SUBSAMPLING_NAMES = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
    (1, 4): "4:4:1",
}


class JpegFormatError(ValueError):
    """The bytes are not a JPEG whose header can be read; the message is one line for a user."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What the markers before the first entropy-coded byte state.

    Attributes:
        width, height: pixels of the frame, without regard to any EXIF orientation.
        components: 1 (gray), 3 (YCbCr or RGB), 4 (CMYK or YCCK), rarely 2.
        precision_bits: bits a sample, 8 in almost every file.
        progressive, arithmetic, lossless: the coding process that `sof_marker` names (table B.1).
        sof_marker: low byte of the frame marker, 0xC0 to 0xCF.
        subsampling: "gray", "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "4:1:0", "4:4:1", or the
            sampling factors of every component as "2x2,1x2,1x1" where no such name fits.
        quality: 1 to 100, the IJG quality whose luma table is nearest to the file's in the
            least-squares sense; None without a table or when the fit is worse than
            `MAX_STANDARD_TABLE_ERROR`.
        quality_error: mean absolute difference of the two tables, 0 for an exact IJG table; None
            only when the file has no table (lossless).
        scan_offset: byte offset of the first entropy-coded byte.
        complete: an end-of-image marker stands after the scan data.
    """

    width: int
    height: int
    components: int
    precision_bits: int
    progressive: bool
    arithmetic: bool
    lossless: bool
    sof_marker: int
    subsampling: str | None
    quality: int | None
    quality_error: float | None
    scan_offset: int
    complete: bool


def scan_jpeg(data: bytes) -> JpegHeader:
    """Read a JPEG's header, up to its first scan, in time linear in the header's bytes.

    The segments are walked by their lengths, so a thumbnail inside EXIF is never taken for the
    image. Stray bytes between segments are skipped as libjpeg skips them.

    Raises:
        JpegFormatError: not a JPEG, or a header that no decoder can use.
    """
    if not data.startswith(b"\xff\xd8"):
        raise JpegFormatError(_foreign_message(data))
    size = len(data)
    pos = 2
    tables: dict[int, bytes] = {}
    frame: bytes | None = None
    sof_marker = 0
    for _ in range(MAX_SEGMENTS):
        code = data[pos + 1] if pos + 4 <= size and data[pos] == 0xFF else 0
        if code == 0 or code == 0xFF:
            pos = _next_marker(data, pos, in_frame=frame is not None)
            code = data[pos + 1]
        kind = _KINDS[code]
        if kind == _STANDALONE:
            pos += 2
            continue
        if kind == _REFUSED:
            raise JpegFormatError(_refused_message(code, pos))
        end = _segment_end(data, pos)
        if kind == _TABLES:
            _read_quantization_tables(data, pos + 4, end, tables)
        elif kind == _FRAME:
            if frame is not None:
                raise JpegFormatError("JPEG header has two frame (SOF) markers")
            frame, sof_marker = data[pos + 4 : end], code
        elif kind == _SCAN:
            if frame is None:
                raise JpegFormatError("JPEG scan (SOS) marker comes before any frame (SOF) marker")
            _check_scan_header(data, pos, end)
            return _header(data, frame, sof_marker, tables, data[pos + 4], end)
        pos = end
    raise JpegFormatError(f"JPEG header has more than {MAX_SEGMENTS} segments before the scan")


def sniff_format(data: bytes) -> str | None:
    """Name a file's format by its first bytes: "jpeg", "png", "html", …, "empty"; None if unknown.

    Made for messages ("a PNG named .jpg"); it does not prove that the rest of the file is sound.
    """
    if not data:
        return "empty"
    for prefix, name in _MAGIC:
        if data.startswith(prefix):
            return name
    if data[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12])
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "avif" if brand in (b"avif", b"avis") else "heif" if brand[:2] == b"he" else "mp4"
    if data[257:262] == b"ustar":
        return "tar"
    if not data[:64].strip(b"\0"):
        return "zeros"
    text = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for prefix, name in _TEXT_MAGIC:
        if text.startswith(prefix):
            return name
    return None


def find_zero_hole(data: bytes, header: JpegHeader) -> int | None:
    """Offset of the first `ZERO_HOLE_BYTES` zero bytes between the first scan and its EOI, or None.

    A suspicion only: flat pictures with optimised Huffman tables and progressive scans of flat
    planes hold such runs too. About 6 µs for 100 KB.
    """
    hole = data.find(bytes(ZERO_HOLE_BYTES), header.scan_offset)
    if hole < 0 or data.find(_EOI_BYTES, header.scan_offset, hole) >= 0:
        return None
    return hole


def strict_decode_error(data: bytes) -> str | None:
    """What libjpeg-turbo says when its warnings count as errors; None when it is content.

    Decodes the whole picture (1.5 ms for 500x375) and allocates width x height x 3 bytes: check
    the size first, or call `check_integrity`, which does.
    """
    try:
        turbojpeg.decompress(data, raise_on_warnings=True)
    except Exception as error:  # the package documents no exception types
        return " ".join(str(error).split()) or type(error).__name__
    return None


def check_integrity(
    data: bytes,
    header: JpegHeader,
    level: IntegrityLevel,
    *,
    max_pixels: int = MAX_PIXELS_FOR_STRICT_DECODE,
) -> str | None:
    """Say in one line why the stream is damaged, or None.

    Args:
        data: the whole file.
        header: `scan_jpeg(data)`.
        level: "off" checks nothing. "fast" (under 0.2 ms) finds a missing end, a broken marker
            structure, and zero-filled holes; a hole counts only when a strict decode complains
            too. "full" strictly decodes every image, which also finds most bit flips and scans
            that were cut and closed again.
        max_pixels: larger images, and sample depths other than 8 bits, are not strictly decoded.

    Raises:
        ValueError: an unknown level.
    """
    if level == "off":
        return None
    if level not in ("fast", "full"):
        raise ValueError(f'integrity level must be "off", "fast" or "full", got {level!r}')
    if not header.complete:
        kept = len(data) - header.scan_offset
        return f"truncated: no end-of-image marker after {kept} bytes of scan data"
    structure = _structure_error(data, header)
    if structure is not None:
        return structure
    hole = find_zero_hole(data, header)
    if level == "fast" and hole is None:
        return None
    if header.precision_bits != 8 or header.width * header.height > max_pixels:
        return None
    error = strict_decode_error(data)
    if error is None:
        return None
    return error if hole is None else f"zero-filled hole at byte {hole}: {error}"


@functools.lru_cache(maxsize=4096)
def fit_quality(table: bytes) -> tuple[int | None, float]:
    """Least-squares fit of a luma quantization table to the 100 IJG tables.

    Args:
        table: 64 bytes, or 128 of a 16-bit table (big-endian), in zigzag order, as in a DQT.

    Returns:
        (quality 1 to 100, or None above `MAX_STANDARD_TABLE_ERROR`; mean absolute residual).

    Raises:
        ValueError: a table of another length.
    """
    if len(table) not in (64, 128):
        raise ValueError(f"quantization table must have 64 or 128 bytes, got {len(table)}")
    is_16_bit = len(table) == 128
    entries = np.frombuffer(table, dtype=">u2" if is_16_bit else "u1").astype(np.float64)  # (64,)
    # libjpeg clamps to 255 only when it writes baseline (8-bit) tables.
    residuals = entries - ijg_luma_tables(32767 if is_16_bit else 255)  # (100, 64)
    best = int(np.argmin(np.square(residuals).sum(axis=1)))
    error = float(np.abs(residuals[best]).mean())
    return (best + 1 if error <= MAX_STANDARD_TABLE_ERROR else None), error


@functools.cache
def ijg_luma_tables(max_entry: int = 255) -> np.ndarray:
    """libjpeg's luma tables of quality 1 to 100: (100, 64) int64, zigzag order (`jcparam.c`)."""
    base = np.array(_IJG_LUMA_ZIGZAG, dtype=np.int64)
    quality = np.arange(1, 101)
    scale_percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = np.clip((base * scale_percent[:, None] + 50) // 100, 1, max_entry)
    tables.setflags(write=False)
    return tables


def _header(
    data: bytes, frame: bytes, sof_marker: int, tables: dict[int, bytes], in_scan: int, offset: int
) -> JpegHeader:
    precision, height, width, components = _check_frame(frame, sof_marker)
    subsampling, table_ids = _sampling(frame[6:])
    process = sof_marker & 3
    quality: int | None = None
    quality_error: float | None = None
    if process != 3:
        # A scan of some of the components may be followed by the tables of the others.
        missing = [n for n in table_ids if n not in tables] if in_scan == components else []
        if missing:
            raise JpegFormatError(f"JPEG uses quantization table {missing[0]} but never defines it")
        if table_ids[0] in tables:
            quality, quality_error = fit_quality(tables[table_ids[0]])
    return JpegHeader(
        width=width,
        height=height,
        components=components,
        precision_bits=precision,
        progressive=process == 2,
        arithmetic=sof_marker >= 0xC9,
        lossless=process == 3,
        sof_marker=sof_marker,
        subsampling=subsampling,
        quality=quality,
        quality_error=quality_error,
        scan_offset=offset,
        complete=(data.endswith(_EOI_BYTES) and len(data) >= offset + 2)
        or data.find(_EOI_BYTES, offset) >= 0,
    )


def _check_frame(frame: bytes, sof_marker: int) -> tuple[int, int, int, int]:
    """(precision, height, width, components) of a SOF segment's payload (B.2.2)."""
    if len(frame) < 6:
        raise JpegFormatError(f"SOF segment has {len(frame)} bytes, at least 6 are needed")
    precision, height, width, components = _FRAME_HEADER.unpack_from(frame)
    if not 1 <= components <= 4:
        raise JpegFormatError(f"SOF declares {components} components, decoders read 1 to 4")
    if len(frame) != 6 + 3 * components:
        raise JpegFormatError(
            f"SOF segment has {len(frame)} bytes, {components} components need {6 + 3 * components}"
        )
    if width == 0:
        raise JpegFormatError("SOF declares a width of 0 pixels")
    if height == 0:
        raise JpegFormatError(
            "SOF declares a height of 0 lines (to be defined after the scan by a DNL marker), "
            "which decoders do not support"
        )
    allowed = range(2, 17) if sof_marker & 3 == 3 else (8, 12)
    if precision not in allowed:
        raise JpegFormatError(f"SOF declares {precision}-bit samples")
    return precision, height, width, components


@functools.lru_cache(maxsize=1024)
def _sampling(components: bytes) -> tuple[str, tuple[int, ...]]:
    """(name of the subsampling, quantization table ids) of the 3 bytes a component of a SOF."""
    factors = [(b >> 4, b & 15) for b in components[1::3]]
    for h, v in factors:
        if not (1 <= h <= 4 and 1 <= v <= 4):
            raise JpegFormatError(f"SOF declares sampling factors {h}x{v}, only 1 to 4 are allowed")
    table_ids = tuple(components[2::3])
    if max(table_ids) > 3:
        raise JpegFormatError(f"SOF names quantization table {max(table_ids)}, there are 0 to 3")
    if len(factors) == 1:
        return "gray", table_ids
    explicit = ",".join(f"{h}x{v}" for h, v in factors)
    (h0, v0), (h1, v1) = factors[:2]
    # The fourth component (K of CMYK and YCCK) is as large as the first in every named kind.
    regular = (
        len(factors) in (3, 4) and factors[2] == factors[1] and factors[3:] in ([], [(h0, v0)])
    )
    if not regular or h0 % h1 or v0 % v1:
        return explicit, table_ids
    return _SUBSAMPLING_NAMES.get((h0 // h1, v0 // v1), explicit), table_ids


def _read_quantization_tables(data: bytes, pos: int, end: int, tables: dict[int, bytes]) -> None:
    """Add the tables of one DQT segment to `tables` (B.2.4.1): id -> its bytes in zigzag order."""
    while pos < end:
        length = 128 if data[pos] >> 4 else 64
        table_id = data[pos] & 15
        if table_id > 3 or pos + 1 + length > end:
            raise JpegFormatError(f"DQT segment is damaged at byte {pos}")
        tables[table_id] = data[pos + 1 : pos + 1 + length]
        pos += 1 + length


def _next_marker(data: bytes, pos: int, *, in_frame: bool) -> int:
    """Offset of the next marker and its length, past fill bytes and stray bytes (B.1.1.2)."""
    match = _MARKER.search(data, pos)
    if match is None or match.start() + 4 > len(data):
        if match is not None and data[match.start() + 1] == _EOI:
            raise JpegFormatError(_refused_message(_EOI, match.start()))
        missing = "scan (SOS)" if in_frame else "frame (SOF)"
        raise JpegFormatError(f"JPEG header ends before the {missing} marker")
    return match.start()


def _segment_end(data: bytes, pos: int) -> int:
    length = data[pos + 2] << 8 | data[pos + 3]
    if length < 2:
        raise JpegFormatError(
            f"JPEG segment 0xFF{data[pos + 1]:02X} at byte {pos} declares {length} bytes, less than 2"
        )
    end = pos + 2 + length
    if end > len(data):
        raise JpegFormatError(
            f"JPEG header ends inside its segment 0xFF{data[pos + 1]:02X}, which needs {length} "
            f"bytes from byte {pos + 2}, {len(data) - pos - 2} are there"
        )
    return end


def _check_scan_header(data: bytes, pos: int, end: int) -> None:
    count = data[pos + 4] if end > pos + 4 else 0
    if not 1 <= count <= 4 or end - pos != 8 + 2 * count:
        raise JpegFormatError(
            f"SOS segment at byte {pos} declares {count} components in {end - pos - 2} bytes"
        )


def _refused_message(code: int, pos: int) -> str:
    if code == _EOI:
        return f"JPEG ends (EOI marker at byte {pos}) before any image data"
    if code == 0xD8:
        return f"JPEG header has a second start-of-image marker at byte {pos}"
    if code in (0xDE, 0xDF):
        return "hierarchical JPEG, which decoders do not support"
    if code == 0xF7:
        return "JPEG-LS stream, not a JPEG of ITU-T T.81"
    return f"JPEG header has the unknown marker 0xFF{code:02X} at byte {pos}"


def _foreign_message(data: bytes) -> str:
    found = sniff_format(data)
    if found == "empty":
        return "not a JPEG: the file is empty"
    name = f" but {found}" if found else ""
    return f"not a JPEG{name}: starts with {data[:16].decode('latin-1')!a}"


def _structure_error(data: bytes, header: JpegHeader) -> str | None:
    """Why the markers after the first SOS cannot belong to one sound image, or None (B.1.1.4)."""
    if header.sof_marker & 7 > 3:
        return None  # hierarchical: more frames may follow
    scan_start, pos = header.scan_offset, header.scan_offset
    for _ in range(MAX_SEGMENTS):
        match = _SCAN_ENDER.search(data, pos)
        if match is None:
            return "truncated: no end-of-image marker after the last scan"
        at, code = match.start(), data[match.start() + 1]
        if scan_start == pos:
            restarts = _restart_error(data, scan_start, at)
            if restarts is not None:
                return restarts
        if code == _EOI:
            return None
        if not (code in (_DHT, 0xCC, _SOS, _DQT, _DNL, _DRI, _COM) or 0xE0 <= code <= 0xEF):
            return f"marker 0xFF{code:02X} inside the scan data at byte {at}"
        try:
            pos = _segment_end(data, at) if at + 4 <= len(data) else len(data)
        except JpegFormatError as error:
            return str(error)
        if code == _SOS:
            scan_start = pos
        elif data[pos : pos + 1] not in (b"\xff", b""):
            return f"no marker follows the segment 0xFF{code:02X} at byte {at}"
    return f"more than {MAX_SEGMENTS} segments after the first scan"


def _restart_error(data: bytes, start: int, end: int) -> str | None:
    """Restart markers count 0 to 7 cyclically within one scan (F.1.1.5.1)."""
    if b"\xff\xdd" not in data[:start]:
        return None
    for count, match in enumerate(_RESTART.finditer(data, start, end)):
        found = match[1][0] & 7
        if found != count & 7:
            return f"restart marker {found} at byte {match.start()}, expected {count & 7}"
    return None


def _kind_of_marker(code: int) -> int:
    if code == _DQT:
        return _TABLES
    if code == _SOS:
        return _SCAN
    if 0xC0 <= code <= 0xCF and code not in (_DHT, 0xC8, 0xCC):
        return _FRAME
    if 0xD0 <= code <= 0xD7 or code == 0x01:
        return _STANDALONE
    if code in (_DHT, 0xCC, _DNL, _DRI, _COM) or 0xE0 <= code <= 0xEF:
        return _SKIP
    return _REFUSED


_KINDS = bytes(map(_kind_of_marker, range(256)))
