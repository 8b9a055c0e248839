"""The sql job: a query over an output's rows, with the views `labels` and `plan` ready."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, reader_may_leave
from jobs.extras import require
from jobs.quantities import finite
from jobs.run_job import run_job
from jobs.settings import REQUIRED, require_positive, setting
from pipeline.output import OutputFolder

if TYPE_CHECKING:
    import duckdb

_Result = TypeVar("_Result")
_FALLBACK_WIDTH = 120  # characters, where the output is no terminal
_FETCH_ROWS = 10_000
_INTERRUPT_EVERY_S = 0.2
_WORD = re.compile(rb"\w+")
# By name: DuckDB's own enumeration would have to be imported with the job.
_ANSWERS = ("SELECT", "EXPLAIN", "MULTI")  # MULTI is a PIVOT
_PREPARES = ("SET", "CREATE")  # what is created is in memory
# Of an EXPLAIN and a PIVOT, DuckDB does not name what they do: COPY (PIVOT ...) is a MULTI too.
_UNNAMED = ("EXPLAIN", "MULTI")
_EXPLAINS = ("EXPLAIN", "ANALYZE", "ANALYSE", "FORMAT")
_READS = (
    *("SELECT", "FROM", "WITH", "VALUES", "TABLE", "DESCRIBE", "DESC", "SHOW", "SUMMARIZE"),
    *("PIVOT", "UNPIVOT", "PIVOT_WIDER", "PIVOT_LONGER", "CREATE"),
)


@dataclass(frozen=True, kw_only=True)
class SqlSettings:
    """Run a SQL query (DuckDB) on an output of `afd label`, with views labels and plan ready."""

    output: str = setting(REQUIRED, "the output folder of an `afd label` run")
    query: str = setting(
        REQUIRED,
        "SQL query, such as 'SELECT status, count(*) FROM labels GROUP BY ALL'; it can only read",
    )
    format: Literal["table", "csv", "json"] = setting(
        "table", "table: what fits on the screen; csv and json: every row"
    )
    max_rows: int = setting(40, "rows shown in a table")

    def __post_init__(self) -> None:
        require_positive(self, "max_rows")


def sql(settings: SqlSettings, to: TextIO) -> None:
    """Run the query and write the result of its last statement.

    Raises ValueError, worded for the user: no output there, or DuckDB's message on one line.
    """
    require("report", "duckdb")
    import duckdb

    from jobs.labels_view import message_of, open_labels

    with open_labels(OutputFolder(settings.output)) as connection:
        try:
            _answer(connection, settings, to)
        except duckdb.Error as error:
            raise ValueError(message_of(error)) from error


class _Asker:
    """Asks DuckDB in a thread of its own, so that Ctrl-C ends a query at once.

    DuckDB computes in the thread that asks, where Ctrl-C would not be seen before the end, or turn
    up as an error of DuckDB's own.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="query")
        self._thread.submit(int).result()  # started before there is a query to interrupt

    def wait_for(self, ask: Callable[[], _Result]) -> _Result:
        try:
            return self._thread.submit(ask).result()
        except KeyboardInterrupt:
            over = self._thread.submit(int)  # whether `ask` was handed over yet or not
            while not over.done():
                self.connection.interrupt()  # again: one before the query begins is forgotten
                with suppress(KeyboardInterrupt):  # again, while it is being ended
                    wait([over], timeout=_INTERRUPT_EVERY_S)
            raise

    def execute(self, statement: duckdb.Statement) -> duckdb.DuckDBPyConnection:
        return self.wait_for(lambda: self.connection.execute(statement))

    def rows(self, found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
        while rows := self.wait_for(lambda: found.fetchmany(_FETCH_ROWS)):
            yield from rows


def _answer(connection: duckdb.DuckDBPyConnection, settings: SqlSettings, to: TextIO) -> None:
    """Run every statement; the last one's rows are the answer."""
    statements = connection.extract_statements(settings.query)
    for statement in statements:
        if (kind := _kind(statement)) not in (*_ANSWERS, *_PREPARES):
            raise ValueError(
                f"{kind} writes or leaves the output, and this only reads it:"
                " take the rows with --format csv > FILE"
            )
    asker = _Asker(connection)
    for statement in statements[:-1]:
        asker.execute(statement)
    for statement in statements[-1:]:
        _write(asker, statement, settings, to)


def _kind(statement: duckdb.Statement) -> str:
    """What a statement is, or what stands behind its EXPLAIN: EXPLAIN ANALYZE does it."""
    kind: str = statement.type.name
    if kind not in _UNNAMED:
        return kind
    verb = _verb(statement.query)
    return kind if verb in _READS else f"{kind} {verb}"


def _verb(query: str) -> str:
    """The first word that is no EXPLAIN and none of its options."""
    import duckdb

    text, before = query.encode(), ""
    for start, _ in duckdb.tokenize(query):
        found = _WORD.match(text, start)
        word = found[0].decode().upper() if found else ""
        if word and word not in _EXPLAINS and before != "FORMAT":
            return word
        before = word
    return ""


def _write(asker: _Asker, statement: duckdb.Statement, settings: SqlSettings, to: TextIO) -> None:
    kind = statement.type.name
    if kind in _PREPARES:
        asker.execute(statement)
    elif settings.format != "table":
        found = asker.execute(statement)
        columns = [column[0] for column in found.description or ()]
        _WRITERS[settings.format](columns, asker.rows(found), to)
    elif kind == "EXPLAIN":  # a drawing of many lines, which a table's cell would fold
        to.writelines(f"{plan}\n" for _, plan in asker.rows(asker.execute(statement)))
    else:
        width = shutil.get_terminal_size((_FALLBACK_WIDTH, 0)).columns
        asker.wait_for(
            lambda: asker.connection.sql(statement).show(
                max_width=width, max_rows=settings.max_rows
            )
        )


def _write_csv(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], to: TextIO) -> None:
    """With a header; null is empty, a list is JSON."""
    table = csv.writer(to, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([_json(v) if isinstance(v, (list, dict)) else v for v in row])


def _write_json(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], to: TextIO) -> None:
    """One array of objects, a line each."""
    separator = "[\n"
    for row in rows:
        to.write(separator + _json(dict(zip(columns, row, strict=True))))
        separator = ",\n"
    to.write("[]\n" if separator == "[\n" else "\n]\n")


def _json(value: Any) -> str:
    return json.dumps(finite(value), ensure_ascii=False, default=str)


_WRITERS = {"csv": _write_csv, "json": _write_json}


def main(arguments: Sequence[str]) -> int:
    """`afd sql`: exit code 0 with the answer, 1 when the query or the output is bad, 2 usage."""
    settings = parse(SqlSettings, arguments, prog="afd sql", positional=["output", "query"])
    return run_job("afd sql", lambda: _run(settings))


def _run(settings: SqlSettings) -> int:
    with reader_may_leave():
        sql(settings, sys.stdout)
    return EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
