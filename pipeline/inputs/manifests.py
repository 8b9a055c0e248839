"""Manifests, files that list locations: text with one per line, CSV with a header, or Parquet."""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.error_text import reason_of
from pipeline.inputs.tar_source import IMAGE_NAME, TAR_SUFFIXES
from pipeline.stores.errors import AccessError, ShutdownError
from pipeline.stores.locations import (
    SourceError,
    folder_of,
    is_remote,
    resolve_entry,
    without_query,
)
from pipeline.stores.storage import open_input, read_range, whole_content

PARQUET_MAGIC = b"PAR1"
PATH_COLUMNS = ("path", "uri", "url", "file", "file_name", "filename", "image_path")
_BATCH_ROWS = 65_536
_ENTRY = "manifest:"
_TABLES = (".csv", ".tsv")
_NO_DELIMITER = "\uffff"  # csv needs one, and Unicode has no such character
_ARCHIVES = (*TAR_SUFFIXES, ".parquet")
_BOM = b"\xef\xbb\xbf"  # Windows editors write it
# Hundreds of reading threads start at once; without the lock, each would index the whole manifest.
_INDEX_LOCK = threading.Lock()
_failures: dict[str, tuple[float, Exception]] = {}  # when a manifest could not be read, and why
_MAX_AGE_S = 60.0  # of a manifest in memory, so that signatures may be renewed during a run


class EntryGoneError(AccessError):
    """A manifest has become shorter since it was planned from, or is damaged."""


def list_manifest(file: BinaryIO, location: str) -> Iterator[str]:
    """The entries of a manifest in order, "" for a row without one.

    file: at its start. location: the manifest's; .csv and .tsv files are tables, Parquet is
    detected by its content. Raises SourceError when the manifest cannot be read or has no column
    of paths.
    """
    number = 0
    try:
        if is_parquet(file):
            yield from _parquet_entries(pq.ParquetFile(file), location)
        else:
            for entry in _text_entries(file, _layout(file, location)):
                yield entry
                number += 1
    except csv.Error as error:  # a quote that is never closed is found far after it
        raise SourceError(
            f"cannot read the manifest {location!r} after {number} entries: {error}"
        ) from error
    except (pa.ArrowException, OSError, AccessError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read the manifest {location!r}: {error}") from error


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
    return next(_text_entries(io.BytesIO(entry), index.layout))


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


def is_parquet(file: BinaryIO) -> bool:
    """Whether a file's content is Parquet; leaves the file at its start."""
    head = file.read(len(PARQUET_MAGIC))
    file.seek(0)
    return head == PARQUET_MAGIC


def path_column(names: Sequence[str]) -> str | None:
    """The column of paths among text columns: the first known name, else the only column."""
    for name in PATH_COLUMNS:
        if name in names:
            return name
    return names[0] if len(names) == 1 else None


def text_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_text(field.type)]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def column_values(parquet: pq.ParquetFile, name: str) -> Iterator[str | None]:
    """The values of a text column, row by row.

    Raises OSError when a value is not UTF-8, or when rows are missing, as in a damaged file.
    """
    num_rows = 0
    for batch in parquet.iter_batches(_BATCH_ROWS, columns=[name]):
        num_rows += len(batch)
        try:
            values = first_named(batch, name).to_pylist()
        except UnicodeDecodeError as error:
            raise OSError(
                f"the column {name!r} holds {error.object[:80]!r}, which is not UTF-8:"
                " rewrite the file without that column, or with valid text in it"
            ) from error
        yield from values
    if num_rows != parquet.metadata.num_rows:
        raise OSError(f"the column {name!r} has {num_rows} of {parquet.metadata.num_rows} rows")


def first_named(table: pa.RecordBatch | pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """The column of this name. pyarrow's `columns=["file"]` also reads a column `file.size`."""
    return table.column(table.schema.names.index(name))


# Parquet


def _parquet_entries(manifest: pq.ParquetFile, location: str) -> Iterator[str]:
    for entry in column_values(manifest, _parquet_column(manifest.schema_arrow, location)):
        yield entry or ""


def _parquet_column(schema: pa.Schema, location: str) -> str:
    """The column of paths. A single text column beside a column of bytes is rather a caption."""
    name = path_column(text_columns(schema))
    if name in PATH_COLUMNS or (name and not any(_holds_bytes(field.type) for field in schema)):
        return name
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise SourceError(
        f"the manifest {location!r} has no column of paths: name one of its string columns 'path';"
        " or, where it holds images, name their column 'image', with one per row, as bytes or as a"
        f" struct with a field 'bytes' (found {found or 'no columns'})"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column may hold images: bytes, lists of bytes, or either one nested deeper."""
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    if not inner:
        return "binary" in str(kind)  # also large, fixed-size and view types
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_uint8(inner[0]):
        return True
    return any(map(_holds_bytes, inner))


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
        column = _parquet_column(manifest.schema_arrow, location)
        return first_named(manifest.read_row_group(group, columns=[column]), column)


# Text and CSV


class _TableLayout(NamedTuple):
    """How a table's rows are read; plain text has None instead."""

    delimiter: str
    column: int


def _layout(file: BinaryIO, location: str) -> _TableLayout | None:
    """The layout of a text manifest; leaves the file at its first entry."""
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)
    if not without_query(location).lower().endswith(_TABLES):
        return None
    start = file.tell()
    first_line = file.readline().decode("utf-8", "surrogateescape")
    file.seek(start)
    delimiter = max("\t,;", key=first_line.count)
    if delimiter not in first_line:  # of a lone column, in whose entries all three are text
        delimiter = _NO_DELIMITER
    header = next(_records(file, delimiter), [])
    names = [name.strip() for name in header]
    column = path_column(names)
    if column is None:
        raise SourceError(
            f"the manifest {location!r} has no column of paths: name one of its string columns"
            f" 'path' (found {', '.join(names) or 'no columns'})"
        )
    if column not in PATH_COLUMNS and _looks_like_a_path(column, location):
        # As the header, the first image would be lost.
        raise SourceError(
            f"the manifest {location!r} has no header: its first line {column!r} looks like a path,"
            " but must name the column; put the line 'path' before it, or call the file .txt"
        )
    return _TableLayout(delimiter, names.index(column))


def _looks_like_a_path(name: str, manifest: str) -> bool:
    if "/" in name or IMAGE_NAME.search(name) or name.lower().endswith(_ARCHIVES):
        return True
    return not is_remote(manifest) and os.path.isfile(resolve_entry(folder_of(manifest), name))


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    return (line.decode("utf-8", "surrogateescape") for line in lines)


def _records(lines: Iterable[bytes], delimiter: str) -> Iterator[list[str]]:
    """The rows of a table. Raises csv.Error for a quote that is never closed.

    Without `strict`, such a quote would swallow the rows after it.
    """
    return csv.reader(_decoded(lines), delimiter=delimiter, strict=True)


def _text_entries(lines: Iterable[bytes], layout: _TableLayout | None) -> Iterator[str]:
    if layout is None:
        for line in _decoded(lines):
            yield line.rstrip("\r\n")
        return
    for record in _records(lines, layout.delimiter):
        yield record[layout.column] if layout.column < len(record) else ""


class _Index(NamedTuple):
    """Where the entries of a text manifest are.

    starts: the byte offset of each entry, and of the end; 8 bytes of memory per entry. content:
    the manifest itself, where it was sent whole; read_at: when, by the monotonic clock.
    """

    layout: _TableLayout | None
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
        layout = _layout(file, location)
        position = file.tell()

        def counted() -> Iterator[bytes]:
            nonlocal position
            for line in file:
                position += len(line)
                yield line

        starts = array("Q", [position])
        starts.extend(position for _ in _text_entries(counted(), layout))
        return _Index(layout, starts, whole_content(file), read_at)
