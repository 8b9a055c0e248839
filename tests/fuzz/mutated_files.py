"""`python -m fuzz.mutated_files [--files 100000] [--seed 0]` (with tests/ on PYTHONPATH).

Labels that many mutated files, of every kind of `damage.KINDS`, among sound ones, and the sound
ones alone; says what became of each kind, and ends with 1 when a row is missing, a worker has died
or a sound file has another label because of its neighbours.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from damage import KINDS, damaged
from faults.label_job import Ended, run
from jpegs import encode, photo

_MOST_BYTES_OF_A_KIND = 200_000_000  # 4 MB files by the thousand would test the disk
_IMAGES_PER_SHARD = 1000
_FILES_IN_A_FOLDER = 1000
_EXACT = ("uri", "status", "width", "height", "jpeg_quality", "label")
_NEAR = 1e-4  # of the confidence: sums in batches of other sizes


def write_mutated(folder: Path, count: int, seed: int) -> None:
    """`count` files named after their kind, the kinds taking turns while their bytes last."""
    written: Counter[str] = Counter()
    for number, kind in enumerate(itertools.islice(_turns(written), count)):
        data = damaged(kind, seed + number)
        written[kind] += len(data)
        path = folder / f"{number // _FILES_IN_A_FOLDER:04d}" / f"{number:06d} {_safe(kind)}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _turns(written: Counter[str]) -> Iterator[str]:
    while True:
        yield from (kind for kind in KINDS if written[kind] < _MOST_BYTES_OF_A_KIND)


def _safe(kind: str) -> str:
    return kind.replace("/", " in ")


def write_sound(folder: Path, count: int) -> None:
    """In the same folders, so that the two kinds share batches."""
    for number in range(count):
        jpeg = encode(photo(90 + number % 7, 110, seed=number % 40), quality=30 + number % 60)
        path = folder / f"{number * 5 // _FILES_IN_A_FOLDER:04d}" / f"{number * 5:06d} .sound.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)


def labels(output: Path, corpus: Path) -> pl.DataFrame:
    """The rows, with names instead of places, and what kind of file each is."""
    rows = pl.read_parquet(output / "labels" / "*.parquet")
    name = pl.col("uri").str.strip_prefix(f"{corpus}/")
    kind = name.str.extract(r"^\d+/\d+ (.*)\.jpg$")
    return rows.with_columns(name.alias("uri"), kind.alias("kind")).sort("uri")


def table(fast: pl.DataFrame, full: pl.DataFrame) -> str:
    """Markdown: of each kind the files, and their shares in each status, by both integrities."""
    lines = [
        "| kind | files | ok | damaged | rejected or unreadable | damaged with `full` |",
        "|---|---|---|---|---|---|",
    ]
    for (kind,), rows in fast.sort("kind").group_by("kind", maintain_order=True):
        status = Counter(rows["status"])
        bad = len(rows) - status["ok"] - status["damaged"]
        thorough = Counter(full.filter(pl.col("kind") == kind)["status"])["damaged"]
        shares = [n / len(rows) for n in (status["ok"], status["damaged"], bad, thorough)]
        lines.append(f"| {kind} | {len(rows)} | " + " | ".join(f"{s:.1%}" for s in shares) + " |")
    return "\n".join(lines)


def changed(sound: pl.DataFrame, among: pl.DataFrame) -> int:
    """How many of the sound files have another row among bad neighbours than alone."""
    both = sound.join(among, on="uri", how="left", suffix="_among", validate="1:1")
    same = pl.all_horizontal(
        *(pl.col(name).eq_missing(pl.col(f"{name}_among")) for name in _EXACT[1:]),
        (pl.col("confidence") - pl.col("confidence_among")).abs() < _NEAR,
    ).fill_null(value=False)
    return len(both) - both.select(same.sum()).item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    num_sound = arguments.files // 5
    with tempfile.TemporaryDirectory(prefix="mutated-") as name:
        folder = Path(name)
        alone, mixed = folder / "alone", folder / "mixed"
        write_sound(alone, num_sound)
        write_sound(mixed, num_sound)
        write_mutated(mixed, arguments.files, arguments.seed)
        ended = {
            "alone": _run(alone, folder / "of-alone"),
            "fast": _run(mixed, folder / "of-mixed"),
            "full": _run(mixed, folder / "of-mixed-full", "--integrity", "full"),
        }
        sound = labels(folder / "of-alone", alone)
        fast = labels(folder / "of-mixed", mixed)
        full = labels(folder / "of-mixed-full", mixed)
    print(table(fast, full))
    planned = num_sound + arguments.files
    missing = {"fast": planned - fast["uri"].n_unique(), "full": planned - full["uri"].n_unique()}
    others = {"fast": changed(sound, fast), "full": changed(sound, full)}
    for run_name, end in ended.items():
        print(
            f"{run_name}: exit code {end.code} in {end.wall_s:.0f} s; it said: {end.said.strip()}"
        )
    each = (ended["fast"].wall_s - ended["alone"].wall_s) / arguments.files
    print(f"rows missing: {missing}; sound files with another row: {others}")
    print(f"{1e3 * each:.2f} ms of the job a mutated file")
    died = any("died" in end.said or end.code for end in ended.values())
    return 1 if died or any(missing.values()) or any(others.values()) else 0


def _run(corpus: Path, output: Path, *flags: str) -> Ended:
    return run(corpus, output, *flags, images_per_shard=_IMAGES_PER_SHARD)


if __name__ == "__main__":
    sys.exit(main())
