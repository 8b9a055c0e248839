"""Start-up, and whether an image costs as much in a large collection as in a small one.

    python benchmarks/cost_growth.py IMAGES FOLDER [--sizes 200 20000] [--rounds 2] [-- FLAGS]

IMAGES, a folder, is repeated by hard links in FOLDER. Each run is `afd label` in a process of its
own, the sizes in turn. The last line is one JSON document: images/s without the start-up, by size
and round, and the seconds from the command to the first part, whose shard is one batch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from long_run import repeat

_BATCH = 32


def label(corpus: Path, output: Path, flags: list[str]) -> tuple[float, float]:
    """(images/s, seconds to the first part)."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "jobs.cli", "label", str(corpus), "--output", str(output)]
    began = time.time()
    subprocess.run([*command, *flags], check=True, stderr=subprocess.DEVNULL)
    first = min(part.stat().st_mtime for part in (output / "labels").glob("*.parquet"))
    speed = json.loads((output / "summary.json").read_text())["images_per_s"]
    return float(speed), first - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs=2, default=[200, 20_000])
    parser.add_argument("--rounds", type=int, default=2)
    arguments, flags = parser.parse_known_args()
    flags = [flag for flag in flags if flag != "--"]
    output, small = arguments.folder / "labels-out", str(arguments.sizes[0])
    speeds: dict[str, list[float]] = {str(size): [] for size in arguments.sizes}
    first: list[float] = []
    for size in arguments.sizes:
        repeat(arguments.images, arguments.folder / str(size), size)
    for _ in range(arguments.rounds):
        for size, found in speeds.items():
            found.append(label(arguments.folder / size, output, flags)[0])
        one_batch = [*flags, "--images-per-shard", str(_BATCH), "--batch-size", str(_BATCH)]
        first.append(label(arguments.folder / small, output, one_batch)[1])
    ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
    document = {
        "flags": flags,
        "images_per_s": speeds,
        "large_over_small": [round(ratio, 3) for ratio in ratios],
        "large_over_small_median": round(statistics.median(ratios), 3),
        "first_batch_s": [round(s, 1) for s in first],
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
