"""`afd sql`: answers in three formats, and reads only."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from outputs import Made, write_output

from jobs.sql import main
from pipeline.inputs.manifests import list_manifest
from pipeline.output import OutputFolder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    made = Made(images=300, images_per_shard=100, bad_share=0.2)
    return write_output(tmp_path_factory.mktemp("out"), made)


@pytest.fixture(scope="module")
def rows(output: OutputFolder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output.labels).to_pylist()
    return found


def ask(output: OutputFolder, query: str, *options: str) -> int:
    return main([str(output.path), query, *options])


def test_a_table(
    output: OutputFolder, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(output, "SELECT status, count(*) AS n FROM labels GROUP BY ALL") == 0
    shown = capsys.readouterr().out
    damaged = sum(row["status"] == "damaged" for row in rows)
    assert any(line.split()[1::2] == ["damaged", str(damaged)] for line in shown.splitlines())


def test_a_table_fits_the_terminal(
    output: OutputFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 130):
        monkeypatch.setenv("COLUMNS", str(width))
        assert ask(output, "FROM labels", "--max-rows", "6") == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in lines) <= width
        assert len(lines) < 25


def test_csv_holds_every_row(
    output: OutputFolder, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT uri, error, confidence, top_labels FROM labels ORDER BY uri"
    assert ask(output, query, "--format", "csv") == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(found) == len(rows)
    for line, row in zip(found, sorted(rows, key=lambda row: row["uri"]), strict=True):
        assert line["uri"] == row["uri"]
        assert line["error"] == (row["error"] or "")
        if row["confidence"] is not None:
            assert float(line["confidence"]) == row["confidence"]
            assert json.loads(line["top_labels"]) == row["top_labels"]


NAMES = ["a\rb", "\r", "a\r\n", "\n", "a\tb", 'a"b', "a,b;c", " a ", ""]


def test_csv_is_read_back_as_it_was(
    output: OutputFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also as a manifest: names in a crawl may hold whatever a file's name may."""
    values = ", ".join(f"('{name}')" for name in NAMES)
    assert ask(output, f"FROM (VALUES {values}) AS t(uri)", "--format", "csv") == 0
    text = capsys.readouterr().out
    assert text.startswith('uri\n"a\rb"\n"\r"\n')
    assert [row for (row,) in csv.reader(io.StringIO(text, newline=""))] == ["uri", *NAMES]
    found = list_manifest(io.BytesIO(text.encode()), str(tmp_path / "again.csv"))
    assert list(found) == NAMES


def test_json_is_one_array(output: OutputFolder, capsys: pytest.CaptureFixture[str]) -> None:
    query = """SELECT uri, top_labels, 'nan'::DOUBLE AS x, {'y': 1 / 0, 'é': NULL} AS s,
               TIMESTAMPTZ '2024-05-06 07:08:09+00' AS t, 0.25::DECIMAL(4, 3) AS d
               FROM labels LIMIT 3"""
    assert ask(output, query, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 3
    assert found[0]["x"] is None
    assert found[0]["s"] == {"y": None, "é": None}
    assert found[0]["t"].startswith("2024-05-06")
    assert found[0]["d"] == 0.25
    assert ask(output, "FROM labels LIMIT 0", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert ask(output, "SELECT l.uri, p.uri FROM labels l, labels p", "--format", "json") == 1
    told = capsys.readouterr()
    assert "several columns are called 'uri'" in told.err
    assert told.out == ""


def test_the_last_statement_is_the_answer(
    output: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    query = (
        "SET VARIABLE least = 0; CREATE TABLE t AS FROM labels; FROM labels; SELECT 1;"
        " SELECT count(*) AS n FROM t WHERE shard >= getvariable('least')"
    )
    assert ask(output, query, "--format", "csv") == 0
    assert capsys.readouterr().out == "n\n300\n"
    assert ask(output, "FROM labels; SELECT 1; SELECT 5 AS five") == 0
    assert "five" in capsys.readouterr().out
    for silent in (" ", "SET VARIABLE least = 1"):
        assert ask(output, silent) == 0
        assert capsys.readouterr().out == ""
    assert ask(output, "PIVOT labels ON status USING count(*) GROUP BY shard") == 0
    assert "unreadable" in capsys.readouterr().out
    assert ask(output, "EXPLAIN SELECT count(*) FROM labels") == 0
    assert "\\n" not in capsys.readouterr().out


EXPLAINS = (
    "EXPLAIN",
    "explain analyze",
    "EXPLAIN /* SELECT /* é */ */ ANALYSE -- SELECT\n",
    "EXPLAIN (ANALYZE, FORMAT json)",
    "EXPLAIN(FORMAT 'json', ANALYZE)",
)


@pytest.mark.parametrize("explain", EXPLAINS)
def test_whatever_reads_is_explained(output: OutputFolder, explain: str) -> None:
    for query in (
        "SELECT copy FROM (SELECT 1 AS copy)",
        "(FROM labels)",
        "WITH t AS (FROM labels)",
    ):
        assert ask(output, f"{explain} {query}{' FROM t' * query.startswith('WITH')}") == 0
    assert ask(output, f"{explain} PIVOT labels ON status USING count(*)") == 0


def test_nothing_is_written(
    output: OutputFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.path.rglob("*")}
    for query in (
        f"COPY labels TO '{tmp_path}/x.csv'",
        f"SELECT 1; EXPORT DATABASE '{tmp_path}/x'",
        f"ATTACH '{tmp_path}/x.db'",
        "DROP VIEW labels",
        "INSTALL httpfs",
        *(f"{explain} COPY labels TO '{tmp_path}/x.csv'" for explain in EXPLAINS),
        f"COPY (PIVOT labels ON status USING count(*)) TO '{tmp_path}/x.csv'",
        f"EXPLAIN ANALYZE COPY (PIVOT labels ON status USING count(*)) TO '{tmp_path}/x.csv'",
        "EXPLAIN ANALYZE DROP VIEW labels",
    ):
        assert ask(output, query) == 1
        message = capsys.readouterr().err
        assert "only reads" in message
        assert message.count("\n") == 1
    for query in (
        f"SET log_query_path = '{tmp_path}/x.sql'; SELECT 1",
        f"FROM enable_logging(storage = 'file', storage_config = {{'path': '{tmp_path}/x'}})",
    ):
        assert ask(output, query) == 1
        assert "the configuration has been locked" in capsys.readouterr().err
    assert ask(output, "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')") == 1
    assert "Persistent secrets are disabled" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert before == {path: path.stat().st_mtime_ns for path in output.path.rglob("*")}


def test_mistakes_are_told_in_one_line(
    output: OutputFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "SELECT confidnce FROM labels": 'Referenced column "confidnce" not found',
        "SELEC 1": 'syntax error at or near "selec"',
        "FROM nowhere": "nowhere does not exist",
        "FROM 'gone.parquet'": "gone.parquet",
        "SELECT '\udce9'": "the query is not UTF-8",  # as Python reads a byte of Latin-1
    }
    for query, message in cases.items():
        for options in ((), ("--format", "csv"), ("--format", "json")):
            assert ask(output, query, *options) == 1
            said = capsys.readouterr().err
            assert said.startswith("afd sql: ")
            assert message.lower() in said.lower()
            assert said.count("\n") == 1
    assert main([str(tmp_path), "SELECT 1"]) == 1
    assert "no labels in" in capsys.readouterr().err
    for bad in (["--max-rows", "0"], ["--format", "xml"]):
        with pytest.raises(SystemExit) as exit_info:
            ask(output, "SELECT 1", *bad)
        assert exit_info.value.code == 2


def test_a_reader_that_has_seen_enough(output: OutputFolder) -> None:
    query = "SELECT uri FROM labels, range(2000)"
    command = [sys.executable, "-m", "jobs.cli", "sql", str(output.path), query, "--format", "csv"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stderr is not None
    assert job.stdout.readline() == b"uri\n"
    job.stdout.close()
    assert job.stderr.read() == b""
    assert job.wait(60) == 0
    job.stderr.close()


@pytest.mark.parametrize("options", [(), ("--format", "csv")])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b",
        "CREATE TABLE t AS SELECT a.range FROM range(10000000) a, range(1000000) b",
    ],
)
def test_ctrl_c_ends_a_long_query_with_one_line(
    output: OutputFolder, query: str, options: tuple[str, ...]
) -> None:
    # As in a terminal, also where the tests run in the background, without SIGINT.
    program = """if True:
        import signal, sys, jobs.cli, jobs.sql
        signal.signal(signal.SIGINT, signal.default_int_handler)
        execute = jobs.sql._run_statements
        def told(*arguments):
            print("asked", flush=True)
            execute(*arguments)
        jobs.sql._run_statements = told
        jobs.cli.command()"""
    command = [sys.executable, "-c", program, "sql", str(output.path), query, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"asked\n"
        time.sleep(0.5)
        for _ in range(2):  # impatiently
            job.send_signal(signal.SIGINT)
            time.sleep(0.01)
        try:
            said = job.communicate(timeout=30)
        finally:
            job.kill()
    assert (job.returncode, said) == (1, (b"", b"afd sql: interrupted\n"))
