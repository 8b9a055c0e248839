"""A full check of an output: reads every committed part and compares it with the plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.error_text import one_line
from pipeline.output import OutputError, OutputFolder
from pipeline.records import SCHEMA, Shard
from pipeline.shards import Plan, is_part, part_file, part_name, shard_of
from pipeline.sink import read_facts
from pipeline.stores.errors import is_content_error

_THREADS = 4


def damaged_parts(output: OutputFolder) -> Iterator[tuple[int, str]]:
    """Read every part in full; yields (shard, what is wrong) for each damaged one.

    Checks the page checksums, the names of the columns, that the URIs are those of the plan, and
    that the statuses match the part's stored counts. A part that does not exist is not damaged.
    Raises OutputError when the plan is damaged; OSError or AccessError when the output cannot be
    read now.
    """
    plan = Plan(output)

    def inspect(index: int) -> str | None:
        shard = plan.shard(index)
        try:
            return _what_is_wrong(output, shard)
        except FileNotFoundError:  # not labelled yet
            return None
        except (pa.ArrowException, OSError, ValueError) as error:
            if not is_content_error(error):
                raise
            return one_line(error)

    shards = range(plan.num_shards)
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, wrong in zip(shards, pool.map(inspect, shards), strict=True):
            if wrong is not None:
                yield index, wrong


def remove_damaged(output: OutputFolder) -> Iterator[tuple[str, str]]:
    """Remove the damaged parts, so that they are labelled again; yields (name, what is wrong)."""
    for shard, reason in damaged_parts(output):
        output.remove(part_file(shard))
        yield part_name(shard), reason


def stray_parts(output: OutputFolder, names: Iterable[str]) -> list[str]:
    """Those of the names in labels/ that readers take for parts, and that are of no shard.

    As copies that a person or a program made. Without a plan that can be read, every shard counts.
    """
    try:
        num_shards = float(Plan(output).num_shards)
    except (OutputError, OSError):
        num_shards = math.inf
    shards = {name: shard_of(name) for name in names if is_part(name)}
    return sorted(name for name, k in shards.items() if k is None or k >= num_shards)


def _what_is_wrong(output: OutputFolder, shard: Shard) -> str | None:
    facts = read_facts(output, shard.index)
    with output.open(part_file(shard.index)) as file:
        table = pq.ParquetFile(file, page_checksum_verification=True).read()
    if table.schema.names != SCHEMA.names:
        return f"it has the columns {', '.join(table.schema.names)}"
    if table.column("uri").to_pylist() != [ref.uri for ref in shard.refs]:
        return f"its {table.num_rows} URIs are not the {len(shard.refs)} of the plan"
    statuses = table.column("status").to_pylist()
    stated = {status: count for status, count in facts["counts"].items() if count}
    if stated != {status: statuses.count(status) for status in dict.fromkeys(statuses)}:
        return f"its rows do not match its stated counts {stated}"
    return None
