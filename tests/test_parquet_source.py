"""Images in a Parquet file: which column holds them, what they are called, and what each row is."""

import base64
import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inputs.parquet_source import ParquetReader, image_column, list_parquet
from pipeline.records import Container, ImageRef

IMAGES = [b"first", None, b"", b"\xff\xd8 fourth", b"fifth" * 100]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def written(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def refs_of(data: bytes) -> list[ImageRef]:
    return list(list_parquet(pq.ParquetFile(io.BytesIO(data)), "/x.parquet", "/source"))


def hugging_face(images: list[bytes | None]) -> pa.Array:
    return pa.array([{"bytes": data, "path": "a.jpg"} for data in images], STRUCT)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": STRUCT, "label": pa.int64()}, "image.bytes"),
        ({"picture": STRUCT}, "picture.bytes"),
        ({"thumbnail": pa.binary(), "image": STRUCT}, "image.bytes"),
        ({"jpg": pa.binary(), "url": pa.string(), "embedding": pa.binary()}, "jpg"),
        ({"bytes": pa.large_binary(), "path": pa.string()}, "bytes"),
        ({"bytes": pa.binary_view(), "path": pa.string_view()}, "bytes"),
        ({"jpg": pa.dictionary(pa.int32(), pa.binary())}, "jpg"),
        ({"image": pa.struct([("bytes", pa.binary_view())])}, "image.bytes"),
        (
            {"pixels": pa.binary(), "label": pa.int64(), "a": pa.string(), "b": pa.string()},
            "pixels",
        ),
        ({"image": pa.string(), "scan": pa.binary(), "x": pa.string()}, "scan"),
        ({"photo": pa.binary(), "caption": pa.string()}, "photo"),
        ({"photo": pa.binary(), "id": pa.string()}, "photo"),
        # What could be meant otherwise is not guessed.
        ({"path": pa.string(), "embedding": pa.binary()}, None),
        ({"image": pa.string(), "sha256": pa.binary()}, None),
        ({"left": pa.binary(), "right": pa.binary()}, None),
        ({"left": STRUCT, "right": STRUCT}, None),
        ({"image": pa.list_(pa.uint8())}, None),
        ({"image": pa.struct([("bytes", pa.string())])}, None),
        ({"path": pa.string()}, None),
        ({"path": pa.binary(), "label": pa.int64()}, None),
        ({"image": pa.binary(9), "sha1": pa.binary(20)}, "image"),
        ({"picture": pa.binary(), "sha1": pa.binary(20)}, "picture"),
        ({"sha1": pa.binary(20)}, None),
        ({}, None),
    ],
)
def test_the_column_of_images(columns: dict[str, pa.DataType], expected: str | None) -> None:
    assert image_column(pa.schema(list(columns.items()))) == expected


def test_two_columns_of_one_name_are_neither() -> None:
    schema = pa.schema([("image", pa.string()), ("image", pa.binary())])
    assert image_column(schema) is None


COLUMNS = {
    "bytes": IMAGES,
    "hugging face": hugging_face(IMAGES),
    "large": pa.array(IMAGES, pa.large_binary()),
    "view": pa.array(IMAGES, pa.binary_view()),
    "dictionary": pa.array(IMAGES, pa.binary()).dictionary_encode(),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
@pytest.mark.parametrize("row_group_size", [1, 2, 100])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_rows_read_as_they_were_written(column: Any, row_group_size: int, compression: str) -> None:
    columns = {"label": range(5), "image": column}
    data = written(columns, row_group_size=row_group_size, compression=compression)
    refs = refs_of(data)
    assert refs == [
        ImageRef(f"/x.parquet#{row}", "/source", Container.PARQUET, row) for row in range(5)
    ]
    reader = ParquetReader(io.BytesIO(data))
    for row, expected in enumerate(IMAGES):
        if expected is None:
            with pytest.raises(OSError, match=f"row {row} holds no image"):
                reader.read(refs[row])
        else:
            assert reader.read(refs[row]) == expected
        assert reader.position == row + 1
    reader.close()


def test_a_struct_of_a_view() -> None:
    values = [{"bytes": data} for data in IMAGES[2:]]
    column = pa.array([*values, None], pa.struct([("bytes", pa.binary_view())]))
    data = written({"image": column})
    reader = ParquetReader(io.BytesIO(data))
    *refs, last = refs_of(data)
    assert [reader.read(ref) for ref in refs] == IMAGES[2:]
    with pytest.raises(OSError, match="row 3 holds no image"):
        reader.read(last)


def test_a_dictionary_that_was_given_up_half_way() -> None:
    """Parquet keeps the first megabyte of distinct values in it, and the others as they are."""
    images = [np.random.default_rng(row % 700).bytes(3000) for row in range(900)]
    data = written({"image": pa.array(images, pa.binary()).dictionary_encode()})
    reader = ParquetReader(io.BytesIO(data))
    assert [reader.read(ref) for ref in refs_of(data)] == images


def test_a_struct_that_is_null_holds_no_image() -> None:
    data = written({"image": pa.array([None, {"bytes": b"x", "path": None}], STRUCT)})
    reader = ParquetReader(io.BytesIO(data))
    with pytest.raises(OSError, match="row 0 holds no image"):
        reader.read(refs_of(data)[0])
    assert reader.read(refs_of(data)[1]) == b"x"


@pytest.mark.parametrize("order", [1, -1])
def test_a_column_that_is_called_as_the_field_of_a_struct(order: int) -> None:
    columns = {"image.bytes": ["a", "b", "c"], "image": hugging_face([b"1", b"2", None])}
    data = written(dict(list(columns.items())[::order]))
    reader = ParquetReader(io.BytesIO(data))
    assert [reader.read(ref) for ref in refs_of(data)[:2]] == [b"1", b"2"]


def test_images_of_one_size() -> None:
    data = written({"image": pa.array([b"first", b"other", None], pa.binary(5))})
    reader = ParquetReader(io.BytesIO(data))
    assert [reader.read(ref) for ref in refs_of(data)[:2]] == [b"first", b"other"]
    with pytest.raises(OSError, match="row 2 holds no image"):
        reader.read(refs_of(data)[2])


def test_large_images_are_not_decoded_together() -> None:
    """Sixteen of 130 MB would be more than pyarrow can give of a struct."""
    images = [bytes(4 << 20)] * 16
    data = written({"image": hugging_face(images)}, use_dictionary=False, write_batch_size=1)
    before = pa.total_allocated_bytes()
    reader = ParquetReader(io.BytesIO(data))
    for ref, image in zip(refs_of(data), images, strict=True):
        assert reader.read(ref) == image
        assert pa.total_allocated_bytes() - before < 6 * len(image)


MANY = [b"%d" % row * (row % 40) or b"0" for row in range(100)]
MANY_DATA = written({"image": MANY}, row_group_size=37)


@settings(deadline=None)
@given(rows=st.lists(st.integers(0, 99), max_size=10))
def test_rows_read_in_any_order(rows: list[int]) -> None:
    reader = ParquetReader(io.BytesIO(MANY_DATA))
    refs = refs_of(MANY_DATA)
    assert [reader.read(refs[row]) for row in rows] == [MANY[row] for row in rows]


def test_in_order_each_byte_is_read_about_once() -> None:
    images = [np.random.default_rng(row).bytes(2000) for row in range(3000)]
    data = written({"image": images}, compression="none", use_dictionary=False)  # one row group
    read = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            found = super().read(size)
            read += len(found)
            return found

    reader = ParquetReader(Counted(data))
    assert [reader.read(ref) for ref in refs_of(data)] == images
    assert read < 1.2 * len(data)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"url": ["https://h/1", None, ""]}, ["https://h/1", "/x.parquet#1", "/x.parquet#2"]),
        ({"__key__": ["1", "2", "3"], "path": [1, 2, 3]}, ["1", "2", "3"]),
        ({"id": [1, 2, 3]}, ["/x.parquet#0", "/x.parquet#1", "/x.parquet#2"]),
        ({"caption": ["1", "2", "3"]}, ["/x.parquet#0", "/x.parquet#1", "/x.parquet#2"]),
        ({"url": ["https://h/1?sig=s3cret", "x", "y"]}, ["https://h/1", "x", "y"]),
    ],
)
def test_a_key_column_names_the_images(columns: dict[str, Any], expected: list[str]) -> None:
    data = written({"image": [b"1", b"2", b"3"], **columns}, row_group_size=2)
    assert [ref.uri for ref in refs_of(data)] == expected


def test_damage_costs_the_rows_of_its_row_group() -> None:
    images = [np.random.default_rng(row).bytes(300) for row in range(300)]
    data = written({"image": images}, row_group_size=100, compression="snappy")
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1)
    start = metadata.column(0).data_page_offset
    broken = data[:start] + bytes(60) + data[start + 60 :]
    reader = ParquetReader(io.BytesIO(broken))
    for row, ref in enumerate(refs_of(data)):
        if 100 <= row < 200:
            with pytest.raises(OSError, match="row group 1 is damaged"):
                reader.read(ref)
        else:
            assert reader.read(ref) == images[row]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_page_header_costs_rows_and_nothing_else(compression: str) -> None:
    """It may state fewer images than the footer does, or fewer keys."""
    names = [f"/{row}.jpg" for row in range(60)]
    columns = {"path": names, "image": [name.encode() * 9 for name in names]}
    data = written(columns, compression=compression, use_dictionary=False, write_batch_size=8)
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    refs = refs_of(data)
    messages = set()
    for column in range(2):
        for bit in range(8 * 30):
            broken = bytearray(data)
            broken[group.column(column).data_page_offset + bit // 8] ^= 1 << bit % 8
            try:
                assert len(refs_of(bytes(broken))) == len(refs)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                messages.add(re.sub(r"\d+", "N", str(error)))
            reader = ParquetReader(io.BytesIO(broken))
            for ref in refs:
                try:
                    reader.read(ref)
                except OSError as error:
                    messages.add(re.sub(r"\d+", "N", str(error)))
    assert "the column 'path' has N of N rows" in messages
    assert "row group N is damaged: its images end before row N" in messages


def test_a_footer_that_contradicts_itself_is_refused() -> None:
    """A flipped bit would lose rows, or list them for years."""
    data = written({"image": [b"1", b"2", b"3"]}, row_group_size=2, store_schema=False)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    messages = set()
    for bit in range(8 * footer, 8 * (len(data) - 8)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            assert len(refs_of(bytes(broken))) == 3
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            messages.add(re.sub(r"\d+", "N", str(error)))
    assert "the row groups have N rows, and the file N" in messages


class PlainKeys(encryption.KmsClient):
    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("column", ["image", "label"])
def test_an_encrypted_column_costs_its_rows(column: str) -> None:
    """pyarrow would end the process where its metadata are looked at."""
    table = pa.table({"label": [1, 2], "image": [b"1", b"2"]})
    properties = encryption.CryptoFactory(lambda _: PlainKeys()).file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(
            footer_key="f", column_keys={"c": [column]}, plaintext_footer=True
        ),
    )
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    refs = refs_of(file.getvalue())
    reader = ParquetReader(io.BytesIO(file.getvalue()))
    if column == "label":
        assert [reader.read(ref) for ref in refs] == [b"1", b"2"]
        return
    for ref in refs:
        with pytest.raises(OSError, match="Cannot decrypt"):
            reader.read(ref)


def test_a_file_that_has_changed_is_told() -> None:
    refs = refs_of(MANY_DATA)
    shorter = ParquetReader(io.BytesIO(written({"image": MANY[:50]})))
    with pytest.raises(OSError, match="the file has 50 rows: it has changed since planning"):
        shorter.read(refs[50])
    with pytest.raises(OSError, match="no longer has a column of images"):
        ParquetReader(io.BytesIO(written({"path": ["a"]})))
    with pytest.raises(OSError, match="not the Parquet file that was planned"):
        ParquetReader(io.BytesIO(MANY_DATA[:-20]))
    with pytest.raises(OSError, match="not the Parquet file that was planned: 'utf-8' codec"):
        ParquetReader(io.BytesIO(MANY_DATA.replace(b"image", b"imag\xe9")))
