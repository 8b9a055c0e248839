"""What planning and resuming cost the driver at the scale of a large corpus.

    python benchmarks/planning_scale.py FOLDER [PART ...] [--images 10000000] [--shards 100000]

PART: listing (a synthetic one is planned), manifest (a Parquet file of URIs is read and planned),
resume (a run of which one shard is left finds that out, and is audited), schedule (Ray hands out
many shards that cost nothing). Each runs in a process of its own; FOLDER is written to. The last
line is one JSON document; peak_rss_mb is the driver's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.labelling.messages import CommitRecord
from jobs.labelling.summary import Tally, committed_shards, summarise, write_summary
from jobs.run_record import open_run, start_run
from jobs.settings import LabelSettings
from pipeline.output import LABELS, OutputFolder
from pipeline.records import ImageRef
from pipeline.shards import Plan, part_name, write_plan
from pipeline.sink import write_part
from pipeline.sources import list_images

_IMAGES_PER_SHARD = 2000
_ROWS_A_WRITE = 1 << 20


def uri(number: int) -> str:
    return f"s3://crawl-2026/photos/{number // 10_000:06d}/{number * 2_654_435_761 % 2**32:08x}.jpg"


def listing(folder: Path, images: int, shards: int) -> None:
    refs = (ImageRef(uri(number), num_bytes=number % 100_000) for number in range(images))
    write_plan(_output(folder), refs, _IMAGES_PER_SHARD)
    assert Plan(_output(folder)).num_images == images


def manifest(folder: Path, images: int, shards: int) -> None:
    refs = list_images(str(folder / "manifest.parquet"))
    write_plan(_output(folder), refs, _IMAGES_PER_SHARD)
    assert Plan(_output(folder)).num_images == images


def resume(folder: Path, images: int, shards: int) -> None:
    output = OutputFolder(str(folder / "resumed"))
    record = open_run(output, _settings(folder))
    assert record is not None
    done = committed_shards(output, Plan(output).num_shards)
    assert len(done) == shards - 1
    print(f"known what is left after {time.perf_counter() - _STARTED:.1f} s", file=sys.stderr)
    summary = summarise(
        output, record["run_id"], Tally(), began=time.monotonic(), exit_reason="complete"
    )
    write_summary(output, summary)
    assert list(summary.failed) == [part_name(shards - 1)]


class _Worker:
    def __init__(self, config: None) -> None: ...

    def ready(self) -> str:
        return "made up"

    def label_or_exit(self, shard: int) -> CommitRecord:
        return CommitRecord(shard, time.time())


def schedule(folder: Path, images: int, shards: int) -> None:
    from jobs.cluster import cluster
    from jobs.labelling.actors import run_shards
    from jobs.pool import Pool

    with cluster("local", num_cpus=2):
        pool = Pool(2, 2, num_cpus=1, num_gpus=0)
        records = run_shards(range(shards), _Worker, None, pool, shards_at_once=2)
        assert sum(1 for _ in records) == shards


PARTS: dict[str, Callable[[Path, int, int], None]] = {
    part.__name__: part for part in (listing, manifest, resume, schedule)
}


def prepare(part: str, folder: Path, images: int, shards: int) -> None:
    """What a part finds there; not measured."""
    if part == "manifest":
        with pq.ParquetWriter(folder / "manifest.parquet", pa.schema({"uri": pa.string()})) as file:
            for first in range(0, images, _ROWS_A_WRITE):
                numbers = range(first, min(first + _ROWS_A_WRITE, images))
                file.write_table(pa.table({"uri": [uri(number) for number in numbers]}))
    if part == "resume":
        output = OutputFolder(str(folder / "resumed"))
        shutil.rmtree(output.path, ignore_errors=True)
        output.create()
        write_plan(output, (ImageRef(uri(number)) for number in range(shards)), 1)
        run_id = start_run(output, _settings(folder))["run_id"]
        facts = {"run_id": run_id, "counts": {"ok": 1}}
        write_part(output, 0, pa.table({"uri": [uri(0)]}), facts)
        first = output.labels / part_name(0)
        for shard in range(1, shards - 1):
            shutil.copyfile(first, output.path / LABELS / part_name(shard))


def _settings(folder: Path) -> LabelSettings:
    return LabelSettings(input="s3://crawl-2026/photos/", output=str(folder / "resumed"))


def _output(folder: Path) -> OutputFolder:
    output = OutputFolder(str(folder / "planned"))
    output.create()
    return output


def _peak_rss_kb() -> int:
    """Of this process alone: what getrusage says begins with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


_STARTED = time.perf_counter()


def measured(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    for part in options.parts or PARTS:
        prepare(part, options.folder, options.images, options.shards)
        command = [sys.executable, __file__, str(options.folder), "--only", part]
        command += ["--images", str(options.images), "--shards", str(options.shards)]
        began = time.perf_counter()
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        wall_s = round(time.perf_counter() - began, 1)
        yield {"part": part, "wall_s": wall_s, "peak_rss_mb": int(ended.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--only", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.only:
        PARTS[options.only](options.folder, options.images, options.shards)
        print(_peak_rss_kb() // 1024)
        return
    found = []
    for result in measured(options):
        found.append(result)
        print(result, file=sys.stderr, flush=True)
    sizes = {"images": options.images, "shards": options.shards, "cpus": os.cpu_count()}
    print(json.dumps({**sizes, "parts": found}))


if __name__ == "__main__":
    main()
