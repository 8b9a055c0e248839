"""The views over an output: every row once, whatever the folder is called."""

from pathlib import Path

import duckdb
import pytest
from outputs import Made, write_output

from jobs.labels_view import add_labels, list_parts, one_line, open_labels
from pipeline.output import OutputError, OutputFolder
from pipeline.records import SCHEMA


@pytest.mark.parametrize("name", ["plain", 'q[1]*?\'s "out"', "year=2024/out", "é"])
def test_the_views_hold_every_row_and_column(tmp_path: Path, name: str) -> None:
    output = write_output(tmp_path / name, Made(images=50, images_per_shard=20))
    with open_labels(output) as connection:
        assert connection.sql("SELECT count(*), count(DISTINCT uri) FROM labels").fetchall() == [
            (50, 50)
        ]
        assert connection.sql("FROM labels").columns == SCHEMA.names
        query = "SELECT count(*) FROM labels JOIN plan USING (uri)"
        assert connection.sql(query).fetchall() == [(50,)]


def test_only_the_parts_that_are_named(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=50, images_per_shard=20), plan=False)
    with open_labels(output, list_parts(output)[1:], memory_limit="200MB") as connection:
        assert connection.sql("SELECT min(shard), count(*) FROM labels").fetchall() == [(1, 30)]
        assert connection.sql("SHOW TABLES").fetchall() == [("labels",)]


def test_two_outputs_side_by_side(tmp_path: Path) -> None:
    now = write_output(tmp_path / "now", Made(images=30))
    before = write_output(tmp_path / "before", Made(images=20))
    with open_labels(now) as connection:
        add_labels(connection, "labels_before", before)
        query = "SELECT count(*) FROM labels JOIN labels_before USING (uri)"
        assert connection.sql(query).fetchall() == [(20,)]


def test_where_there_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(OutputError, match=r"no labels in .*: give the --output folder"):
            open_labels(OutputFolder(str(folder)))


def test_a_part_that_is_not_whole_is_refused_in_one_line(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=5))
    part = list_parts(output)[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(OutputError, match=r"cannot read '.*labels'.*part-00000") as caught:
        open_labels(output)
    assert "\n" not in str(caught.value)


def test_a_message_of_duckdb_on_one_line() -> None:
    with pytest.raises(duckdb.Error) as caught:
        duckdb.sql("SELECT\n  confidnce FROM (SELECT 1 AS confidence)")
    assert one_line(caught.value).startswith('Binder Error: Referenced column "confidnce" not')
    assert '"confidence"' in one_line(caught.value)
    assert "\n" not in one_line(caught.value)
    assert "LINE" not in one_line(caught.value)
