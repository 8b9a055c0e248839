"""Removes from a PNG the chunks that do not affect its pixels, some of which harm the decoder.

Source: the PNG specification, third edition; clauses are cited where they matter.
"""

from __future__ import annotations

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12  # a chunk's length, type and checksum
_TRANSPARENCY = b"tRNS"


def picture_chunks(png: bytes) -> bytes:
    """The PNG with only its critical chunks and `tRNS`, in their order.

    The others are removed because the decoder
    - inflates each chunk of text to up to 8 MB (from 8 KB of the file), and keeps them all;
    - crashes the process on an animation with a damaged frame;
    - returns the wrong image for an animation whose default image is not one of the frames.
    It ignores colour spaces and all other chunks that are removed, so its pixels stay the same.

    A damaged file stays damaged: everything from an incomplete chunk on is kept.
    """
    kept = [png[:_SIGNATURE_BYTES]]
    start = at = _SIGNATURE_BYTES  # of the next run of kept chunks; of the current chunk
    while at + _FRAME_BYTES <= len(png):
        end = at + _FRAME_BYTES + int.from_bytes(png[at : at + 4], "big")
        if end > len(png):
            break
        # The type of an ancillary chunk starts with a lower-case letter (5.4).
        if png[at + 4] & 0x20 and png[at + 4 : at + 8] != _TRANSPARENCY:
            kept.append(png[start:at])
            start = end
        at = end
    if len(kept) == 1:
        return png
    return b"".join((*kept, png[start:]))
