"""The schema is a promise to the readers of the data set."""

import json

from pyarrow import types

from pipeline.records import COLUMNS_KEY, SCHEMA, STATUSES, EncodedImage, Status

# As the table in the documentation has it: a change here is a change of SCHEMA_VERSION.
PROMISED = {
    "uri": "string not null",
    "shard": "int32 not null",
    "status": "dictionary<values=string, indices=int32, ordered=0> not null",
    "error": "string",
    "num_bytes": "int64",
    "width": "int32",
    "height": "int32",
    "jpeg_quality": "int8",
    "jpeg_quality_error": "float",
    "jpeg_subsampling": "string",
    "jpeg_progressive": "bool",
    "jpeg_components": "int8",
    "label": "int32",
    "label_name": "dictionary<values=string, indices=int32, ordered=0>",
    "confidence": "float",
    "top_labels": "list<item: int32>",
    "top_confidences": "list<item: float>",
    "drift_angle_deg": "float",
    "drift_energy": "float",
    "flip_probability": "float",
}


def test_the_schema_is_the_promised_one() -> None:
    found = {f.name: f"{f.type}{'' if f.nullable else ' not null'}" for f in SCHEMA}
    found = {name: text.replace("element", "item") for name, text in found.items()}
    assert list(found.items()) == list(PROMISED.items())
    assert all(field.metadata[b"description"] for field in SCHEMA)
    assert STATUSES == ("ok", "damaged", "rejected", "unreadable")


def test_every_number_has_a_unit_and_nothing_else_has() -> None:
    for field in SCHEMA:
        kind = field.type.value_type if types.is_list(field.type) else field.type
        is_number = types.is_integer(kind) or types.is_floating(kind)
        assert (b"unit" in field.metadata) == is_number, field.name


def test_readers_of_parquet_alone_find_the_same_descriptions() -> None:
    found = json.loads(SCHEMA.metadata[COLUMNS_KEY])
    assert list(found) == SCHEMA.names
    for field in SCHEMA:
        assert {k.encode(): v.encode() for k, v in found[field.name].items()} == field.metadata


def test_only_what_is_ok_or_damaged_is_decoded() -> None:
    decodable = [status for status in Status if EncodedImage(0, b"", status=status).decodable]
    assert decodable == [Status.OK, Status.DAMAGED]


def test_an_image_that_is_given_up_frees_its_bytes() -> None:
    image = EncodedImage(3, b"bytes", num_bytes=5)
    image.fail(Status.REJECTED, "why")
    assert (image.status, image.error, image.data) == (Status.REJECTED, "why", b"")
    assert (image.row, image.num_bytes, image.decodable) == (3, 5, False)
