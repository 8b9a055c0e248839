"""Rows of a gallery -> thumbnails embedded in the page, when the sources can still be read.

A source may be any file: its stated size is checked before it is decoded, and an error costs only
that thumbnail.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from PIL import Image, ImageFile

from jobs.reporting.queries import Row
from pipeline.inputs.image_bytes import read_image
from pipeline.output import OutputFolder
from pipeline.records import Container, ImageRef
from pipeline.screening.pillow_warnings import silenced
from pipeline.shards import Plan
from pipeline.stores.errors import AccessError

SIDE = 176  # pixels, of the longer side
_JPEG_QUALITY = 72
_MAX_BYTES = 32 * 2**20  # larger sources are not read
_MAX_PIXELS = 64_000_000
_FORMATS = ("JPEG", "PNG", "WEBP")
# Of a plan or an image; the others may still be readable, for example from another store.
_READ_ERRORS = (OSError, ValueError, AccessError)


class Thumbnails:
    """Makes data URIs of an output's images, within a time limit."""

    def __init__(self, output: OutputFolder, *, budget_s: float) -> None:
        """budget_s: seconds after which no further picture is read; sources may be slow."""
        self._deadline = time.monotonic() + budget_s
        try:
            self._plan: Plan | None = Plan(output)
        except _READ_ERRORS:
            self._plan = None
        self._refs = lru_cache(maxsize=4)(self._read_refs)

    def add(self, rows: list[Row]) -> list[Row]:
        """The rows with a `thumbnail`: a data URI, or None when it cannot be made."""
        return [{**row, "thumbnail": self._make(row)} for row in rows]

    def _make(self, row: Row) -> str | None:
        size = row["num_bytes"]
        if size is None or size > _MAX_BYTES or time.monotonic() > self._deadline:
            return None
        ref = self._ref(row)
        if ref.container == Container.TAR_GZ and (ref.offset or 0) > _MAX_BYTES:
            return None  # everything before it would have to be decompressed
        try:
            data = read_image(ref)
        except _READ_ERRORS:
            return None
        return thumbnail(data) if len(data) == size else None  # the file has changed

    def _ref(self, row: Row) -> ImageRef:
        """Where the image's bytes are. For the members of a tar this needs the plan.

        It is asked by position, because members of one name have one URI.
        """
        refs = self._refs(row["shard"])
        ref = refs[row["row"]] if row["row"] < len(refs) else None
        return ref if ref and ref.uri == row["uri"] else ImageRef(row["uri"])

    def _read_refs(self, shard: int) -> tuple[ImageRef, ...]:
        if self._plan is None:
            return ()
        try:
            return self._plan.shard(shard).refs
        except _READ_ERRORS:
            return ()


def thumbnail(data: bytes) -> str | None:
    """An encoded image -> a small JPEG as a data URI; None when it cannot be decoded.

    The missing part of a truncated image is gray.
    """
    try:
        with _tolerant(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            image.draft("RGB", (SIDE, SIDE))  # decodes a JPEG at down to an eighth of its size
            image.thumbnail((SIDE, SIDE))
            small = io.BytesIO()
            image.convert("RGB").save(small, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    except Exception:  # Pillow's decoders raise errors of all kinds
        return None
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()


@contextmanager
def _tolerant() -> Iterator[None]:
    """Makes Pillow read truncated files, and silences its warnings about damage and size."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with silenced():
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
