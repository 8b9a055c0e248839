"""A long run of `afd label`: does anything grow, does it slow down?

    python benchmarks/long_run.py IMAGES FOLDER [--images 200000] [-- FLAGS OF afd label]

IMAGES, a folder, is repeated by hard links in FOLDER until there are so many. Every few seconds the
resident memory and the open files of each process and what lies in /dev/shm are noted. The last
line is one JSON document: the images/s of each tenth of the images and, for each process that lived
through most of the run, the most memory that it held in each fifth and the slope after the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

_SAMPLE_S = 5.0
_SETTLED = 0.2  # of the run is warm-up
_LIVED = 0.7  # of the run's samples make a process worth a line


@dataclass
class History:
    """Of one process: seconds since the start, resident MB, open files."""

    name: str
    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def repeat(images: Path, folder: Path, count: int) -> None:
    """`count` hard links to the files of `images`."""
    files = sorted(path for path in images.rglob("*") if path.is_file())
    for number, path in enumerate(itertools.islice(itertools.cycle(files), count)):
        link = folder / f"{number // len(files):05d}" / f"{number % len(files):06d}{path.suffix}"
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)


def watch(driver: psutil.Popen) -> tuple[list[History], list[tuple[float, float]]]:
    """Sample until the driver ends: every process, and (seconds, MB in /dev/shm)."""
    began = time.monotonic()
    found: dict[int, History] = {}
    shared: list[tuple[float, float]] = []
    while driver.poll() is None:
        at_s = time.monotonic() - began
        for process in (driver, *driver.children(recursive=True)):
            try:
                with process.oneshot():
                    seen = found.setdefault(process.pid, History(_name(process)))
                    seen.rss_mb.append(process.memory_info().rss / 1e6)
                    seen.files.append(process.num_fds())
                    seen.at_s.append(at_s)
            except psutil.Error:
                continue
        shared.append((at_s, shutil.disk_usage("/dev/shm").used / 1e6))
        time.sleep(_SAMPLE_S)
    return list(found.values()), shared


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0].partition(".__init__")[0]
    program = next((word for word in words if word.endswith((".py", "jobs.cli"))), words[0])
    return Path(program).name


def growth(histories: list[History], shared: list[tuple[float, float]]) -> dict[str, Any]:
    """Peaks; slopes after the warm-up, least squares, MB an hour; first and last open files."""
    most = max(len(h.at_s) for h in histories)
    lines = defaultdict(list)
    for h in histories:
        if len(h.at_s) < _LIVED * most:
            continue
        start = int(_SETTLED * len(h.at_s))
        lines[h.name].append(
            {
                "peak_rss_mb_of_fifths": [round(max(mb)) for mb in np.array_split(h.rss_mb, 5)],
                "mb_per_hour": _slope(h.at_s[start:], h.rss_mb[start:]),
                "open_files": [h.files[start], h.files[-1]],
            }
        )
    settled = shared[int(_SETTLED * len(shared)) :]
    at_s, mb = zip(*settled, strict=True)
    dev_shm = {"mb": [round(mb[0], 1), round(mb[-1], 1)], "mb_per_hour": _slope(at_s, mb)}
    return {"processes": dict(lines), "dev_shm": dev_shm}


def _slope(at_s: Any, values: Any) -> float:
    return round(3600 * float(np.polyfit(at_s, values, 1)[0]), 2)


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
    arguments, flags = parser.parse_known_args()
    corpus, output = arguments.folder / "corpus", arguments.folder / "labels-out"
    repeat(arguments.images, corpus, arguments.count)
    command = [sys.executable, "-m", "jobs.cli", "label", str(corpus), "--output", str(output)]
    flags = [flag for flag in flags if flag != "--"]
    began = time.monotonic()
    driver = psutil.Popen([*command, *flags])
    histories, shared = watch(driver)
    speeds = tenths(output)
    document = {
        "images": arguments.count,
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
