"""A PNG without what the decoder is better off not reading.

Source: the PNG specification, third edition; clauses are cited where they matter.
"""

from __future__ import annotations

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12  # a chunk's length, type and checksum
_TRANSPARENCY = b"tRNS"


def picture_chunks(png: bytes) -> bytes:
    """The chunks that say what the picture is, in their order: the critical ones and `tRNS`.

    The decoder inflates up to 8 MB for every chunk of text, of which 8 KB of a file hold one, and
    keeps them all; of an animation with a damaged frame it kills the process, and of one whose
    picture is not a frame it gives another picture. Neither colour spaces nor anything else that
    is left out changes its pixels.

    A damaged file keeps its damage: from a chunk that the file ends in, all is as it was.
    """
    kept = [png[:_SIGNATURE_BYTES]]
    start = at = _SIGNATURE_BYTES  # of the chunks that are kept next, and of the one looked at
    while at + _FRAME_BYTES <= len(png):
        end = at + _FRAME_BYTES + int.from_bytes(png[at : at + 4], "big")
        if end > len(png):
            break
        # An ancillary chunk's type begins with a small letter (5.4).
        if png[at + 4] & 0x20 and png[at + 4 : at + 8] != _TRANSPARENCY:
            kept.append(png[start:at])
            start = end
        at = end
    if len(kept) == 1:
        return png
    return b"".join((*kept, png[start:]))
