"""An output folder as DuckDB sees it: the view `labels`, one row an image, and the view `plan`."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from jobs.log import say
from pipeline.error_text import one_line
from pipeline.output import OutputError, OutputFolder


def connect(*, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """A database in memory. memory_limit: such as "1GB"; what does not fit goes to temporary files,
    and rows have no order then.

    It prints nothing: its progress bar would end in the answer to a query.
    """
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar_print = false")
    spill = os.path.join(tempfile.gettempdir(), f"afd-label-{os.getpid()}")
    connection.execute(f"SET temp_directory = {_quoted(spill)}")
    if memory_limit is not None:
        connection.execute(f"SET memory_limit = {_quoted(memory_limit)}")
        connection.execute("SET preserve_insertion_order = false")  # it would be held in memory
    return connection


def open_labels(output: OutputFolder) -> duckdb.DuckDBPyConnection:
    """A database with the views; nothing that is asked of it changes the output.

    A plan that cannot be read costs only its own view.

    Raises OutputError when there are no labels.
    """
    require_parts(output, list_parts(output))
    connection = connect()
    try:
        every_part = f"{glob.escape(str(output.labels))}/part-*.parquet"
        connection.execute(f"CREATE VIEW labels AS FROM {_scan([every_part])}")
    except duckdb.Error as error:
        connection.close()
        raise OutputError(f"cannot read {str(output.labels)!r}: {message_of(error)}") from error
    if output.plan.exists():
        try:
            plan = glob.escape(str(output.plan))
            connection.execute(f"CREATE VIEW plan AS FROM {_scan([plan])}")
        except duckdb.Error as error:
            say(f"without the view plan: {message_of(error)}")
    return connection


def list_parts(output: OutputFolder) -> list[Path]:
    """The committed parts, in the order of their names."""
    return sorted(output.labels.glob("part-*.parquet"))


def require_parts(output: OutputFolder, parts: Sequence[Path]) -> None:
    """Raise OutputError when there are none."""
    if not parts:
        raise OutputError(
            f"no labels in {str(output.path)!r}: give the --output folder of an `afd label` run"
        )


def scan_parts(parts: Sequence[Path]) -> str:
    """The parts as a table of SQL, with the column `file_row_number`, from 0 in each part."""
    return _scan([glob.escape(str(part)) for part in parts], "file_row_number = true")


def _scan(patterns: Sequence[str], *options: str) -> str:
    files = ", ".join(_quoted(pattern) for pattern in patterns)
    # A folder named like x=1 above the output would add a column otherwise.
    return f"read_parquet({', '.join([f'[{files}]', 'hive_partitioning = false', *options])})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def message_of(error: duckdb.Error) -> str:
    """DuckDB's message without the excerpt of the query and its advice, and on one line."""
    return one_line(str(error).partition("\n\n")[0])
