"""docs/output.md leaves out no column of the output, and says what the files say of theirs."""

import json
import re
from dataclasses import fields
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import Made, write_output

from jobs.labelling.summary import Summary
from pipeline.records import SCHEMA

DOCS = (Path(__file__).parents[1] / "docs/output.md").read_text(encoding="utf-8")

# What the page calls a type, where it is not Arrow's own word.
TYPES = {
    "float": "float32",
    str(pa.dictionary(pa.int32(), pa.string())): "dictionary string",
    str(pa.list_(pa.field("element", pa.int32()))): "list of int32",
    str(pa.list_(pa.field("element", pa.float32()))): "list of float32",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels-out/, as the reader of the page has it."""
    folder = tmp_path_factory.mktemp("docs")
    write_output(folder / "labels-out", Made(images=20, images_per_shard=10), plan=True)
    return folder


def test_the_plans_columns(folder: Path) -> None:
    """Every one is explained, in the order in which a reader of the file finds them."""
    (section,) = re.findall(r"^- `plan\.parquet`.+?(?=^- `run)", DOCS, re.M | re.S)
    names = pq.read_schema(folder / "labels-out/plan.parquet").names
    assert re.findall(r"`(\w+)`: ", section) == names


def test_every_field_of_the_summary_is_explained() -> None:
    (section,) = re.findall(r"^- `summary\.json`.+?(?=^- )", DOCS, re.M | re.S)
    missing = {field.name for field in fields(Summary)} - set(re.findall(r"`(\w+)`", section))
    assert not missing


def column_rows() -> dict[str, list[str]]:
    """column -> its cells in the page's table: type, unit, meaning."""
    table = DOCS.split("## Status")[0]
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", table, re.M)
    return {name: list(cells) for name, *cells in found}


def test_every_column_is_explained_as_the_files_explain_it(folder: Path) -> None:
    rows = column_rows()
    assert list(rows) == SCHEMA.names
    for field in pq.read_schema(folder / "labels-out/labels/part-00000.parquet"):
        kind, unit, meaning = rows[field.name]
        metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
        assert meaning.startswith(metadata["description"]), field.name
        assert unit == metadata.get("unit", "–"), field.name
        assert kind == TYPES.get(str(field.type), str(field.type)), field.name


def test_any_reader_of_parquet_finds_the_descriptions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (query,) = re.findall(r"```sql\n(.+?)```", DOCS.split("## Status")[0], re.DOTALL)
    ((answer,),) = duckdb.sql(query).fetchall()
    found = json.loads(answer)
    assert found["drift_angle_deg"]["unit"] == "degrees"
    assert list(found) == SCHEMA.names
