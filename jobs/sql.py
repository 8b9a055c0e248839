"""`afd sql`: a query over the rows of an output, through the views `labels` and `plan`."""

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
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

from jobs.checked_settings import CheckedSettings
from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, ignoring_closed_stdout
from jobs.extras import require
from jobs.quantities import finite
from jobs.run_job import run_job
from jobs.settings import REQUIRED, require_positive, setting
from pipeline.output import OutputFolder

if TYPE_CHECKING:
    import duckdb

_Result = TypeVar("_Result")
_FALLBACK_WIDTH = 120  # characters, when stdout is not a terminal
_FETCH_ROWS = 10_000
_INTERRUPT_EVERY_S = 0.2
_WORD = re.compile(rb"\w+")
# DuckDB's statement types, by name so that this module does not import DuckDB.
_QUERIES = ("SELECT", "EXPLAIN", "MULTI")  # MULTI is a PIVOT
_PREPARATIONS = ("SET", "CREATE")  # tables are created in memory
# These types do not say what a statement does: COPY (PIVOT ...), which writes, is a MULTI too.
_AMBIGUOUS = ("EXPLAIN", "MULTI")
_EXPLAIN_WORDS = ("EXPLAIN", "ANALYZE", "ANALYSE", "FORMAT")
_READING_VERBS = (
    *("SELECT", "FROM", "WITH", "VALUES", "TABLE", "DESCRIBE", "DESC", "SHOW", "SUMMARIZE"),
    *("PIVOT", "UNPIVOT", "PIVOT_WIDER", "PIVOT_LONGER", "CREATE"),
)


@dataclass(frozen=True, kw_only=True)
class SqlSettings(CheckedSettings):
    """Run a SQL query (DuckDB) on an output of `afd label`, with views labels and plan ready."""

    output: str = setting(REQUIRED, "the output folder of an `afd label` run", positional=True)
    query: str = setting(
        REQUIRED,
        "SQL query, such as 'SELECT status, count(*) FROM labels GROUP BY ALL'; it can only read",
        positional=True,
    )
    format: Literal["table", "csv", "json"] = setting(
        "table", "table: what fits on the screen; csv and json: every row"
    )
    max_rows: int = setting(40, "rows shown in a table")

    def check_values(self) -> None:
        require_positive(self, "max_rows")


def sql(settings: SqlSettings, to: TextIO) -> None:
    """Run the query and write the result of its last statement.

    to: gets CSV, JSON and plans; DuckDB prints a table to stdout.
    Raises ValueError, worded for the user, when there is no output or DuckDB refuses the query.
    """
    require("report", "duckdb")
    import duckdb

    from jobs.labels_view import message_of, open_labels

    with open_labels(OutputFolder(settings.output)) as connection:
        # Some settings name files that DuckDB writes, and functions change them as SET does.
        connection.execute("SET allow_persistent_secrets = false")
        connection.execute("SET lock_configuration = true")
        try:
            _run_statements(connection, settings, to)
        except duckdb.Error as error:
            raise ValueError(message_of(error)) from error


class _InterruptibleConnection:
    """Calls DuckDB in a second thread, so that Ctrl-C ends a query at once.

    DuckDB computes in the calling thread. In the main thread, Ctrl-C would take effect only after
    the query, or appear as one of DuckDB's errors.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="query")
        self._thread.submit(int).result()  # started before there is a query to interrupt

    def call(self, function: Callable[[], _Result]) -> _Result:
        """The function's result. On KeyboardInterrupt, ends its query before raising."""
        try:
            return self._thread.submit(function).result()
        except KeyboardInterrupt:
            idle = self._thread.submit(int)  # done when the thread has finished `function`
            while not idle.done():
                self.connection.interrupt()  # repeated: it has no effect before a query starts
                with suppress(KeyboardInterrupt):  # further Ctrl-C while the query is ending
                    wait([idle], timeout=_INTERRUPT_EVERY_S)
            raise

    def execute(self, statement: duckdb.Statement) -> duckdb.DuckDBPyConnection:
        return self.call(lambda: self.connection.execute(statement))

    def rows(self, found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
        while rows := self.call(lambda: found.fetchmany(_FETCH_ROWS)):
            yield from rows


def _run_statements(
    connection: duckdb.DuckDBPyConnection, settings: SqlSettings, to: TextIO
) -> None:
    """Run every statement; write the rows of the last one. Raises ValueError if one writes."""
    try:
        settings.query.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the query is not UTF-8: {settings.query!r}") from error
    statements = connection.extract_statements(settings.query)
    for statement in statements:
        if (kind := _kind(statement)) not in (*_QUERIES, *_PREPARATIONS):
            raise ValueError(
                f"{kind} is refused: afd sql only reads the output; to save rows, use"
                " --format csv > FILE"
            )
    interruptible = _InterruptibleConnection(connection)
    for statement in statements[:-1]:
        for _ in interruptible.rows(interruptible.execute(statement)):
            pass  # DuckDB takes no further statement before all rows are fetched
    for statement in statements[-1:]:
        _write(interruptible, statement, settings, to)


def _kind(statement: duckdb.Statement) -> str:
    """The statement's type; for EXPLAIN and PIVOT with the verb, unless that only reads.

    EXPLAIN ANALYZE executes the statement it explains, so its verb matters.
    """
    kind: str = statement.type.name
    if kind not in _AMBIGUOUS:
        return kind
    verb = _verb(statement.query)
    return kind if verb in _READING_VERBS else f"{kind} {verb}"


def _verb(query: str) -> str:
    """The first word after EXPLAIN and its options."""
    import duckdb

    text, before = query.encode(), ""
    for start, _ in duckdb.tokenize(query):
        found = _WORD.match(text, start)
        word = found[0].decode().upper() if found else ""
        if word and word not in _EXPLAIN_WORDS and before != "FORMAT":
            return word
        before = word
    return ""


def _write(
    connection: _InterruptibleConnection,
    statement: duckdb.Statement,
    settings: SqlSettings,
    to: TextIO,
) -> None:
    kind = statement.type.name
    if kind in _PREPARATIONS:
        connection.execute(statement)
    elif settings.format != "table":
        found = connection.execute(statement)
        columns = [column[0] for column in found.description or ()]
        _WRITERS[settings.format](columns, connection.rows(found), to)
    elif kind == "EXPLAIN":  # a drawing of many lines, which the cell of a table would wrap
        to.writelines(f"{plan}\n" for _, plan in connection.rows(connection.execute(statement)))
    else:
        width = shutil.get_terminal_size((_FALLBACK_WIDTH, 0)).columns
        connection.call(
            lambda: connection.connection.sql(statement).show(
                max_width=width, max_rows=settings.max_rows
            )
        )


def _write_csv(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], to: TextIO) -> None:
    """With a header. Nulls are empty, lists and structs are JSON."""
    table = csv.writer(_UnixLines(to))
    table.writerow(columns)
    for row in rows:
        table.writerow([_json(v) if isinstance(v, (list, dict)) else v for v in row])


class _UnixLines:
    """Ends lines that csv.writer writes in "\\r\\n" with "\\n".

    With "\\n" as its own terminator, older Pythons leave a "\\r" in a field unquoted.
    """

    def __init__(self, to: TextIO) -> None:
        self._to = to

    def write(self, line: str) -> None:
        self._to.write(line.removesuffix("\r\n") + "\n")


def _write_json(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], to: TextIO) -> None:
    """One array with one object per line. Raises ValueError for two columns of one name."""
    for name in columns:
        if columns.count(name) > 1:
            raise ValueError(
                f"several columns are called {name!r}, and a JSON object would keep the last:"
                " rename them with AS"
            )
    separator = "[\n"
    for row in rows:
        to.write(separator + _json(dict(zip(columns, row, strict=True))))
        separator = ",\n"
    to.write("[]\n" if separator == "[\n" else "\n]\n")


def _json(value: Any) -> str:
    return json.dumps(finite(value), ensure_ascii=False, default=_number_or_text)


def _number_or_text(value: Any) -> float | str:
    return float(value) if isinstance(value, Decimal) else str(value)


_WRITERS = {"csv": _write_csv, "json": _write_json}


def main(arguments: Sequence[str]) -> int:
    """`afd sql`: exit code 0 with the result, 1 when the query or the output is bad, 2 usage."""
    settings = parse(SqlSettings, arguments, prog="afd sql")
    return run_job("afd sql", lambda: _run(settings))


def _run(settings: SqlSettings) -> int:
    with ignoring_closed_stdout():
        sql(settings, sys.stdout)
    return EXIT_COMPLETE
