"""Images a second of reading and screening, for each of several locations of the same images.

    python benchmarks/read_sources.py photos/ photos.tar photos.parquet s3://bucket/photos/ \
        [--rounds 5] [--images 2000] [--write-archives FOLDER]

The locations take turns within each round, so that other work on the machine disturbs all of them;
medians over the rounds, and each location's against the first one's. Files on disk come from the
page cache after the first round. The last line is one JSON document.

--write-archives makes the first location's images into a tar, a tar.gz and a Parquet file first.
"""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import statistics
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.image_bytes import read_image
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import ImageRef, Status
from pipeline.screening.screen import Limits
from pipeline.shards import cut
from pipeline.sources import list_images

_IMAGES_PER_SHARD = 2000
_MAX_IMAGES_AHEAD = 1024  # as a GPU worker with batches of 256 has


def write_archives(refs: list[ImageRef], folder: Path) -> list[str]:
    """The images in one file of each kind; returns their paths."""
    paths = [folder / f"images{suffix}" for suffix in (".tar", ".tar.gz", ".parquet")]
    with tarfile.open(paths[0], "w") as tar:
        for number, ref in enumerate(refs):
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            data = read_image(ref)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    paths[1].write_bytes(gzip.compress(paths[0].read_bytes(), compresslevel=1))
    images = pa.table({"image": [read_image(ref) for ref in refs]})
    pq.write_table(images, paths[2], row_group_size=100, compression="none", use_dictionary=False)
    return list(map(str, paths))


def read_all(refs: list[ImageRef], threads: int) -> tuple[float, float]:
    """(wall seconds, processor seconds) of reading the images shard by shard."""
    began, began_cpu = time.perf_counter(), time.process_time()
    for shard in cut(refs, _IMAGES_PER_SHARD):
        ahead = ReadAhead(shard, Limits(), num_threads=threads, max_images=_MAX_IMAGES_AHEAD)
        for image in ahead:
            if image.status == Status.UNREADABLE:
                raise RuntimeError(f"{shard[image.row].uri}: {image.error}")
    return time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("locations", nargs="+", help="of the same images; the first is compared to")
    parser.add_argument("--images", type=int, default=2000, help="read of each location")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read-threads", type=int, default=4)
    parser.add_argument("--write-archives", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    locations = arguments.locations
    if arguments.write_archives:
        arguments.write_archives.mkdir(parents=True, exist_ok=True)
        first = list(itertools.islice(list_images(locations[0]), arguments.images))
        locations = [*locations, *write_archives(first, arguments.write_archives)]
    planned = {
        location: list(itertools.islice(list_images(location), arguments.images))
        for location in locations
    }
    costs: dict[str, list[tuple[float, float]]] = {location: [] for location in locations}
    for _ in range(arguments.rounds):
        for location, refs in planned.items():
            costs[location].append(read_all(refs, arguments.read_threads))
    report(planned, costs)


def report(planned: dict[str, list[ImageRef]], costs: dict[str, list[tuple[float, float]]]) -> None:
    results = []
    first = next(iter(costs))
    for location, spent in costs.items():
        count = len(planned[location])
        rate = count / statistics.median(wall_s for wall_s, _ in spent)
        paired = [
            base_s / len(planned[first]) * count / wall_s
            for (base_s, _), (wall_s, _) in zip(costs[first], spent, strict=True)
        ]
        cpu_us = statistics.median(cpu_s for _, cpu_s in spent) / count * 1e6
        ratio = statistics.median(paired)
        print(f"{rate:8.0f} images/s  {ratio:5.2f} of the first  {cpu_us:6.0f} µs CPU  {location}")
        results.append(
            {
                "location": location,
                "images": count,
                "images_per_s": round(rate, 1),
                "of_first": round(ratio, 3),
                "cpu_us_per_image": round(cpu_us, 1),
            }
        )
    print(json.dumps({"read_sources": results, "rounds": len(costs[first])}))


if __name__ == "__main__":
    main()
