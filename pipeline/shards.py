"""References -> deterministic shards, the frozen plan, and the name of a shard's part.

The plan is one Parquet file with one row group per shard, so that a worker reads only its shards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output import LABELS, PLAN, OutputError, OutputFolder
from pipeline.records import Container, ImageRef, Shard
from pipeline.stores.errors import is_content_error

PLAN_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source", pa.dictionary(pa.int32(), pa.string())),
        pa.field("container", pa.dictionary(pa.int32(), pa.string())),
        pa.field("offset", pa.int64()),
        pa.field("num_bytes", pa.int64()),
    ]
)

PART_PATTERN = "part-*.parquet"  # of the names that `part_name` gives

# "auto" makes this many shards, unless a shard would then be smaller or larger than these sizes.
_AUTO_SHARDS = 64
_MIN_IMAGES, _MAX_IMAGES = 100, 2000

ImagesPerShard = int | Literal["auto"]


def is_part(name: str) -> bool:
    return fnmatchcase(name, PART_PATTERN)


def part_file(shard: int) -> str:
    """A part's path within the output."""
    return f"{LABELS}/{part_name(shard)}"


def part_path(output: OutputFolder, shard: int) -> Path:
    """A part's path on a disk. Raises OutputError for an output in a bucket."""
    return output.labels / part_name(shard)


def part_name(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def shard_of(name: str) -> int | None:
    """The inverse of `part_name`; None for any other name."""
    number = name.removeprefix("part-").removesuffix(".parquet")
    return int(number) if number.isdecimal() and part_name(int(number)) == name else None


def cut(refs: Iterable[ImageRef], images_per_shard: ImagesPerShard) -> Iterator[list[ImageRef]]:
    """Cut references into shards of at most `images_per_shard`, in order.

    An archive never shares a shard with other files.

    images_per_shard: a number, or "auto": 100 to 2000, so that a small collection still has enough
        shards for many workers. "auto" depends on the collection alone, and holds its first
        128,000 references in memory; a number, one shard.
    Raises ValueError for a number below 1.
    """
    if isinstance(images_per_shard, int):
        size = images_per_shard
    else:
        refs = iter(refs)
        first = list(islice(refs, _AUTO_SHARDS * _MAX_IMAGES))
        size = min(max(_MIN_IMAGES, -(-len(first) // _AUTO_SHARDS)), _MAX_IMAGES)
        refs = chain(first, refs)
    if size < 1:
        raise ValueError(f"images_per_shard {size} is not positive: use at least 1")
    run: list[ImageRef] = []
    for ref in refs:
        if run and (len(run) == size or _archive(ref) != _archive(run[-1])):
            yield run
            run = []
        run.append(ref)
    if run:
        yield run


def _archive(ref: ImageRef) -> str | None:
    return ref.source if ref.container else None


def write_plan(
    output: OutputFolder, refs: Iterable[ImageRef], images_per_shard: ImagesPerShard
) -> None:
    """Write the plan of a collection, with no more of it in memory than `cut` holds."""
    with (
        output.staged(PLAN) as temporary,
        open(temporary, "wb") as file,  # opened here: pyarrow does not say why it cannot write
        pq.ParquetWriter(
            file,
            PLAN_SCHEMA,
            compression="zstd",
            write_statistics=False,
            write_page_checksum=True,
        ) as plan,
    ):
        for run in cut(refs, images_per_shard):
            columns = {
                "uri": [ref.uri for ref in run],
                "source": [ref.source for ref in run],
                "container": [ref.container for ref in run],
                "offset": [ref.offset for ref in run],
                "num_bytes": [ref.num_bytes for ref in run],
            }
            table = pa.table(columns, schema=PLAN_SCHEMA)
            plan.write_table(table, row_group_size=len(run))


class Plan:
    """An open plan, for any number of threads.

    Raises OutputError when the file is missing or damaged; OSError or AccessError when it cannot
    be read now.
    """

    def __init__(self, output: OutputFolder) -> None:
        self._lock = threading.Lock()  # a ParquetFile is not thread-safe
        self._path = f"{output.location}/{PLAN}"
        try:
            # A flipped bit of a URI would name another image, whose row an audit then misses.
            self._file = pq.ParquetFile(output.open(PLAN), page_checksum_verification=True)
            schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._explained(error) from error
        if schema != PLAN_SCHEMA:
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise self._damaged(f"it has the columns {columns}")
        # The footer has no checksum: with fewer rows in a shard, its other images would be missed.
        if sum(self.shard_sizes) != self.num_images:
            raise self._damaged(f"its shards do not add up to {self.num_images} images")

    def _explained(self, error: Exception) -> Exception:
        """An OutputError if the plan is damaged; the error itself if the storage fails.

        The message of the first tells users to remove the output, so it must not be the second.
        """
        missing = isinstance(error, FileNotFoundError)
        return self._damaged(str(error)) if missing or is_content_error(error) else error

    def _damaged(self, reason: str) -> OutputError:
        return OutputError(
            f"the plan {self._path!r} cannot be read ({reason}): remove the output folder"
            " or choose another one"
        )

    @property
    def num_images(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def num_shards(self) -> int:
        return int(self._file.metadata.num_row_groups)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Images in each shard, in order."""
        metadata = self._file.metadata
        return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    def shard(self, index: int) -> Shard:
        try:
            with self._lock:
                table = self._file.read_row_group(index)
            columns = (table.column(name).to_pylist() for name in PLAN_SCHEMA.names)
            refs = tuple(
                ImageRef(uri, source, kind and Container(kind), offset, num_bytes)
                for uri, source, kind, offset, num_bytes in zip(*columns, strict=True)
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._explained(error) from error
        return Shard(index, refs)
