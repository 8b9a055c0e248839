"""An output folder in DuckDB: the views `labels`, with one row per image, and `plan`."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from jobs.log import say
from pipeline.audit import stray_parts
from pipeline.error_text import one_line
from pipeline.output import OutputError, OutputFolder
from pipeline.shards import PART_PATTERN

# DuckDB multiplies in the operands' type, and in those of the files a product overflows.
_WIDENED = {
    "width": "BIGINT",
    "height": "BIGINT",
    "jpeg_quality": "INTEGER",
    "jpeg_components": "INTEGER",
}


@contextmanager
def connect(*, memory_limit: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory, for the block.

    memory_limit: such as "1GB"; with a limit, rows have no order, and what does not fit into it is
    written to temporary files, which only this user can read.
    """
    with tempfile.TemporaryDirectory(prefix="afd-") as spill, duckdb.connect() as connection:
        # DuckDB prints its progress bar to stdout, where the results go.
        connection.execute("SET enable_progress_bar_print = false")
        connection.execute(f"SET temp_directory = {_quoted(spill)}")
        if memory_limit is not None:
            connection.execute(f"SET memory_limit = {_quoted(memory_limit)}")
            # Keeping the order would need memory.
            connection.execute("SET preserve_insertion_order = false")
        yield connection


@contextmanager
def open_labels(output: OutputFolder) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with both views; without `plan`, and with a message, if it cannot be read.

    In `labels`, the columns of pixels and of JPEG numbers have wider types than in the files.
    Raises OutputError when there are no labels.
    """
    parts = list_parts(output)
    require_parts(output, parts)
    with connect() as connection:
        try:
            patterns = [glob.escape(str(part)) for part in parts]
            widened = ", ".join(f"{name}::{kind} AS {name}" for name, kind in _WIDENED.items())
            connection.execute(
                f"CREATE VIEW labels AS SELECT * REPLACE ({widened}) FROM {_scan(patterns)}"
            )
        except duckdb.Error as error:
            raise OutputError(f"cannot read {str(output.labels)!r}: {message_of(error)}") from error
        if output.plan.exists():
            try:
                plan = glob.escape(str(output.plan))
                connection.execute(f"CREATE VIEW plan AS FROM {_scan([plan])}")
            except duckdb.Error as error:
                say(f"without the view plan: {message_of(error)}")
        yield connection


def list_parts(output: OutputFolder) -> list[Path]:
    """The committed parts, in the order of their names; says which files are none of them."""
    found = sorted(output.labels.glob(PART_PATTERN))
    if strays := stray_parts(output, (path.name for path in found)):
        others = f", and {len(strays) - 1} more" if len(strays) > 1 else ""
        say(
            f"in {str(output.labels)!r}, left out as of no shard of the run: {strays[0]!r}{others};"
            " other readers count what is not removed"
        )
    left_out = set(strays)
    return [path for path in found if path.name not in left_out]


def require_parts(output: OutputFolder, parts: Sequence[Path]) -> None:
    """Raise OutputError when there are none."""
    if not parts:
        raise OutputError(
            f"no labels in {str(output.path)!r}: give the --output folder of an `afd label` run"
        )


def scan_parts(parts: Sequence[Path]) -> str:
    """SQL for the table of the parts' rows, with `file_row_number` (from 0 in each part)."""
    return _scan([glob.escape(str(part)) for part in parts], "file_row_number = true")


def _scan(patterns: Sequence[str], *options: str) -> str:
    files = ", ".join(_quoted(pattern) for pattern in patterns)
    # Otherwise a folder above the output that is named like x=1 would add a column.
    return f"read_parquet({', '.join([f'[{files}]', 'hive_partitioning = false', *options])})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def message_of(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without its excerpt of the query and its advice."""
    return one_line(str(error).partition("\n\n")[0])
