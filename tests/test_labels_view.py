"""The views over an output: every row once, whatever the folder is called."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from outputs import Made, rewrite, write_output

from jobs.labels_view import connect, list_parts, message_of, open_labels, scan_parts
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


def test_products_of_the_columns_do_not_overflow(tmp_path: Path) -> None:
    """DuckDB computes in the operands' type; the files have int8 and int32."""
    output = write_output(tmp_path, Made(images=5, bad_share=0))
    most = {"width": 65_535, "height": 65_535, "jpeg_quality": 100, "jpeg_components": 4}
    rewrite(output, 0, lambda row: row.update(most))
    query = "SELECT max(width * height), max(2 * jpeg_quality), max(40 * jpeg_components)"
    with open_labels(output) as connection:
        assert connection.sql(f"{query} FROM labels").fetchall() == [(65_535**2, 200, 160)]


def test_a_bound_on_a_widened_column_skips_files(tmp_path: Path) -> None:
    """By their statistics: the cast does not make DuckDB decode a part outside the bound."""
    output = write_output(tmp_path, Made(images=40, images_per_shard=20))
    rewrite(output, 1, lambda row: row.update(width=5000))
    with open_labels(output) as connection:
        query = "EXPLAIN ANALYZE SELECT uri FROM labels WHERE width > 4999"
        ((_, plan),) = connection.sql(query).fetchall()
    assert "Row Groups Scanned: 1 / 2" in plan


def test_only_the_parts_that_are_named(tmp_path: Path) -> None:
    output = write_output(tmp_path / "q[1]/x=1", Made(images=50, images_per_shard=20))
    with connect(memory_limit="200MB") as connection:
        parts = scan_parts(list_parts(output)[1:])
        query = f"SELECT min(shard), max(file_row_number), count(*) FROM {parts}"
        assert connection.sql(query).fetchall() == [(1, 19, 30)]
        assert connection.sql(f"FROM {parts}").columns == [*SCHEMA.names, "file_row_number"]


@pytest.mark.parametrize(("plan", "strays"), [(True, 3), (False, 2)])
def test_copies_of_parts_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: bool, strays: int
) -> None:
    """As a file manager or a program that syncs makes them; or of a longer run."""
    output = write_output(tmp_path / "q[1]", Made(images=50, images_per_shard=20), plan=plan)
    parts = list_parts(output)
    assert caplog.messages == []
    beyond = parts[2].with_name("part-00003.parquet")
    for name in ("part-00000 (copy).parquet", "part-000001.parquet", beyond.name):
        shutil.copy(parts[0], parts[0].with_name(name))
    with caplog.at_level("INFO", "afd"):
        assert list_parts(output) == (parts if plan else [*parts, beyond])
    assert caplog.messages == [
        f"in {str(output.labels)!r}, left out as of no shard of the run:"
        f" 'part-00000 (copy).parquet', and {strays - 1} more; other readers count what is not"
        " removed"
    ]
    with open_labels(output) as connection:
        found = connection.sql("SELECT count(*) FROM labels").fetchall()
        assert found == [(50 if plan else 70,)]


def test_without_a_plan(tmp_path: Path) -> None:
    with open_labels(write_output(tmp_path, Made(images=5), plan=False)) as connection:
        assert connection.sql("SHOW TABLES").fetchall() == [("labels",)]


def test_a_damaged_plan_costs_only_its_view(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = write_output(tmp_path, Made(images=5))
    output.plan.write_bytes(b"broken")
    with caplog.at_level("INFO", "afd"), open_labels(output) as connection:
        assert connection.sql("SELECT count(*) FROM labels").fetchall() == [(5,)]
        assert connection.sql("SHOW TABLES").fetchall() == [("labels",)]
    (line,) = caplog.messages
    assert line.startswith("without the view plan: ")
    assert str(output.plan) in line


def test_what_does_not_fit_the_memory_goes_to_a_file() -> None:
    with connect(memory_limit="100MB") as connection:
        connection.execute("CREATE TEMP TABLE t AS SELECT hash(range) AS h FROM range(20_000_000)")
        assert connection.sql("SELECT count(*) FROM t").fetchall() == [(20_000_000,)]
        folder = connection.sql("SELECT current_setting('temp_directory')").fetchall()[0][0]
        assert sum(path.stat().st_size for path in Path(folder).iterdir()) > 30_000_000
        assert Path(folder).stat().st_mode & 0o777 == 0o700  # the rows may name private images
    assert not Path(folder).exists()


def test_nothing_is_printed_however_long_it_takes(tmp_path: Path) -> None:
    """An interactive Python would show DuckDB's progress bar, in the middle of an answer."""
    output = write_output(tmp_path, Made(images=5))
    code = f"""
from jobs.labels_view import open_labels
from pipeline.output import OutputFolder
with open_labels(OutputFolder({str(output.path)!r})) as connection:
    connection.execute("SET progress_bar_time = 0")
    connection.execute("SELECT sum(range::DOUBLE ** 0.5) FROM range(10_000_000), labels")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")


def test_where_there_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for folder in (tmp_path, tmp_path / "gone"):
        labels = open_labels(OutputFolder(str(folder)))
        with pytest.raises(OutputError, match=r"no labels in .*: give the --output folder"), labels:
            pass


def test_a_part_that_is_not_whole_is_refused_in_one_line(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=5))
    part = list_parts(output)[0]
    part.write_bytes(part.read_bytes()[:-20])
    refused = pytest.raises(OutputError, match=r"cannot read '.*labels'.*part-00000")
    with refused as caught, open_labels(output):
        pass
    assert "\n" not in str(caught.value)


def test_a_message_of_duckdb_on_one_line() -> None:
    with pytest.raises(duckdb.Error) as caught:
        duckdb.sql("SELECT\n  confidnce FROM (SELECT 1 AS confidence)")
    assert message_of(caught.value).startswith('Binder Error: Referenced column "confidnce" not')
    assert '"confidence"' in message_of(caught.value)
    assert "\n" not in message_of(caught.value)
    assert "LINE" not in message_of(caught.value)
