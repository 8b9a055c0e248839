"""Runs of `afd compress`, and what they wrote."""

from pathlib import Path

import pyarrow.parquet as pq

from jobs.compress import MANIFEST, main


def run(collection: Path | str, output: Path, *flags: str) -> int:
    return main([str(collection), "--output", str(output), *flags])


def manifest(output: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(output / MANIFEST).to_pylist()
    return rows


def files(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.glob("*/**/*"))
        if path.is_file()
    }
