"""Outputs of `afd label` without the labelling: the real schema, plan and facts, made-up values.

The benchmark of the report writes its millions of rows with this too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output import RUN, OutputFolder
from pipeline.records import SCHEMA, STATUSES, ImageRef
from pipeline.shards import part_path, write_plan
from pipeline.sink import read_facts, write_part

CLASSES = 1000
_ERRORS = {
    "damaged": "truncated: no end-of-image marker after {} bytes of scan data",
    "rejected": "JPEG ends inside segment 0xFFDB at byte {}: 64 of 67 bytes are there",
    "unreadable": "No such file or directory",
}
_SUBSAMPLINGS = ("4:2:0", "4:4:4", "4:2:2", "gray")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a made output is like.

    quality_shift: added to every JPEG quality; lower means more drift and less confidence.
    has_drift: as labelled with a trained AFD-Module. bad_share: of the images, not `ok`.
    """

    images: int
    images_per_shard: int = 2000
    seed: int = 0
    quality_shift: int = 0
    has_drift: bool = True
    bad_share: float = 0.01


def write_output(folder: Path, made: Made, *, plan: bool = True) -> OutputFolder:
    """A complete output of `made.images` rows."""
    output = OutputFolder(str(folder))
    output.create()
    output.write_json(RUN, {"settings": _facts(0, {})["settings"]})
    if plan:
        uris = (ImageRef(uri(number)) for number in range(made.images))
        write_plan(output, uris, made.images_per_shard)
    for shard in range(-(-made.images // made.images_per_shard)):
        table = part_table(shard, made)
        write_part(output, shard, table, _facts(shard, _counts(table)))
    return output


def rewrite(
    output: OutputFolder, shard: int, change: Callable[[dict[str, Any]], None], **facts: Any
) -> None:
    """Change the rows of a part, one by one, and some of its facts."""
    path = part_path(output, shard)
    rows = pq.ParquetFile(path).read().to_pylist()
    for row in rows:
        change(row)
    facts = {**read_facts(output, shard), **facts}
    write_part(output, shard, pa.Table.from_pylist(rows, SCHEMA), facts)


def uri(number: int) -> str:
    return f"/data/corpus/{number // 10_000:04d}/image-{number:08d}.jpg"


def part_table(shard: int, made: Made) -> pa.Table:
    """The rows of one shard; the same for the same arguments."""
    rng = np.random.default_rng((made.seed, shard))
    first = shard * made.images_per_shard
    rows = min(made.images_per_shard, made.images - first)
    quality, no_table = _qualities(rng, rows, made.quality_shift)
    status = np.where(rng.random(rows) < made.bad_share, rng.integers(1, 4, rows), 0)
    labelled = status < 2
    angle = 1.5 + 22 * np.exp(-quality / 22) * rng.gamma(8, 1 / 8, rows)
    confidence = rng.beta(1.2 + quality / 40, 1.3, rows)
    flip = 1 / (1 + np.exp(-(angle / 3 - 3.5 - 2 * confidence)))
    label = (rng.zipf(1.3, rows) % CLASSES).astype(np.int32)
    drifts = labelled & made.has_drift
    scan_bytes = rng.integers(100, 90_000, rows)
    sampling = rng.choice(4, rows, p=[0.8, 0.12, 0.03, 0.05])
    header = status < 3

    def known(values: Any, where: np.ndarray, name: str) -> pa.Array:
        return pa.array(values, mask=~where).cast(SCHEMA.field(name).type)

    status_names = pa.DictionaryArray.from_arrays(status.astype(np.int32), list(STATUSES))
    names = pa.DictionaryArray.from_arrays(
        pa.array(label, mask=~labelled), [f"class {k}" for k in range(CLASSES)]
    )
    errors = [
        _ERRORS[STATUSES[code]].format(size) if code else None
        for code, size in zip(status.tolist(), scan_bytes.tolist(), strict=True)
    ]
    top = np.stack([label, (label + 1) % CLASSES], 1).ravel()
    top_confidence = np.stack([confidence, (1 - confidence) / 2], 1).ravel().astype(np.float32)
    columns = {
        "uri": pa.array([uri(number) for number in range(first, first + rows)]),
        "shard": pa.array(np.full(rows, shard, np.int32)),
        "status": status_names,
        "error": pa.array(errors, pa.string()),
        "num_bytes": known(scan_bytes + 600, header, "num_bytes"),
        "width": known(rng.integers(100, 2000, rows), header, "width"),
        "height": known(rng.integers(100, 2000, rows), header, "height"),
        "jpeg_quality": known(quality.astype(np.int8), header & ~no_table, "jpeg_quality"),
        "jpeg_quality_error": known(np.zeros(rows), header & ~no_table, "jpeg_quality_error"),
        "jpeg_subsampling": pa.array(np.array(_SUBSAMPLINGS)[sampling], mask=~header),
        "jpeg_progressive": known(rng.random(rows) < 0.3, header, "jpeg_progressive"),
        "jpeg_components": known(np.where(sampling == 3, 1, 3), header, "jpeg_components"),
        "label": known(label, labelled, "label"),
        "label_name": names,
        "confidence": known(confidence, labelled, "confidence"),
        "top_labels": _pairs(top, labelled, "top_labels"),
        "top_confidences": _pairs(top_confidence, labelled, "top_confidences"),
        "drift_angle_deg": known(angle, drifts, "drift_angle_deg"),
        "drift_energy": known(angle / 40, drifts, "drift_energy"),
        "flip_probability": known(flip, drifts, "flip_probability"),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _qualities(rng: np.random.Generator, rows: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) int64 qualities as the web has them, and where there is no IJG-like table."""
    usual = rng.choice([75, 80, 85, 90, 95], rows)
    quality = np.where(rng.random(rows) < 0.5, usual, rng.integers(5, 101, rows))
    return np.clip(quality + shift, 1, 100), rng.random(rows) < 0.03


def _pairs(values: np.ndarray, where: np.ndarray, name: str) -> pa.Array:
    offsets = pa.array(np.arange(len(where) + 1, dtype=np.int32) * 2)
    pairs = pa.ListArray.from_arrays(offsets, pa.array(values), type=SCHEMA.field(name).type)
    return pairs.take(pa.array(np.arange(len(where)), mask=~where))


def _counts(table: pa.Table) -> dict[str, int]:
    statuses = table.column("status").to_pylist()
    return {status: statuses.count(status) for status in STATUSES}


def _facts(shard: int, counts: dict[str, int]) -> dict[str, Any]:
    """Facts as a worker writes them; two workers, a shard in about ten seconds."""
    return {
        "run_id": "made",
        "settings": {"input": "/data/corpus", "backbone": "resnet50", "integrity": "fast"},
        "backbone": "resnet50",
        "weights": "IMAGENET1K_V2",
        "afd": "made.safetensors",
        "device": "cpu",
        "precision": "float32",
        "versions": {"afd-label": "0.1.0", "torch": "2.15.0"},
        "counts": counts,
        "began_at": 1_790_000_000.0 + 10.5 * (shard // 2),
        "seconds": {
            "read": 0.4,
            "decode": 1.1,
            "dct": 0.5,
            "model": 8.0 + shard % 7 / 10,
            "rows": 0.01,
            "read_busy": 1.5,
            "screen_busy": 0.2,
        },
    }
