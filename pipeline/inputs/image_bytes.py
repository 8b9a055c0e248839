"""The encoded bytes behind a reference, wherever they are and whatever holds them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from pipeline.inputs.manifests import forget_places, is_entry, read_entry_at
from pipeline.inputs.parquet_source import ParquetReader
from pipeline.inputs.tar_source import TarReader, content_of_member, range_of_member
from pipeline.records import Container, ImageRef
from pipeline.stores.attempts import ReadError
from pipeline.stores.locations import SourceError, is_remote, local_path, recorded
from pipeline.stores.storage import open_input, read, read_range

_READERS_KEPT = 2


class ArchiveReader(Protocol):
    """An opened archive. position: how far it has been read, as `ImageRef.offset` counts."""

    @property
    def position(self) -> int: ...
    def expect(self, last: ImageRef) -> None: ...
    def read(self, ref: ImageRef) -> bytes: ...
    def close(self) -> None: ...


def read_image(ref: ImageRef) -> bytes:
    """The encoded bytes behind a reference; images of an archive are read faster in its order.

    Raises OSError when they cannot be fetched (TemporaryReadError: not now); a tar that has become
    shorter counts as that too. Raises AccessError or SourceError when no other image of the store
    could be fetched either.
    """
    try:
        if ref.container is None:
            return read(_location_of(ref))
        if ref.container == Container.TAR:
            return _read_member(ref)
    except SourceError:
        raise
    except ValueError as error:  # a null byte in a manifest's path
        raise OSError(f"not a file's path: {error}") from error
    stream = ArchiveStream([ref])
    try:
        return stream.read(ref)
    finally:
        stream.close()


def bytes_to_expect(ref: ImageRef) -> int:
    """How many bytes reading it takes, as far as the plan or the disk tells; else 0."""
    if ref.num_bytes is not None or ref.container is not None or is_elsewhere(ref):
        return ref.num_bytes or 0
    try:
        return os.stat(local_path(ref.uri)).st_size
    except (OSError, ValueError):  # reading it will say why
        return 0


def is_elsewhere(ref: ImageRef) -> bool:
    """Whether the bytes come over a network of their own, rather than from a path."""
    location = ref.source or ref.uri
    return is_entry(location) or is_remote(location)


def is_streamed(ref: ImageRef) -> bool:
    """Whether the images of its archive are best read by one thread, one after the other."""
    if ref.container == Container.TAR:
        return is_elsewhere(ref)
    return ref.container is not None


def is_read_once(ref: ImageRef) -> bool:
    """Whether its archive is best read by one thread at a time.

    To read an image of it the bytes before it (gzip) or around it (a row group) are read too: two
    readers would both read them.
    """
    return ref.container not in (None, Container.TAR)


class ArchiveStream:
    """Reads images of one archive in one pass, for one thread at a time.

    The archive stays open for the shard after this one, which may go on where this one ends: what
    can only be read from its start (gzip, a large row group) is read once by each process.
    """

    def __init__(self, refs: Sequence[ImageRef]) -> None:
        """refs: of one archive, in its order."""
        self._last = refs[-1]
        self._reader: ArchiveReader | None = None

    def read(self, ref: ImageRef) -> bytes:
        """As `read_image`."""
        if self._reader is None:
            self._reader = _READERS.take(ref) or _open(ref)
            self._reader.expect(self._last)
        try:
            return self._reader.read(ref)
        except ReadError:  # where a stream was then, nobody knows
            self._reader.close()
            self._reader = None
            raise

    def close(self) -> None:
        if self._reader is not None:
            _READERS.give(self._last, self._reader)
            self._reader = None


class _Readers:
    """Archives left open, the one used last at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, ArchiveReader] = OrderedDict()

    def take(self, ref: ImageRef) -> ArchiveReader | None:
        """The reader of an image's archive, if it has not gone past the image."""
        with self._lock:
            reader = self._open.get(ref.source or "")
            if reader is None or reader.position > (ref.offset or 0):
                return None
            return self._open.pop(ref.source or "")

    def give(self, ref: ImageRef, reader: ArchiveReader) -> None:
        with self._lock:
            replaced = [self._open.pop(ref.source or "", None)]
            self._open[ref.source or ""] = reader
            if len(self._open) > _READERS_KEPT:
                replaced.append(self._open.popitem(last=False)[1])
        for old in replaced:
            if old is not None:
                old.close()


_READERS = _Readers()


def _open(ref: ImageRef) -> ArchiveReader:
    file = open_input(_location_of(ref))
    if ref.container == Container.PARQUET:
        return ParquetReader(file)
    return TarReader(file, ref.container or Container.TAR)


def _read_member(ref: ImageRef) -> bytes:
    start, num_bytes = range_of_member(ref)
    return content_of_member(ref, read_range(_location_of(ref), start, num_bytes))


def _location_of(ref: ImageRef) -> str:
    """What opens the file behind a reference, with the credentials that the plan leaves out."""
    location = ref.source or ref.uri
    if not is_entry(location):
        return location
    entry = read_entry_at(location)
    if not _is_of(ref, entry):
        forget_places()
        entry = read_entry_at(location)
    if not _is_of(ref, entry):
        raise OSError(f"{location} has changed since planning: it is {recorded(entry)!r}")
    return entry


def _is_of(ref: ImageRef, entry: str) -> bool:
    """Whether an entry of a manifest is the one that an image was planned from."""
    if ref.container is None:
        return ref.uri == recorded(entry)
    # A Parquet file's images may be called by a column of it.
    return ref.container == Container.PARQUET or ref.uri.startswith(f"{recorded(entry)}#")
