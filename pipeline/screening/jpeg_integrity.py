"""Checks whether a JPEG's entropy-coded data is complete, at three levels of cost.

Source: ITU-T T.81.
"""

import re
from typing import Literal

from pipeline.jpeg_scan import (
    APPN,
    COM,
    DAC,
    DHT,
    DNL,
    DQT,
    DRI,
    END_OF_IMAGE,
    EOI,
    MAX_SEGMENTS,
    SOF0,
    SOS,
    TEM,
    JpegHeader,
)
from pipeline.screening.strict_decode import strict_decode_error

IntegrityLevel = Literal["off", "fast", "full"]

ZERO_HOLE_BYTES = 48
# libjpeg visits every block in every scan, so many scans cost time even in a small file. Encoders
# write about 10, optimisers up to 100; 500 is the limit of libjpeg-turbo's own fuzzers.
_MAX_SCANS = 500

_TABLE_SEGMENTS = frozenset((DHT, DAC, DQT, DNL, DRI))
_BETWEEN_SCANS = _TABLE_SEGMENTS | {SOS, COM, *APPN}  # B.2.1, B.2.5
# Any marker but the restart markers, which belong inside the scan data (B.1.1.3).
_SCAN_ENDER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_DRI_MARKER = bytes((0xFF, DRI))
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_FROM_SOF0 = re.compile(rb"\xff[\xc0-\xfe]")


def find_zero_hole(data: bytes, header: JpegHeader) -> int | None:
    """Offset of the first `ZERO_HOLE_BYTES` zero bytes between the first scan and its EOI, or None.

    Not a proof of damage: sound images with flat areas, if optimised or progressive, have such
    runs too. About 12 µs for 100 KB.
    """
    hole = data.find(bytes(ZERO_HOLE_BYTES), header.scan_offset)
    if hole < 0 or data.find(END_OF_IMAGE, header.scan_offset, hole) >= 0:
        return None
    return hole


def check_integrity(data: bytes, header: JpegHeader, level: IntegrityLevel) -> str | None:
    """Why the JPEG is damaged, in one line; None if no damage is found.

    May decode the image, which takes 3 bytes per pixel, however small the file is: check its size
    first.

    Args:
        data: the whole file.
        header: `scan_jpeg(data)`.
        level: "off" checks nothing. "fast" (80 µs for 100 KB) finds a missing end, a broken marker
            structure, and zero-filled holes that a strict decode confirms. "full" strictly decodes
            every image; it also finds one in six single flipped bits, most images with ten, and
            truncated scans that end with a marker.

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
    error = strict_decode_error(data)
    if error is None:
        return None
    return error if hole is None else f"zero-filled hole at byte {hole}: {error}"


def readable_part(data: bytes, header: JpegHeader) -> bytes:
    """The file up to a marker at which libjpeg would fail, and an end marker.

    Where libjpeg would go on at a restart marker instead, what stands before that one is left out:
    behind the last block it would fail there too. When libjpeg fails in the middle of an image,
    DALI 2.4 never frees that image's memory.
    """
    kept: list[bytes] = []
    start, pos = 0, header.scan_offset
    restarts = _has_restarts(data, pos)
    for _ in range(MAX_SEGMENTS):
        match = _SCAN_ENDER.search(data, pos)
        if match is None:
            pos = len(data)
            break
        at, code = match.start(), data[match.start() + 1]
        if code == EOI:
            return b"".join([*kept, data[start:]])
        if code == TEM:
            pos = at + 2
            continue
        if restarts and code < SOF0 and (restart := _restart_behind(data, at + 2)):
            kept.append(data[start:at])
            start = pos = restart
            continue
        end = _segment_end(data, at) if code in _BETWEEN_SCANS else None
        if end is None or (code in _TABLE_SEGMENTS and data[end : end + 1] != b"\xff"):
            pos = at
            break
        pos = end
    return b"".join([*kept, data[start:pos], END_OF_IMAGE])


def _has_restarts(data: bytes, scan_start: int) -> bool:
    """Whether a DRI segment precedes the scan (B.2.4.4)."""
    return _DRI_MARKER in data[:scan_start]


def _restart_behind(data: bytes, pos: int) -> int | None:
    """Where libjpeg resynchronises: at a restart marker behind any markers below SOF0; or None."""
    following = _FROM_SOF0.search(data, pos)
    return following.start() if following and _RESTART.match(following[0]) else None


def _segment_end(data: bytes, at: int) -> int | None:
    """The end of the segment whose marker is at `at`; None when its length is impossible."""
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    end = at + 2 + length
    if length < 2 or end > len(data):
        return None
    if data[at + 1] == SOS and (length < 6 or length != 6 + 2 * data[at + 4]):
        return None
    return end


def _structure_error(data: bytes, header: JpegHeader) -> str | None:
    """Why the markers after the first SOS are invalid, or None (B.1.1.4)."""
    scan_start, pos, scans = header.scan_offset, header.scan_offset, 1
    for _ in range(MAX_SEGMENTS):
        match = _SCAN_ENDER.search(data, pos)
        if match is None:
            return "truncated: no end-of-image marker after the last scan"
        at, code = match.start(), data[match.start() + 1]
        if scan_start == pos:
            restarts = _restart_error(data, scan_start, at)
            if restarts is not None:
                return restarts
        if code == EOI:
            return None
        if code not in _BETWEEN_SCANS:
            return f"marker 0xFF{code:02X} inside the scan data at byte {at}"
        end = _segment_end(data, at)
        if end is None:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            return f"segment 0xFF{code:02X} at byte {at} has an impossible length of {length}"
        pos = end
        if code == SOS:
            scan_start, scans = pos, scans + 1
            if scans > _MAX_SCANS:
                return f"more than {_MAX_SCANS} scans"
        elif data[pos : pos + 1] not in (b"\xff", b""):
            return f"no marker follows the segment 0xFF{code:02X} at byte {at}"
    return f"more than {MAX_SEGMENTS} segments after the first scan"


def _restart_error(data: bytes, start: int, end: int) -> str | None:
    """Why the restart markers are out of order, or None: they count 0 to 7 in turn (F.1.1.5.1)."""
    if not _has_restarts(data, start):
        return None
    for count, match in enumerate(_RESTART.finditer(data, start, end)):
        found = match[1][0] & 7
        if found != count & 7:
            return f"restart marker {found} at byte {match.start()}, expected {count & 7}"
    return None
