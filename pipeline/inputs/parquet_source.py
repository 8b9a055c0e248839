"""Parquet files with a column of encoded images: one a row, read row group by row group."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, islice, repeat
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.manifests import column_values, first_named, path_column, text_columns
from pipeline.records import Container, ImageRef
from pipeline.stores.attempts import ReadError
from pipeline.stores.locations import recorded
from pipeline.stores.storage import limit_read_ahead

PARQUET_SUFFIX = ".parquet"
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content")
_KEY_COLUMNS = ("uri", "url", "path", "key", "__key__", "file_name", "filename", "image_path", "id")
# Decoded together, which costs less; but pyarrow gives at most 2 GiB of a struct's at once.
_READ_ROWS, _READ_BYTES = 16, 1 << 20
_STREAM_BYTES = 1 << 20  # a column is decoded as it comes in, however large its row group is


def image_column(schema: pa.Schema) -> str | None:
    """The column of images as Parquet names it (`image`, `image.bytes`), None where there is none.

    It holds bytes, or Hugging Face's struct with a field `bytes`, and goes by its name. Another
    name will do where nothing else can be meant: no second such column, and no column of paths
    beside plain bytes, which makes the file a manifest.
    """
    field = _image_field(schema)
    return None if field is None else _leaf(field)


def _image_field(schema: pa.Schema) -> pa.Field | None:
    fields = {field.name: field for field in schema if _leaf(field) is not None}
    for name in _IMAGE_COLUMNS:
        if name in fields:
            return fields[name]
    structs = [field for field in fields.values() if pa.types.is_struct(field.type)]
    if len(structs) == 1:
        return structs[0]
    if len(fields) == 1 and path_column(text_columns(schema)) is None:
        return next(iter(fields.values()))
    return None


def _leaf(field: pa.Field) -> str | None:
    if _is_bytes(field.type):
        return str(field.name)
    if field.name in _IMAGE_COLUMNS and pa.types.is_fixed_size_binary(field.type):
        return str(field.name)  # by another name it would rather be a digest
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
    """One reference a row, in order, by its key column's text or else as `uri#row`.

    source: what opens the file again. Raises what pyarrow raises when the file is damaged.
    """
    for row, key in enumerate(_keys(parquet)):
        name = recorded(key) if key else f"{uri}#{row}"
        yield ImageRef(name, source, Container.PARQUET, row)


def _keys(parquet: pq.ParquetFile) -> Iterator[str | None]:
    columns = text_columns(parquet.schema_arrow)
    column = next((name for name in _KEY_COLUMNS if name in columns), None)
    if column is None:
        return repeat(None, sum(_row_counts(parquet)))
    return column_values(parquet, column)


def _row_counts(parquet: pq.ParquetFile) -> list[int]:
    """Of each row group. Raises OSError where the footer contradicts itself."""
    metadata = parquet.metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if sum(counts) != metadata.num_rows or min(counts, default=0) < 0:
        raise OSError(f"the row groups have {sum(counts)} rows, and the file {metadata.num_rows}")
    return counts


class ParquetReader:
    """Reads rows of an opened file; fastest in their order.

    A row is reached from the start of its row group: one that comes before the last one read costs
    the way there again.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Raises OSError when the file is no longer what was planned."""
        self._file = file
        try:
            self._parquet = pq.ParquetFile(file, buffer_size=_STREAM_BYTES)
            field = _image_field(self._parquet.schema_arrow)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise OSError(f"not the Parquet file that was planned: {error}") from error
        if field is None:
            raise OSError("the file has no column of images any more")
        self._name, self._column = field.name, _leaf(field)
        schema = self._parquet.schema
        paths = [schema.column(index).path for index in range(len(schema))]
        self._column_index = paths.index(self._column)
        # Of each row group, and the end.
        self._starts = list(accumulate(_row_counts(self._parquet), initial=0))
        self._has_read = False
        self._group = -1
        self._rows: Iterator[bytes | None] = iter(())
        self._damage: tuple[int, str] | None = None  # the row group and what is wrong with it
        self.position = 0  # the row that comes next

    def read(self, ref: ImageRef) -> bytes:
        """The row's image. Raises OSError when it is not there or cannot be decoded."""
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
        except ReadError:
            self._group = -1
            raise
        except (pa.ArrowException, OSError, StopIteration) as error:
            # Without this every later row would decode all up to the damage again.
            reason = str(error) or f"its images end before row {row}"
            self._damage = (group, f"row group {group} is damaged: {reason}")
            raise OSError(self._damage[1]) from error
        self.position = row + 1
        if data is None:
            raise OSError(f"row {row} holds no image")
        return data

    def _rows_from(self, row: int, group: int) -> Iterator[bytes | None]:
        """The values of a row group from a row on; those before it are decoded and dropped."""
        batch_row = self._starts[group]
        batches = self._parquet.iter_batches(
            self._batch_rows(group), row_groups=[group], columns=[self._column], use_threads=False
        )
        if not self._has_read:
            # pyarrow raises where it cannot read a column, such as an encrypted one, but ends the
            # process that then looks at the column's metadata.
            limit_read_ahead(self._file, 0)  # where the column ends is not known yet
            batches = chain(list(islice(batches, 1)), batches)
            self._has_read = True
        limit_read_ahead(self._file, self._end_of_column(group))
        for batch in batches:
            batch_row += len(batch)
            if batch_row > row:
                values = first_named(batch, self._name)
                if pa.types.is_struct(values.type):
                    (values,) = values.flatten()  # a null struct holds null bytes
                yield from values[max(0, row - batch_row + len(batch)) :].to_pylist()

    def _batch_rows(self, group: int) -> int:
        metadata = self._parquet.metadata.row_group(group)
        fitting = _READ_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)
        return min(max(1, fitting), _READ_ROWS)

    def _end_of_column(self, group: int) -> int:
        """The byte at which the images of a row group end."""
        chunk = self._parquet.metadata.row_group(group).column(self._column_index)
        first = chunk.data_page_offset
        if chunk.has_dictionary_page:
            first = min(first, chunk.dictionary_page_offset)
        return int(first + chunk.total_compressed_size)

    def expect(self, last: ImageRef) -> None:
        """Say which row will be read last: a row group's end is known without."""

    def close(self) -> None:
        self._parquet.close()
        self._file.close()
