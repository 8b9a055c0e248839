"""What a report of millions of rows costs: time, memory and the size of the page.

    python benchmarks/report_scale.py FOLDER [--rows 10000000] [--rounds 3]

The rows are made up, in the real schema and in parts of the usual size; they are written to FOLDER
once and kept. Each round is `afd report` in a process of its own. The last line is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from outputs import Made, write_output


def measure(output: Path) -> dict[str, float]:
    """One report: {"wall_s", "cpu_s", "page_mb"}."""
    page = output / "report.html"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs.cli", "report", str(output)], check=True)
    wall_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s, "page_mb": page.stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    output = options.folder / f"rows-{options.rows}"
    if not (output / "run.json").exists():
        write_output(output, Made(images=options.rows))
    rounds = [measure(output) for _ in range(options.rounds)]
    found = {name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]}
    peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest child
    machine = {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"rows": options.rows, **found, "peak_rss_mb": peak_kb // 1024, **machine}))


if __name__ == "__main__":
    main()
