"""A part: the schema, nulls where nothing is known, the plan's order, readable by others."""

import base64
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from decoding import screened
from jpegs import encode, photo, save
from servers import Answer, Bucket, Proxy, Request

from afd_model.inference.predictions import Predictions
from pipeline.output import OutputFolder
from pipeline.records import COLUMNS_KEY, SCHEMA, STATUSES, EncodedImage, ImageRef, Shard, Status
from pipeline.shards import part_path
from pipeline.sink import FACTS_KEY, PARQUET_OPTIONS, ShardRows, read_facts, write_part
from pipeline.stores import remote_file

CLASS_NAMES = ("cat", "dög", "tench, Tinca tinca")
FACTS = {"run_id": "r1", "counts": {"ok": 3}, "note": "é"}


def said(rows: list[int], *, drift: bool = True) -> Predictions:
    """Predictions that can be told apart: image n is of class n mod 3."""
    number = np.array(rows, np.int32)
    score = number.astype(np.float32)
    top = np.stack([number % 3, (number + 1) % 3], 1)
    return Predictions(
        labels=number % 3,
        confidences=score / 10,
        top_labels=top,
        top_confidences=np.stack([score / 10, score / 100], 1),
        drift_angle_deg=score + 1 if drift else None,
        drift_energy=score + 2 if drift else None,
        flip_probability=None,
    )


def images() -> list[EncodedImage]:
    """Rows 0 to 5: JPEG, PNG, damaged, rejected with a header, rejected without, unreadable."""
    jpeg = encode(photo(20, 30), quality=40, progressive=True)
    made = screened([jpeg, save(photo(20, 30), "PNG"), jpeg[:-9], jpeg, b"<html>", jpeg])
    made[3].fail(Status.REJECTED, "too large")
    made[5] = EncodedImage(5)
    made[5].fail(Status.UNREADABLE, "gone")
    return made


SHARD = Shard(7, tuple(ImageRef(f"/data/é{row}.jpg") for row in range(6)))


def filled(*, class_names: tuple[str, ...] | None = CLASS_NAMES, drift: bool = True) -> ShardRows:
    rows = ShardRows(SHARD, class_names)
    made = [rows.add_image(image) for image in images()]
    rows.add_predictions([made[2]], said([2], drift=drift))  # batches in any order
    rows.add_predictions([made[1], made[0]], said([1, 0], drift=drift))
    return rows


def test_the_table_has_the_schema_of_the_records() -> None:
    for rows in (filled(), filled(class_names=None, drift=False)):
        table = rows.to_table()
        assert table.schema.equals(SCHEMA, check_metadata=True)
        table.validate(full=True)
        assert table.num_rows == len(SHARD.refs)


def test_a_part_has_each_name_of_its_labels_once(tmp_path: Path) -> None:
    """ImageNet has two cranes: a dictionary with a name twice is written, and every row as well."""
    names = ("crane", "tench", "crane", *(f"class {k}" for k in range(997)))
    output = OutputFolder(str(tmp_path))
    output.create()
    write_part(output, 7, filled(class_names=names).to_table(), FACTS)
    part = pq.ParquetFile(part_path(output, 7))
    column = part.metadata.row_group(0).column(SCHEMA.names.index("label_name"))
    assert column.path_in_schema == "label_name"
    assert "RLE_DICTIONARY" in column.encodings
    (found,) = part.read(["label_name"]).column(0).chunks
    assert found.to_pylist() == ["crane", "tench", "crane", None, None, None]
    assert found.dictionary.to_pylist() == ["crane", "tench"]


def test_parts_of_different_statuses_can_be_grouped_together() -> None:
    rows = ShardRows(Shard(8, SHARD.refs[:1]), CLASS_NAMES)
    gone = EncodedImage(0)
    gone.fail(Status.UNREADABLE, "gone")
    rows.add_image(gone)
    table = pa.concat_tables([filled().to_table(), rows.to_table()])
    counts = table.group_by("status").aggregate([("uri", "count")]).to_pylist()
    assert {row["status"]: row["uri_count"] for row in counts} == {
        "ok": 2,
        "damaged": 1,
        "rejected": 2,
        "unreadable": 2,
    }


def test_every_row_says_what_is_known_and_null_else() -> None:
    found = {row["uri"]: row for row in filled().to_table().to_pylist()}
    ok, png, damaged, rejected, foreign, unreadable = (found[ref.uri] for ref in SHARD.refs)
    assert {key: value for key, value in ok.items() if not key.startswith("top_con")} == {
        "uri": "/data/é0.jpg",
        "shard": 7,
        "status": "ok",
        "error": None,
        "num_bytes": len(encode(photo(20, 30), quality=40, progressive=True)),
        "width": 30,
        "height": 20,
        "jpeg_quality": 40,
        "jpeg_quality_error": 0.0,
        "jpeg_subsampling": "4:2:0",
        "jpeg_progressive": True,
        "jpeg_components": 3,
        "label": 0,
        "label_name": "cat",
        "confidence": 0.0,
        "top_labels": [0, 1],
        "drift_angle_deg": 1.0,
        "drift_energy": 2.0,
        "flip_probability": None,
    }
    labelled = ("label", "label_name", "confidence", "top_labels", "drift_angle_deg")
    assert [png[key] for key in labelled] == [1, "dög", pytest.approx(0.1), [1, 2], 2.0]
    assert (damaged["status"], damaged["label_name"]) == ("damaged", "tench, Tinca tinca")
    assert damaged["error"].startswith("truncated")
    assert damaged["top_confidences"] == [pytest.approx(0.2), pytest.approx(0.02)]
    from_header = {key for key in SCHEMA.names if key.startswith("jpeg_")}
    assert {png[key] for key in from_header} == {None}
    assert (rejected["status"], rejected["error"], rejected["width"]) == (
        "rejected",
        "too large",
        30,
    )
    assert rejected["jpeg_quality"] == 40
    assert (foreign["width"], foreign["num_bytes"]) == (None, 6)
    assert (unreadable["status"], unreadable["num_bytes"]) == ("unreadable", None)
    from_model = SCHEMA.names[SCHEMA.names.index("label") :]
    for row in (rejected, foreign, unreadable):
        assert {str(row[key]) for key in from_model} == {"None"}


def test_rows_do_not_depend_on_the_order_of_batches() -> None:
    one_by_one = ShardRows(SHARD, CLASS_NAMES)
    made = [one_by_one.add_image(image) for image in reversed(images())][::-1]
    for row in (1, 2, 0):
        one_by_one.add_predictions([made[row]], said([row]))
    assert one_by_one.to_table().equals(filled().to_table())
    assert one_by_one.counts == filled().counts


def test_without_names_or_drift_the_columns_are_null() -> None:
    table = filled(class_names=None, drift=False).to_table()
    for name in ("label_name", "drift_angle_deg", "drift_energy", "flip_probability"):
        assert table.column(name).null_count == len(SHARD.refs)
    assert table.column("label").to_pylist() == [0, 1, 2, None, None, None]


def test_a_class_without_a_name_has_null() -> None:
    for names in (("", "dög", ""), ("", "", "")):
        table = filled(class_names=names).to_table()
        assert table.schema.equals(SCHEMA, check_metadata=True)
        found = table.column("label_name").to_pylist()
        assert found == [None, names[1] or None, None, None, None, None]


def test_a_shard_where_nothing_was_labelled_has_rows_too() -> None:
    shard = Shard(0, (ImageRef("a"), ImageRef("b")))
    rows = ShardRows(shard, CLASS_NAMES)
    for image in screened([b"", b"<html>"]):
        rows.add_image(image)
    table = rows.to_table()
    assert table.schema.equals(SCHEMA)
    assert table.column("status").to_pylist() == ["rejected", "rejected"]
    assert rows.counts == {"ok": 0, "damaged": 0, "rejected": 2, "unreadable": 0}


def test_every_status_is_counted() -> None:
    assert filled().counts == {"ok": 2, "damaged": 1, "rejected": 2, "unreadable": 1}
    assert tuple(filled().counts) == STATUSES


def test_a_missing_image_or_label_is_an_error_and_no_null() -> None:
    rows = ShardRows(SHARD, CLASS_NAMES)
    made = [rows.add_image(image) for image in images()[:5]]
    with pytest.raises(RuntimeError, match="shard 7: 1 images never arrived"):
        rows.to_table()
    rows.add_image(images()[5])
    rows.add_predictions(made[:2], said([0, 1]))
    with pytest.raises(RuntimeError, match="3 images to label, 2 predictions for 2 images"):
        rows.to_table()
    rows.add_predictions(made[1:2], said([1]))
    with pytest.raises(RuntimeError, match="3 images to label, 3 predictions for 2 images"):
        rows.to_table()
    rows.add_predictions(made[2:3], said([2]))  # every image has one, and one image has two
    with pytest.raises(RuntimeError, match="3 images to label, 4 predictions for 3 images"):
        rows.to_table()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    output = OutputFolder(str(tmp_path))
    write_part(output, 7, filled().to_table(), FACTS)
    return part_path(output, 7)


def test_a_part_keeps_the_schema_and_its_descriptions(part: Path) -> None:
    schema = pq.read_schema(part)
    assert schema.remove_metadata().equals(SCHEMA.remove_metadata())
    for field in SCHEMA:
        written = schema.field(field.name)
        assert written.nullable == field.nullable
        assert written.metadata[b"description"] == field.metadata[b"description"]
    assert pq.read_table(part).equals(filled().to_table())


def test_a_null_where_none_may_be_is_not_written(tmp_path: Path) -> None:
    columns = [pa.nulls(1, field.type) for field in SCHEMA]
    with pytest.raises(pa.ArrowInvalid):
        write_part(OutputFolder(str(tmp_path)), 0, pa.table(columns, schema=SCHEMA), FACTS)
    assert list(tmp_path.iterdir()) == []


def test_a_column_is_written_as_was_found_best(part: Path) -> None:
    group = pq.read_metadata(part).row_group(0)
    columns = {group.column(k).path_in_schema: group.column(k) for k in range(group.num_columns)}
    with_dictionary = {name for name, c in columns.items() if c.has_dictionary_page}
    assert with_dictionary == set(PARQUET_OPTIONS["use_dictionary"]) & columns.keys()
    assert set(PARQUET_OPTIONS["use_dictionary"]) <= columns.keys()
    assert not {"uri", "num_bytes", "confidence", "drift_angle_deg"} & with_dictionary
    for column in columns.values():
        assert column.compression == "ZSTD"
        assert column.is_stats_set  # what readers skip by
        # Encodings that every reader knows; Spark's is without BYTE_STREAM_SPLIT before 5.0.
        assert set(column.encodings) <= {"PLAIN", "RLE", "RLE_DICTIONARY"}


def test_other_readers_see_the_same_rows(part: Path) -> None:
    expected = filled().to_table().to_pylist()
    by_polars = pl.read_parquet(part).to_dicts()
    cursor = duckdb.sql(f"select * from '{part.parent}/*.parquet'")
    by_duckdb: list[dict[str, Any]] = [
        dict(zip(cursor.columns, row, strict=True)) for row in cursor.fetchall()
    ]
    assert by_polars == expected
    assert by_duckdb == expected
    query = f"select count(*) from '{part}' where status = 'ok' and len(top_labels) = 2"
    assert duckdb.sql(query).fetchall() == [(2,)]


def test_facts_go_round(part: Path, tmp_path: Path) -> None:
    assert read_facts(OutputFolder(str(tmp_path)), 7) == {**FACTS, "num_rows": 6}


def test_facts_are_those_of_the_part_that_another_driver_commits_meanwhile(
    s3: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers may label the last shard, and the first to end checks the parts."""
    monkeypatch.setattr(remote_file, "_HEAD_BYTES", 100)  # so that a part takes two requests
    output, table, answer = OutputFolder(f"{s3.url}/run"), filled().to_table(), proxy.answer
    write_part(output, 7, table, FACTS)

    def rewritten_once(request: Request) -> Answer:
        found = answer(request)
        if request.method == "GET":
            proxy.answer = answer  # type: ignore[method-assign]
            write_part(output, 7, table, {**FACTS, "began_at": 1})
        return found

    proxy.answer = rewritten_once  # type: ignore[method-assign]
    assert read_facts(output, 7) == {**FACTS, "began_at": 1, "num_rows": 6}


def test_what_is_not_a_whole_part_has_no_facts(part: Path, tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    whole = part.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"PAR1"):
        part.write_bytes(damaged)
        with pytest.raises((ValueError, OSError)):
            read_facts(output, 7)
    with pytest.raises(FileNotFoundError):
        read_facts(output, 8)
    table = pa.table({"a": [1]})
    pq.write_table(table, part)
    with pytest.raises(ValueError, match="is not a part of a labels data set"):
        read_facts(output, 7)
    for facts in (b"{", b"[1]", b"null", b"{}", b'{"counts": 3}'):
        pq.write_table(table.replace_schema_metadata({FACTS_KEY: facts}), part)
        with pytest.raises(ValueError, match=r"the facts in part-00007\.parquet are damaged"):
            read_facts(output, 7)


def test_a_part_says_once_how_it_was_made(part: Path) -> None:
    """Arrow would repeat it in its own schema: a fifth of a part of a hundred rows."""
    metadata = pq.read_metadata(part).metadata
    assert {COLUMNS_KEY, FACTS_KEY} <= metadata.keys()
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata[b"ARROW:schema"])))
    assert schema.metadata is None
    assert schema.field("width").metadata == SCHEMA.field("width").metadata


def test_a_flipped_bit_in_the_schema_is_damage(part: Path, tmp_path: Path) -> None:
    """No checksum covers it, and pyarrow may take it for a type that is not implemented."""
    output, sound = OutputFolder(str(tmp_path)), part.read_bytes()
    start = sound.index(b"ARROW:schema") + 1000
    for place in range(start, start + 60):
        flipped = bytearray(sound)
        flipped[place] ^= 8
        part.write_bytes(flipped)
        with suppress(ValueError, OSError):
            assert read_facts(output, 7)["counts"] == FACTS["counts"]
