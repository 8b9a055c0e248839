"""Manifests, files that list locations: text with one per line, CSV with a header, or Parquet."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.tar_source import IMAGE_NAME, TAR_SUFFIXES
from pipeline.stores.errors import AccessError, SourceError
from pipeline.stores.locations import folder_of, is_remote, resolve_entry, without_query

PARQUET_MAGIC = b"PAR1"
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".parquet")
PATH_COLUMNS = ("path", "uri", "url", "file", "file_name", "filename", "image_path")
_BATCH_ROWS = 65_536
_TABLES = (".csv", ".tsv")
_NO_DELIMITER = "\uffff"  # csv needs one, and Unicode has no such character
_BOM = b"\xef\xbb\xbf"  # Windows editors write it


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
            for entry in text_entries(file, table_layout(file, location)):
                yield entry
                number += 1
    except csv.Error as error:  # a quote that is never closed is found far after it
        raise SourceError(
            f"cannot read the manifest {location!r} after {number} entries: {error}"
        ) from error
    except (pa.ArrowException, OSError, AccessError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read the manifest {location!r}: {error}") from error


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
                " rewrite the file without that column, or with valid text in it, or, if it holds"
                " images, as bytes"
            ) from error
        yield from values
    if num_rows != parquet.metadata.num_rows:
        raise OSError(f"the column {name!r} has {num_rows} of {parquet.metadata.num_rows} rows")


def first_named(table: pa.RecordBatch | pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """The column of this name. pyarrow's `columns=["file"]` also reads a column `file.size`."""
    return table.column(table.schema.names.index(name))


# Parquet


def _parquet_entries(manifest: pq.ParquetFile, location: str) -> Iterator[str]:
    for entry in column_values(manifest, parquet_path_column(manifest.schema_arrow, location)):
        yield entry or ""


def parquet_path_column(schema: pa.Schema, location: str) -> str:
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


class TableLayout(NamedTuple):
    """How a table's rows are read; plain text has None instead."""

    delimiter: str
    column: int


def table_layout(file: BinaryIO, location: str) -> TableLayout | None:
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
    return TableLayout(delimiter, names.index(column))


def _looks_like_a_path(name: str, manifest: str) -> bool:
    if "/" in name or IMAGE_NAME.search(name) or name.lower().endswith(ARCHIVE_SUFFIXES):
        return True
    return not is_remote(manifest) and os.path.isfile(resolve_entry(folder_of(manifest), name))


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    return (line.decode("utf-8", "surrogateescape") for line in lines)


def _records(lines: Iterable[bytes], delimiter: str) -> Iterator[list[str]]:
    """The rows of a table. Raises csv.Error for a quote that is never closed.

    Without `strict`, such a quote would swallow the rows after it.
    """
    return csv.reader(_decoded(lines), delimiter=delimiter, strict=True)


def text_entries(lines: Iterable[bytes], layout: TableLayout | None) -> Iterator[str]:
    """The entries of a text manifest's lines, "" for a row without one."""
    if layout is None:
        for line in _decoded(lines):
            yield line.rstrip("\r\n")
        return
    for record in _records(lines, layout.delimiter):
        yield record[layout.column] if layout.column < len(record) else ""
