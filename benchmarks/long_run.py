"""A long run of `afd label`: does anything grow, does it slow down?

    python benchmarks/long_run.py IMAGES FOLDER [--images 200000] [--source folder|tar|parquet]
        [-- FLAGS OF afd label]

IMAGES, a folder, is repeated by hard links in FOLDER until there are so many; or it is packed into
one tar or Parquet file, and that is. Every two seconds the memory, threads and open files of each
process and what lies in /dev/shm are noted. The last line is one JSON document: the images/s of
each tenth of the images and, for each process that lived through most of the run, what it held, and
how fast its memory grew after the warm-up, with a 95 % interval. `mixed_corpus.py` makes IMAGES
with huge and damaged ones among them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from process_watch import growth, watch


def repeat(images: Path, folder: Path, count: int) -> None:
    """`count` hard links to the files of `images`."""
    files = sorted(path for path in images.rglob("*") if path.is_file())
    for number, path in enumerate(itertools.islice(itertools.cycle(files), count)):
        link = folder / f"{number // len(files):05d}" / f"{number % len(files):06d}{path.suffix}"
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)


def packed(images: Path, folder: Path, kind: str) -> Path:
    """A folder that holds `images` as one file, which is made unless it is there."""
    path = folder / kind / f"images.{kind}"
    if path.exists():
        return path.parent
    path.parent.mkdir(parents=True)
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(images, arcname="")
        return path.parent
    files = sorted(file for file in images.rglob("*") if file.is_file())
    table = pa.table({"image": [file.read_bytes() for file in files]})
    pq.write_table(table, path, row_group_size=20, compression="none")
    return path.parent


def tenths(output: Path) -> list[float]:
    """images/s of each tenth of the images, by the times at which parts were committed."""
    parts = sorted((p.stat().st_mtime, p) for p in (output / "labels").glob("*.parquet"))
    rows = np.cumsum([pq.read_metadata(path).num_rows for _, path in parts])
    at = np.array([when for when, _ in parts])
    marks = np.interp(np.linspace(rows[0], rows[-1], 11), rows, at)
    return [round(float(n), 1) for n in (rows[-1] - rows[0]) / 10 / np.diff(marks)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", dest="count", type=int, default=200_000)
    parser.add_argument("--source", choices=("folder", "tar", "parquet"), default="folder")
    arguments, flags = parser.parse_known_args()
    corpus, output = arguments.folder / f"{arguments.source}s", arguments.folder / "labels-out"
    images, count = arguments.images, arguments.count
    if arguments.source != "folder":
        count = -(-count // sum(path.is_file() for path in images.rglob("*")))
        images = packed(images, arguments.folder / "packed", arguments.source)
    repeat(images, corpus, count)
    command = [sys.executable, "-m", "jobs.cli", "label", str(corpus), "--output", str(output)]
    flags = [flag for flag in flags if flag != "--"]
    began = time.monotonic()
    driver = psutil.Popen([*command, *flags])
    histories, shared = watch(driver)
    speeds = tenths(output)
    document = {
        "images": arguments.count,
        "source": arguments.source,
        "exit_code": driver.returncode,
        "wall_s": round(time.monotonic() - began),
        "flags": flags,
        "images_per_s_of_tenths": speeds,
        "last_over_second_tenth": round(speeds[-1] / speeds[1], 3),
        **growth(histories, shared),
    }
    print(json.dumps(document))
    return int(driver.returncode)


if __name__ == "__main__":
    sys.exit(main())
