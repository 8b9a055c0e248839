"""An output folder as DuckDB sees it: the view `labels`, one row an image, and the view `plan`."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipeline.output import OutputError, OutputFolder


def open_labels(
    output: OutputFolder, parts: Sequence[Path] | None = None, *, memory_limit: str | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory database over the output; nothing that is asked of it changes the output.

    parts: those that the view holds; None for all there are. memory_limit: such as "1GB"; what
    does not fit goes to a temporary folder.
    Raises OutputError when there is no part.
    """
    connection = duckdb.connect()
    if memory_limit is not None:
        connection.execute("SET memory_limit = $limit", {"limit": memory_limit})
    try:
        add_labels(connection, "labels", output, parts)
        if output.plan.exists():
            _add_view(connection, "plan", [glob.escape(str(output.plan))])
    except duckdb.Error as error:
        connection.close()
        raise OutputError(f"cannot read {str(output.labels)!r}: {one_line(error)}") from error
    return connection


def add_labels(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    output: OutputFolder,
    parts: Sequence[Path] | None = None,
) -> None:
    """Make an output's rows a view. Raises OutputError when there is no part."""
    found = list_parts(output) if parts is None else parts
    if not found:
        raise OutputError(
            f"no labels in {str(output.path)!r}: give the --output folder of an `afd label` run"
        )
    if parts is None:
        patterns = [f"{glob.escape(str(output.labels))}/part-*.parquet"]
    else:
        patterns = [glob.escape(str(part)) for part in parts]
    _add_view(connection, name, patterns)


def list_parts(output: OutputFolder) -> list[Path]:
    """The committed parts, in the order of their names."""
    return sorted(output.labels.glob("part-*.parquet"))


def _add_view(connection: duckdb.DuckDBPyConnection, name: str, patterns: Sequence[str]) -> None:
    files = ", ".join(_quoted(pattern) for pattern in patterns)
    # A folder named like x=1 above the output would add a column otherwise.
    connection.execute(
        f"CREATE VIEW {name} AS FROM read_parquet([{files}], hive_partitioning = false)"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def one_line(error: duckdb.Error) -> str:
    """DuckDB's message without the excerpt of the query, and on one line."""
    message = str(error).partition("\n\nLINE ")[0]
    return " ".join(message.split())
