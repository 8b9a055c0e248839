"""What the settings of the Parquet writer cost: size, writing, and the time of five questions.

    python benchmarks/parquet_settings.py FOLDER [--rows 2000000] [--rows-per-part 2000]

The rows are made up, in the real schema and order, and written to FOLDER once for each candidate,
which is deleted after it was measured. A question is asked of DuckDB in one thread and costs
processor time, the least of --rounds, with the files in the page cache. The table is printed in
Markdown; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from outputs import Made, part_table, uri

from pipeline.records import SCHEMA
from pipeline.sink import PARQUET_OPTIONS

FOLDER_IMAGES = 10_000  # in a folder of the made-up corpus
TOP_K = 5
FLOATS = ["confidence", "drift_angle_deg", "drift_energy", "flip_probability"]
_ZSTD = {"compression": "zstd", "write_page_checksum": True}
_SPLIT = dict.fromkeys([*FLOATS, "top_confidences.list.element"], "BYTE_STREAM_SPLIT")
# The third is what `afd label` writes; the others are that with one thing more.
CANDIDATES: dict[str, dict[str, Any]] = {
    "pyarrow's defaults (snappy)": {},
    "zstd, checksums": _ZSTD,
    "…, dictionaries where values repeat": PARQUET_OPTIONS,
    "…, and a page index": {**PARQUET_OPTIONS, "write_page_index": True},
    "…, and delta-coded URIs": {**PARQUET_OPTIONS, "column_encoding": {"uri": "DELTA_BYTE_ARRAY"}},
    "…, and byte-stream-split floats": {**PARQUET_OPTIONS, "column_encoding": _SPLIT},
    "…, and zstd level 3": {**PARQUET_OPTIONS, "compression_level": 3},
    "…, and zstd level 9": {**PARQUET_OPTIONS, "compression_level": 9},
    "…, and row groups of 2,000": {**PARQUET_OPTIONS, "row_group_size": 2_000},
    "…, and row groups of 10,000": {**PARQUET_OPTIONS, "row_group_size": 10_000},
}
QUESTIONS = {
    "re-label": "SELECT uri, confidence FROM labels WHERE label IS NOT NULL AND"
    " (status = 'damaged' OR confidence < 0.1 OR flip_probability >= 0.9)",
    "classes": "SELECT label_name, count(*) FROM labels WHERE status = 'ok'"
    " AND confidence >= 0.5 AND flip_probability < 0.5 GROUP BY ALL",
    "folders": "SELECT regexp_extract(uri, '^(.*)[/#]', 1) AS folder, median(drift_angle_deg)"
    " FROM labels GROUP BY ALL",
    "damaged": "SELECT uri, error FROM labels WHERE status = 'damaged'",
    "one image": "SELECT * FROM labels WHERE uri = '{uri}'",
}


def made_parts(rows: int, rows_per_part: int) -> list[pa.Table]:
    """The parts of a corpus whose folders hold counted and hashed names in turn, in their order."""
    made = Made(images=rows, images_per_shard=rows_per_part)
    uris = _uris(rows)
    parts = []
    for shard in range(-(-rows // rows_per_part)):
        table = part_table(shard, made)
        columns = {name: table.column(name) for name in SCHEMA.names}
        columns["uri"] = pa.array(uris[shard * rows_per_part :][: table.num_rows])
        columns |= _top(np.random.default_rng(shard), table)
        parts.append(pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA))
    return parts


def _uris(rows: int) -> list[str]:
    found: list[str] = []
    for first in range(0, rows, FOLDER_IMAGES):
        counted = [uri(number) for number in range(first, min(rows, first + FOLDER_IMAGES))]
        if first // FOLDER_IMAGES % 2:
            counted = sorted(
                f"{name.rpartition('/')[0]}/{hashlib.md5(name.encode()).hexdigest()}.jpg"
                for name in counted
            )
        found += counted
    return found


def _top(rng: np.random.Generator, table: pa.Table) -> dict[str, pa.Array]:
    """Five classes an image, with falling confidences; null where it was not labelled."""
    confidence = table.column("confidence").to_numpy()
    labelled = ~np.isnan(confidence)
    rest = np.sort(rng.dirichlet(np.full(TOP_K, 0.5), len(confidence))[:, 1:], axis=1)[:, ::-1]
    values = np.column_stack([confidence, rest * (1 - confidence[:, None])]).astype(np.float32)
    labels = rng.zipf(1.3, values.shape).astype(np.int64) % 1000
    labels[:, 0] = table.column("label").fill_null(0).to_numpy()
    offsets = pa.array(np.arange(len(labelled) + 1, dtype=np.int32) * TOP_K)
    place = pa.array(np.arange(len(labelled)), mask=~labelled)
    lists = {"top_labels": labels.astype(np.int32), "top_confidences": values}
    return {
        name: pa.ListArray.from_arrays(
            offsets, pa.array(array.ravel()), type=SCHEMA.field(name).type
        ).take(place)
        for name, array in lists.items()
    }


def measure(
    parts: list[pa.Table], options: dict[str, Any], folder: Path, rounds: int
) -> dict[str, float]:
    """{"bytes_per_row", "write_us", question: ms}; microseconds a row, processor time."""
    folder.mkdir(parents=True)
    began = time.process_time()
    for shard, table in enumerate(parts):
        pq.write_table(table, folder / f"part-{shard:05d}.parquet", **options)
    write_s = time.process_time() - began
    rows = sum(table.num_rows for table in parts)
    size = sum(path.stat().st_size for path in folder.iterdir())
    wanted = parts[len(parts) // 2].column("uri")[7].as_py()
    found = {"bytes_per_row": size / rows, "write_us": write_s / rows * 1e6}
    for name, question in QUESTIONS.items():
        asked = _asking(folder, question.format(uri=wanted))
        found[name] = 1e3 * min(asked() for _ in range(rounds))
    shutil.rmtree(folder)
    return found


def _asking(folder: Path, question: str) -> Callable[[], float]:
    def ask() -> float:
        began = time.process_time()
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.sql(f"CREATE VIEW labels AS FROM '{folder}/*.parquet'")
            rows = connection.sql(question).fetchall()
        assert rows
        return time.process_time() - began

    ask()  # the files into the page cache
    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rows-per-part", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    parts = made_parts(options.rows, options.rows_per_part)
    columns = ["bytes_per_row", "write_us", *QUESTIONS]
    print("| | B a row | write, µs a row | " + " | ".join(f"{q}, ms" for q in QUESTIONS) + " |")
    print("|---|" + "--:|" * len(columns))
    results = {}
    for name, candidate in CANDIDATES.items():
        if candidate.get("row_group_size", 0) >= options.rows_per_part:
            continue  # a part is one row group anyhow
        found = measure(parts, candidate, options.folder / "candidate", options.rounds)
        results[name] = {column: round(found[column], 2) for column in columns}
        cells = [f"{found[column]:.{1 if k < 2 else 0}f}" for k, column in enumerate(columns)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "duckdb": duckdb.__version__}
    shape = {"rows": options.rows, "rows_per_part": options.rows_per_part}
    print(json.dumps({**shape, **machine, "pyarrow": pa.__version__, "candidates": results}))


if __name__ == "__main__":
    main()
