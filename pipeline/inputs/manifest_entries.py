"""Single entries of a manifest, read again for the credentials that a plan leaves out."""

from __future__ import annotations

import csv
import io
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.error_text import reason_of
from pipeline.inputs.manifests import (
    TableLayout,
    first_named,
    is_parquet,
    parquet_path_column,
    table_layout,
    text_entries,
)
from pipeline.stores.errors import AccessError, ShutdownError, SourceError
from pipeline.stores.locations import folder_of, resolve_entry
from pipeline.stores.storage import open_input, read_range, whole_content

_ENTRY = "manifest:"
# Hundreds of reading threads start at once; without the lock, each would index the whole manifest.
_INDEX_LOCK = threading.Lock()
_failures: dict[str, tuple[float, Exception]] = {}  # when a manifest could not be read, and why
_MAX_AGE_S = 60.0  # of a manifest in memory, so that signatures may be renewed during a run


class EntryGoneError(AccessError):
    """A manifest has become shorter since it was planned from, or is damaged."""


def entry_location(manifest: str, number: int) -> str:
    """A reference to an entry, for one that holds credentials: "manifest:NUMBER:LOCATION".

    number: the entry's position in `list_manifest`, from 0.
    """
    return f"{_ENTRY}{number}:{manifest}"


def is_entry(location: str) -> bool:
    return location.startswith(_ENTRY)


def read_entry(location: str) -> str:
    """The location that an entry names, given by its `entry_location`.

    Raises AccessError when the manifest cannot be read, EntryGoneError when it has no such entry
    any more: neither says anything about the image. The message has no text of the manifest, which
    may be a signature.
    """
    position, _, manifest = location.removeprefix(_ENTRY).partition(":")
    try:
        return resolve_entry(folder_of(manifest), _entry(manifest, int(position)))
    except ShutdownError:
        raise
    except (pa.ArrowException, IndexError, StopIteration, SourceError, csv.Error) as error:
        raise EntryGoneError(
            f"the manifest {manifest!r} has changed since planning: it has no entry"
            f" {int(position) + 1} any more; put it back"
        ) from error
    except (OSError, AccessError, UnicodeDecodeError) as error:
        raise AccessError(f"cannot read the manifest {manifest!r}: {reason_of(error)}") from error


def _entry(manifest: str, number: int) -> str:
    with _one_look(manifest):
        index = _index(manifest)
        if index and index.content and time.monotonic() - index.read_at > _MAX_AGE_S:
            _index.cache_clear()
            index = _index(manifest)
        if index is None:
            return _parquet_entry(manifest, number)
    start, stop = index.starts[number], index.starts[number + 1]
    if index.content is None:
        entry = read_range(manifest, start, stop - start)
    else:
        entry = index.content[start:stop]
    return next(text_entries(io.BytesIO(entry), index.layout))


@contextmanager
def _one_look(manifest: str) -> Iterator[None]:
    """Hold the lock; the threads that wait for it meanwhile get the same error.

    Each would else ask a server that is down in its turn, with all attempts and their pauses.
    """
    asked_at = time.monotonic()
    with _INDEX_LOCK:
        failed_at, failure = _failures.get(manifest, (0.0, None))
        if failure is not None and failed_at > asked_at:
            raise failure.with_traceback(None)
        try:
            yield
        except (OSError, AccessError) as error:
            _failures[manifest] = (time.monotonic(), error)
            raise
        _failures.pop(manifest, None)


def clear_caches() -> None:
    """Read manifests again: one may be rewritten while it is in use."""
    for cached in (_index, _row_counts, _row_group):
        cached.cache_clear()


def _parquet_entry(location: str, number: int) -> str:
    for group, rows in enumerate(_row_counts(location)):
        if number < rows:
            return _row_group(location, group)[number].as_py() or ""
        number -= rows
    raise IndexError("it has fewer rows")


@lru_cache(maxsize=2)
def _row_counts(location: str) -> tuple[int, ...]:
    with open_input(location) as file:
        metadata = pq.ParquetFile(file).metadata
        return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


@lru_cache(maxsize=2)
def _row_group(location: str, group: int) -> pa.ChunkedArray:
    with open_input(location) as file:
        manifest = pq.ParquetFile(file)
        column = parquet_path_column(manifest.schema_arrow, location)
        return first_named(manifest.read_row_group(group, columns=[column]), column)


# Text and CSV


class _Index(NamedTuple):
    """Where the entries of a text manifest are.

    starts: the byte offset of each entry, and of the end; 8 bytes of memory per entry. content:
    the manifest itself, where it was sent whole; read_at: when, by the monotonic clock.
    """

    layout: TableLayout | None
    starts: Sequence[int]
    content: bytes | None
    read_at: float


@lru_cache(maxsize=2)
def _index(location: str) -> _Index | None:
    """None for Parquet."""
    read_at = time.monotonic()
    with open_input(location) as file:
        if is_parquet(file):
            return None
        layout = table_layout(file, location)
        position = file.tell()

        def counted() -> Iterator[bytes]:
            nonlocal position
            for line in file:
                position += len(line)
                yield line

        starts = array("Q", [position])
        starts.extend(position for _ in text_entries(counted(), layout))
        return _Index(layout, starts, whole_content(file), read_at)
