"""A reference -> the encoded bytes of its image, from any store, file or archive."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from pipeline.inputs.manifest_entries import EntryGoneError, clear_caches, is_entry, read_entry
from pipeline.inputs.parquet_source import ParquetReader
from pipeline.inputs.tar_source import TarReader, content_of_member, range_of_member
from pipeline.records import Container, ImageRef
from pipeline.stores.errors import SourceError, StoreError, translated
from pipeline.stores.http_transfer import MAX_BYTES
from pipeline.stores.locations import is_remote, local_path, without_credentials
from pipeline.stores.storage import open_input, read, read_range

_MAX_CACHED_READERS = 2


class ArchiveReader(Protocol):
    """An open archive. position: up to where it has been read, in the unit of `ImageRef.offset`."""

    @property
    def position(self) -> int: ...
    def set_last(self, ref: ImageRef) -> None: ...
    def read(self, ref: ImageRef) -> bytes: ...
    def close(self) -> None: ...


def read_image(ref: ImageRef, max_bytes: int = MAX_BYTES) -> bytes:
    """The encoded bytes of one image. To read many images of an archive, use `ArchiveStream`.

    max_bytes: as in `storage.read`, for an image in a file of its own.
    Raises OSError when the image cannot be read (StoreError: perhaps because its store or disk
    fails; TransientStoreError: a later try may succeed); AccessError or SourceError when no image
    of the store can be read, or the manifest that has the image's signature cannot.
    """
    try:
        if ref.container is None:
            return read(_resolved_location(ref), max_bytes)
        if ref.container == Container.TAR:
            return _read_tar_member(ref)
    except SourceError:
        raise
    except ValueError as error:  # a null byte in a manifest's path
        raise OSError(f"not a valid path: {error}") from error
    except OSError as error:
        raise translated(error) from None
    stream = ArchiveStream([ref])
    try:
        return stream.read(ref)
    finally:
        stream.close()


def has_unknown_size(ref: ImageRef) -> bool:
    """Whether no listing told how large a remote file is, as of an entry of a manifest."""
    return ref.num_bytes is None and ref.container is None and is_remote_image(ref)


def expected_bytes(ref: ImageRef) -> int:
    """The size of an image, if the plan has it or the file is on a disk; else 0."""
    if ref.num_bytes is not None or ref.container is not None or is_remote_image(ref):
        return ref.num_bytes or 0
    try:
        return os.stat(local_path(ref.uri)).st_size
    except (OSError, ValueError):  # reading the image will raise it again
        return 0


def modification_time(ref: ImageRef) -> float:
    """When an image on a disk, or its archive, was last modified, in seconds since the epoch.

    0 for a remote one, or if it is gone.
    """
    if is_remote_image(ref):
        return 0.0
    try:
        return os.stat(local_path(ref.source or ref.uri)).st_mtime
    except (OSError, ValueError):  # reading the image will raise it again
        return 0.0


def is_remote_image(ref: ImageRef) -> bool:
    """Whether an image is read from a remote store, rather than from a path."""
    location = ref.source or ref.uri
    return is_entry(location) or is_remote(location)


def has_random_access(ref: ImageRef) -> bool:
    """Whether an image can be read alone.

    In a gzip-compressed tar, everything before the image must be read too; in a Parquet file, the
    row group around it. Two readers of one such archive would do the same work twice.
    """
    return ref.container in (None, Container.TAR)


def is_streamed(ref: ImageRef) -> bool:
    """Whether the images of an archive are best read in order by one thread: see `ArchiveStream`.

    A remote tar has random access, but each image would cost a request.
    """
    return ref.container is not None and (not has_random_access(ref) or is_remote_image(ref))


class ArchiveStream:
    """Reads images of one archive in a single pass, for one thread at a time.

    When it is closed, the open archive goes into a cache of the process. The stream of the next
    shard may then continue where this one ended, rather than read from the start again.
    """

    def __init__(self, refs: Sequence[ImageRef]) -> None:
        """refs: images of one archive, in its order."""
        self._last = refs[-1]
        self._reader: ArchiveReader | None = None

    def read(self, ref: ImageRef) -> bytes:
        """As `read_image`."""
        try:
            if self._reader is None:
                self._reader = _CACHE.take(ref) or _open_archive(ref)
                self._reader.set_last(self._last)
            return self._reader.read(ref)
        except OSError as error:
            failure = translated(error)
            if isinstance(failure, StoreError) and self._reader is not None:
                self._reader.close()  # the position in the stream is unknown now
                self._reader = None
            raise failure from None

    def close(self) -> None:
        if self._reader is not None:
            _CACHE.put(self._last, self._reader)
            self._reader = None


class _ReaderCache:
    """Open archives by their source, the most recently used one at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, ArchiveReader] = OrderedDict()

    def take(self, ref: ImageRef) -> ArchiveReader | None:
        """Take out the reader of an image's archive, unless it is already past the image."""
        with self._lock:
            reader = self._open.get(ref.source or "")
            if reader is None or reader.position > (ref.offset or 0):
                return None
            return self._open.pop(ref.source or "")

    def put(self, ref: ImageRef, reader: ArchiveReader) -> None:
        with self._lock:
            replaced = [self._open.pop(ref.source or "", None)]
            self._open[ref.source or ""] = reader
            if len(self._open) > _MAX_CACHED_READERS:
                replaced.append(self._open.popitem(last=False)[1])
        for old in replaced:
            if old is not None:
                old.close()


_CACHE = _ReaderCache()


def _open_archive(ref: ImageRef) -> ArchiveReader:
    file = open_input(_resolved_location(ref))
    if ref.container == Container.PARQUET:
        return ParquetReader(file)
    return TarReader(file, ref.container or Container.TAR)


def _read_tar_member(ref: ImageRef) -> bytes:
    start, num_bytes = range_of_member(ref)
    return content_of_member(ref, read_range(_resolved_location(ref), start, num_bytes))


def _resolved_location(ref: ImageRef) -> str:
    """The location that opens a reference's file, with the credentials that the plan leaves out."""
    location = ref.source or ref.uri
    if not is_entry(location):
        return location
    with suppress(EntryGoneError):
        entry = read_entry(location)
        if _is_planned_entry(ref, entry):
            return entry
    clear_caches()  # the manifest may have been rewritten in the meantime
    entry = read_entry(location)
    if not _is_planned_entry(ref, entry):
        # What it is now stays unsaid: a signature beside what is no URI would not be recognized.
        raise OSError(f"{location} has changed since planning: it no longer names {ref.uri!r}")
    return entry


def _is_planned_entry(ref: ImageRef, entry: str) -> bool:
    """Whether an entry of a manifest is the one that a reference was planned from."""
    # The plan's URI once more: what counts as credentials may have grown since.
    if ref.container is None:
        return without_credentials(ref.uri) == without_credentials(entry)
    if ref.container == Container.PARQUET:  # its images may be named by one of its columns
        return True
    archive, _, _ = ref.uri.partition("#")
    return without_credentials(archive) == without_credentials(entry).partition("#")[0]
