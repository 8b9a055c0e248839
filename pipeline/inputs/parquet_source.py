"""Parquet files with a column of encoded images, one per row: listed, and read in row order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, islice, repeat
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.manifests import PATH_COLUMNS, column_values, first_named, text_columns
from pipeline.records import Container, ImageRef
from pipeline.stores.errors import StoreError, translated
from pipeline.stores.locations import without_credentials
from pipeline.stores.storage import limit_read_ahead

_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content")
_KEY_COLUMNS = ("uri", "url", "path", "key", "__key__", "file_name", "filename", "image_path", "id")
# Rows decoded at a time: more cost less per row, but pyarrow limits a batch of structs to 2 GiB.
_BATCH_ROWS, _BATCH_BYTES = 16, 1 << 20
_BUFFER_BYTES = 1 << 20  # of a column that is being decoded, however large its row group is


def image_column(schema: pa.Schema) -> str | None:
    """The path of the image column in Parquet (`image` or `image.bytes`); None if there is none.

    An image column holds bytes, or Hugging Face's struct with a field `bytes`, and has one of the
    usual names. Another name is accepted if it is the only such column; for plain bytes, neither it
    nor a text column may have a name of paths, which makes the file a manifest.
    """
    field = _image_field(schema)
    return None if field is None else _leaf_path(field)


def _image_field(schema: pa.Schema) -> pa.Field | None:
    fields = {
        field.name: field
        for field in schema
        # -1: several have its name.
        if _leaf_path(field) is not None and schema.get_field_index(field.name) >= 0
    }
    for name in _IMAGE_COLUMNS:
        if name in fields:
            return fields[name]
    structs = [field for field in fields.values() if pa.types.is_struct(field.type)]
    if len(structs) == 1:
        return structs[0]
    text = text_columns(schema)
    # A lone text column with the name of images rather holds the paths, and the bytes are a digest.
    names_of_paths = {*PATH_COLUMNS, *(_IMAGE_COLUMNS if len(text) == 1 else ())}
    if len(fields) == 1 and names_of_paths.isdisjoint({*text, *fields}):
        return next(iter(fields.values()))
    return None


def _leaf_path(field: pa.Field) -> str | None:
    if _is_bytes(field.type):
        return str(field.name)
    if field.name in _IMAGE_COLUMNS and pa.types.is_fixed_size_binary(field.type):
        return str(field.name)  # under another name, it is rather a digest
    if pa.types.is_struct(field.type):
        index = field.type.get_field_index("bytes")
        if index >= 0 and _is_bytes(field.type.field(index).type):
            return f"{field.name}.bytes"
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def list_parquet(parquet: pq.ParquetFile, uri: str, source: str) -> Iterator[ImageRef]:
    """One reference per row, in order, named by the key column, or `uri#row` without one.

    source: opens the file later. Raises what pyarrow raises when the file is damaged.
    """
    for row, key in enumerate(_keys(parquet)):
        name = without_credentials(key) if key else f"{uri}#{row}"
        yield ImageRef(name, source, Container.PARQUET, row)


def _keys(parquet: pq.ParquetFile) -> Iterator[str | None]:
    columns = text_columns(parquet.schema_arrow)
    column = next((name for name in _KEY_COLUMNS if name in columns), None)
    if column is None:
        return repeat(None, sum(_row_counts(parquet)))
    return column_values(parquet, column)


def _row_counts(parquet: pq.ParquetFile) -> list[int]:
    """The rows of each row group. Raises OSError when the footer contradicts itself."""
    metadata = parquet.metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if sum(counts) != metadata.num_rows or min(counts, default=0) < 0:
        raise OSError(f"the row groups have {sum(counts)} rows, and the file {metadata.num_rows}")
    return counts


class ParquetReader:
    """Reads images of an open file by row; fastest in row order.

    A row group can only be decoded from its start. To go back to an earlier row means to decode
    the row group again.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Raises OSError when the file has changed since planning."""
        self._file = file
        try:
            self._parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
            field = _image_field(self._parquet.schema_arrow)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise OSError(f"not the Parquet file that was planned: {error}") from error
        if field is None:
            raise OSError("the file no longer has a column of images")
        self._name, self._column = field.name, _leaf_path(field)
        schema = self._parquet.schema
        paths = [schema.column(index).path for index in range(len(schema))]
        self._column_index = paths.index(self._column)
        # The first row of each row group, and the number of rows.
        self._starts = list(accumulate(_row_counts(self._parquet), initial=0))
        self._has_read = False
        self._group = -1
        self._rows: Iterator[bytes | None] = iter(())
        self._damage: tuple[int, str] | None = None  # (damaged row group, reason)
        self.position = 0  # the next row

    def read(self, ref: ImageRef) -> bytes:
        """The row's image. Raises OSError when it is missing or cannot be decoded."""
        row = ref.offset or 0
        if row >= self._starts[-1]:
            raise OSError(f"the file has {self._starts[-1]} rows: it has changed since planning")
        group = bisect_right(self._starts, row) - 1
        if self._damage and self._damage[0] == group:
            raise OSError(self._damage[1])
        if group != self._group or row < self.position:
            self._group, self._rows = group, self._rows_from(row, group)
            self.position = row
        try:
            data = next(islice(self._rows, row - self.position, None))
        except (pa.ArrowException, OSError, StopIteration) as error:
            if isinstance(error, OSError) and isinstance(translated(error), StoreError):
                self._group = -1
                raise
            # Remembered, so that later rows do not decode everything before it again.
            reason = str(error) or f"its images end before row {row}"
            self._damage = (group, f"row group {group} is damaged: {reason}")
            raise OSError(self._damage[1]) from error
        self.position = row + 1
        if data is None:
            raise OSError(f"row {row} holds no image")
        return data

    def _rows_from(self, row: int, group: int) -> Iterator[bytes | None]:
        """The images of a row group from a row on; the rows before it are decoded and dropped."""
        batch_row = self._starts[group]
        batches = self._parquet.iter_batches(
            self._batch_rows(group), row_groups=[group], columns=[self._column], use_threads=False
        )
        if not self._has_read:
            # Where a column cannot be read (for example, an encrypted one), reading it raises, but
            # looking at its metadata crashes the process. So the first batch is read before
            # `_end_of_column` is called, without prefetch.
            limit_read_ahead(self._file, 0)
            batches = chain(list(islice(batches, 1)), batches)
            self._has_read = True
        limit_read_ahead(self._file, self._end_of_column(group))
        for batch in batches:
            batch_row += len(batch)
            if batch_row > row:
                values = first_named(batch, self._name)
                if pa.types.is_struct(values.type):
                    (values,) = values.flatten()  # the bytes of a null struct are null
                yield from values[max(0, row - batch_row + len(batch)) :].to_pylist()

    def _batch_rows(self, group: int) -> int:
        metadata = self._parquet.metadata.row_group(group)
        fitting = _BATCH_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)
        return min(max(1, fitting), _BATCH_ROWS)

    def _end_of_column(self, group: int) -> int:
        """The byte offset in the file at which the image column of a row group ends."""
        chunk = self._parquet.metadata.row_group(group).column(self._column_index)
        first = chunk.data_page_offset
        if chunk.has_dictionary_page:
            first = min(first, chunk.dictionary_page_offset)
        return int(first + chunk.total_compressed_size)

    def set_last(self, ref: ImageRef) -> None:
        """Does nothing: prefetch already ends with the column of the row group."""

    def close(self) -> None:
        self._parquet.close()
        self._file.close()
