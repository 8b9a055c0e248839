"""Reads a JPEG's header without decoding: size, sampling, quality; or why it is not a JPEG.

Source: ITU-T T.81 (the JPEG standard); clauses are cited where they matter. `scan_jpeg` parses only
the header (about 15 µs); `pipeline.screening.jpeg_integrity` checks what follows it.
"""

import functools
import re
import struct
from dataclasses import dataclass

from pipeline.file_format import sniff_format
from pipeline.jpeg_quality import fit_quality

# An ICC profile and an extended XMP packet take at most a few hundred segments. Without a limit, a
# file of empty segments would take seconds.
MAX_SEGMENTS = 10_000
# Low bytes of markers (table B.1).
DHT, DAC, SOI, EOI, SOS, DQT, DNL, DRI, COM = 0xC4, 0xCC, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE
TEM, SOF0, APPN = 0x01, 0xC0, range(0xE0, 0xF0)
START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"
# Frames of T.81 but the differential ones, which stand only in hierarchical files (table B.1).
_FRAMES = frozenset((*range(SOF0, 0xC4), *range(0xC9, 0xCC)))
_HIERARCHICAL = frozenset((*range(0xC5, 0xC8), *range(0xCD, 0xD0), 0xDE, 0xDF))
_SKIP, _TABLES, _FRAME, _SCAN, _STANDALONE, _REFUSED = range(6)
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_FRAME_HEADER = struct.Struct(">BHHB")  # P, Y, X, Nf of B.2.2

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
    """The file is not a JPEG, or its header cannot be used; the message is one line for users."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """A JPEG's header: the markers before the first entropy-coded byte.

    Attributes:
        width, height: pixels of the frame; any EXIF orientation is ignored.
        components: 1 (gray), 3 (YCbCr or RGB), 4 (CMYK or YCCK), rarely 2.
        precision_bits: bits per sample, 8 in almost every file.
        sof_marker: low byte of the frame marker, 0xC0 to 0xCB: the coding process (table B.1).
        progressive: whether that is a progressive one, rather than sequential or lossless.
        subsampling: "gray", "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "4:1:0", "4:4:1", or the
            sampling factors of every component, as "2x2,1x2,1x1", if none of these names fits.
        quality: 1 to 100, the IJG quality whose luma table is nearest to the file's in the
            least-squares sense; None without a table or when the fit is worse than
            `jpeg_quality.MAX_STANDARD_TABLE_ERROR`.
        quality_error: mean absolute difference of the two tables, 0 for an exact IJG table; None
            when no luma table stands before the first scan (always, if lossless).
        scan_offset: byte offset of the first entropy-coded byte.
        complete: whether there is an end-of-image marker after the scan data.
        scans: number of scans: several in a progressive JPEG, one in most others.
    """

    width: int
    height: int
    components: int
    precision_bits: int
    sof_marker: int
    progressive: bool
    subsampling: str
    quality: int | None
    quality_error: float | None
    scan_offset: int
    complete: bool
    scans: int

    @property
    def lossless(self) -> bool:
        return self.sof_marker & 3 == 3


def scan_jpeg(data: bytes) -> JpegHeader:
    """Read a JPEG's header, up to its first scan, in time linear in the header's bytes.

    Segments are skipped by their lengths, so a thumbnail inside EXIF is never taken for the image.
    Stray bytes between segments are skipped, as libjpeg does.

    Raises:
        JpegFormatError: not a JPEG, or a header that decoders cannot use.
    """
    if not data.startswith(START_OF_IMAGE):
        raise JpegFormatError(_foreign_message(data))
    last = len(data) - 4  # a marker and its length take 4 bytes
    pos = 2
    tables: dict[int, bytes] = {}
    frame: bytes | None = None
    sof_marker = 0
    for _ in range(MAX_SEGMENTS):
        code = data[pos + 1] if pos <= last and data[pos] == 0xFF else 0
        if code == 0 or code == 0xFF:
            pos = _next_marker(data, pos, in_frame=frame is not None)
            code = data[pos + 1]
        kind = _KINDS[code]
        if kind >= _STANDALONE:
            if kind == _REFUSED:
                raise JpegFormatError(_refused_message(code, pos))
            pos += 2
            continue
        end = pos + 2 + (data[pos + 2] << 8 | data[pos + 3])
        if end < pos + 4 or end > last + 4:
            raise JpegFormatError(_bad_length_message(data, pos))
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


def without_stray_bytes(data: bytes) -> bytes:
    """The file without any bytes between the segments of its header.

    libjpeg skips such bytes, nvImageCodec refuses them. data: a file that `scan_jpeg` accepts.
    """
    kept = [data[:2]]
    pos, code = 2, 0
    while code != SOS:
        pos = _next_marker(data, pos, in_frame=False)
        code = data[pos + 1]
        standalone = _KINDS[code] == _STANDALONE
        end = pos + 2 if standalone else pos + 2 + (data[pos + 2] << 8 | data[pos + 3])
        kept.append(data[pos:end])
        pos = end
    return b"".join([*kept, data[pos:]])


def _header(
    data: bytes, frame: bytes, sof_marker: int, tables: dict[int, bytes], in_scan: int, offset: int
) -> JpegHeader:
    precision, height, width, components = _check_frame(frame, sof_marker)
    subsampling, luma_table_id, table_ids = _sampling(frame[6:])
    process = sof_marker & 3
    quality: int | None = None
    quality_error: float | None = None
    if process != 3:
        # If the first scan has only some of the components, tables of the others may come later.
        if in_scan == components and not tables.keys() >= table_ids:
            missing = min(table_ids - tables.keys())
            raise JpegFormatError(f"JPEG uses quantization table {missing} but never defines it")
        if luma_table_id in tables:
            quality, quality_error = fit_quality(tables[luma_table_id])
    return JpegHeader(
        width=width,
        height=height,
        components=components,
        precision_bits=precision,
        sof_marker=sof_marker,
        progressive=process == 2,
        subsampling=subsampling,
        quality=quality,
        quality_error=quality_error,
        scan_offset=offset,
        complete=(data.endswith(END_OF_IMAGE) and len(data) >= offset + 2)
        or data.find(END_OF_IMAGE, offset) >= 0,
        scans=_count_scans(data, offset) if process == 2 or in_scan < components else 1,
    )


def _count_scans(data: bytes, offset: int) -> int:
    """The number of scans, with the one at `offset`. In scan data, 0xFFDA is always a marker."""
    end = data.find(END_OF_IMAGE, offset)
    return 1 + data.count(_START_OF_SCAN, offset, len(data) if end < 0 else end)


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
def _sampling(components: bytes) -> tuple[str, int, frozenset[int]]:
    """(subsampling name, quantization table id of component 0, ids of all tables used).

    components: the 3 bytes per component of a SOF segment (B.2.2).
    """
    factors = [(b >> 4, b & 15) for b in components[1::3]]
    for h, v in factors:
        if not (1 <= h <= 4 and 1 <= v <= 4):
            raise JpegFormatError(f"SOF declares sampling factors {h}x{v}, only 1 to 4 are allowed")
    table_ids = frozenset(components[2::3])
    return _subsampling_name(factors), components[2], table_ids


def _subsampling_name(factors: list[tuple[int, int]]) -> str:
    if len(factors) == 1:
        return "gray"
    explicit = ",".join(f"{h}x{v}" for h, v in factors)
    (h0, v0), (h1, v1) = factors[:2]
    # In every named subsampling, a fourth component (K) has the size of the first.
    same_chroma = len(factors) > 2 and factors[2] == factors[1]
    if not same_chroma or factors[3:] not in ([], factors[:1]) or h0 % h1 or v0 % v1:
        return explicit
    return _SUBSAMPLING_NAMES.get((h0 // h1, v0 // v1), explicit)


def _read_quantization_tables(data: bytes, pos: int, end: int, tables: dict[int, bytes]) -> None:
    """Add the tables of one DQT segment (B.2.4.1) to `tables`: id -> bytes in zigzag order."""
    while pos < end:
        length = 128 if data[pos] >> 4 else 64
        table_id = data[pos] & 15
        if table_id > 3 or pos + 1 + length > end:
            raise JpegFormatError(f"DQT segment is damaged at byte {pos}")
        tables[table_id] = data[pos + 1 : pos + 1 + length]
        pos += 1 + length


def _next_marker(data: bytes, pos: int, *, in_frame: bool) -> int:
    """Offset of the next marker, after any fill bytes and stray bytes (B.1.1.2)."""
    match = _MARKER.search(data, pos)
    if match is None or match.start() + 4 > len(data):
        if match is not None and data[match.start() + 1] == EOI:
            raise JpegFormatError(_refused_message(EOI, match.start()))
        missing = "scan (SOS)" if in_frame else "frame (SOF)"
        raise JpegFormatError(f"JPEG header ends before the {missing} marker")
    return match.start()


def _bad_length_message(data: bytes, pos: int) -> str:
    length = data[pos + 2] << 8 | data[pos + 3]
    segment = f"segment 0xFF{data[pos + 1]:02X} at byte {pos}"
    if length < 2:
        return f"JPEG {segment} declares {length} bytes, less than 2"
    return f"JPEG ends inside {segment}: {len(data) - pos - 2} of {length} bytes are there"


def _check_scan_header(data: bytes, pos: int, end: int) -> None:
    count = data[pos + 4] if end > pos + 4 else 0
    if not 1 <= count <= 4 or end - pos != 8 + 2 * count:
        raise JpegFormatError(
            f"SOS segment at byte {pos} declares {count} components in {end - pos - 2} bytes"
        )


def _refused_message(code: int, pos: int) -> str:
    if code == EOI:
        return f"JPEG ends (EOI marker at byte {pos}) before any image data"
    if code == SOI:
        return f"JPEG header has a second start-of-image marker at byte {pos}"
    if code in _HIERARCHICAL:
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


def _kind_of_marker(code: int) -> int:
    if code == DQT:
        return _TABLES
    if code == SOS:
        return _SCAN
    if code in _FRAMES:
        return _FRAME
    if 0xD0 <= code <= 0xD7 or code == TEM:
        return _STANDALONE
    if code in (DHT, DAC, DNL, DRI, COM, *APPN):
        return _SKIP
    return _REFUSED


_KINDS = bytes(map(_kind_of_marker, range(256)))
