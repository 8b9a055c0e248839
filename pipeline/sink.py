"""One shard's rows -> one Parquet part, written atomically.

The part is its own commit marker: it appears under its name only when it is complete.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afd_model.inference.predictions import Predictions
from pipeline.error_text import named
from pipeline.output import OutputFolder
from pipeline.records import SCHEMA, STATUSES, EncodedImage, Shard
from pipeline.shards import part_file, part_name
from pipeline.stores.errors import ChangedError

FACTS_KEY = b"afd"  # in a part's Parquet metadata: JSON with the run, versions, counts, seconds
# The columns whose values repeat. For the others, a dictionary would only add an index.
_DICTIONARIES = (
    *("shard", "status", "error", "width", "height"),
    *("jpeg_quality", "jpeg_quality_error", "jpeg_subsampling", "jpeg_components"),
    *("label", "label_name", "top_labels.list.element"),
)
# Chosen by measurement, see docs/output.md and benchmarks/parquet_settings.py.
PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": list(_DICTIONARIES),
    "write_page_checksum": True,  # with which `pipeline.audit` finds flipped bits
}
# Column -> the attribute of `Predictions` that fills it.
_PREDICTED = {
    "label": "labels",
    "confidence": "confidences",
    "top_labels": "top_labels",
    "top_confidences": "top_confidences",
    "drift_angle_deg": "drift_angle_deg",
    "drift_energy": "drift_energy",
    "flip_probability": "flip_probability",
}


class ShardRows:
    """Collects the rows of a shard: one per image, from screening and from the classifier."""

    def __init__(self, shard: Shard, class_names: tuple[str, ...] | None) -> None:
        self._shard = shard
        self._class_names = class_names
        self._images: list[EncodedImage | None] = [None] * len(shard.refs)
        self._labelled: list[np.ndarray] = []
        self._predictions: list[Predictions] = []

    def add_image(self, image: EncodedImage) -> EncodedImage:
        """Add an image before it is decoded, and return it; later changes to it count too."""
        self._images[image.row] = image
        return image

    def add_predictions(self, images: list[EncodedImage], predictions: Predictions) -> None:
        self._labelled.append(np.array([image.row for image in images], np.int64))
        self._predictions.append(predictions)

    @property
    def counts(self) -> dict[str, int]:
        """Rows per status, for every status."""
        found = Counter(image.status.value for image in self._known_images())
        return {status: found[status] for status in STATUSES}

    def to_table(self) -> pa.Table:
        """The rows in the plan's order, as `SCHEMA`.

        Raises RuntimeError if an image is missing, or the label of a decodable one.
        """
        images = self._known_images()
        self._check_labelled(images)
        columns = {**self._image_columns(images), **self._label_columns()}
        return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)

    def _known_images(self) -> list[EncodedImage]:
        images = [image for image in self._images if image is not None]
        if len(images) != len(self._images):
            missing = len(self._images) - len(images)
            raise RuntimeError(f"shard {self._shard.index}: {missing} images never arrived")
        return images

    def _check_labelled(self, images: list[EncodedImage]) -> None:
        expected = {image.row for image in images if image.decodable}
        labelled = [row for rows in self._labelled for row in rows.tolist()]
        if len(labelled) != len(expected) or set(labelled) != expected:
            raise RuntimeError(
                f"shard {self._shard.index}: {len(expected)} images to label,"
                f" {len(labelled)} predictions for {len(set(labelled))} images"
            )

    def _image_columns(self, images: list[EncodedImage]) -> dict[str, pa.Array]:
        headers = [image.header for image in images]
        sizes = [image.size or (None, None) for image in images]
        values: dict[str, list[Any]] = {
            "uri": [ref.uri for ref in self._shard.refs],
            "shard": [self._shard.index] * len(images),
            "error": [image.error for image in images],
            "num_bytes": [image.num_bytes for image in images],
            "width": [width for _, width in sizes],
            "height": [height for height, _ in sizes],
            "jpeg_quality": [h and h.quality for h in headers],
            "jpeg_quality_error": [h and h.quality_error for h in headers],
            "jpeg_subsampling": [h and h.subsampling for h in headers],
            "jpeg_progressive": [h and h.progressive for h in headers],
            "jpeg_components": [h and h.components for h in headers],
        }
        columns = {name: pa.array(values[name], SCHEMA.field(name).type) for name in values}
        # The same dictionary in every part: pyarrow does not group by a column of different ones.
        codes = pa.array([STATUSES.index(image.status) for image in images], pa.int32())
        columns["status"] = pa.DictionaryArray.from_arrays(codes, list(STATUSES))
        return columns

    def _label_columns(self) -> dict[str, pa.Array]:
        columns = {column: self._scatter(column) for column in _PREDICTED}
        return {**columns, "label_name": self._label_names(columns["label"])}

    def _scatter(self, column: str) -> pa.Array:
        """One predicted column in row order; null in rows without a label."""
        batches = [getattr(prediction, _PREDICTED[column]) for prediction in self._predictions]
        field_type = SCHEMA.field(column).type
        if not batches or batches[0] is None:
            return pa.nulls(len(self._images), field_type)
        rows = np.concatenate(self._labelled)
        found = np.concatenate(batches)
        place = np.full(len(self._images), -1, np.int64)
        place[rows] = np.arange(len(rows))
        if found.ndim == 2:
            offsets = pa.array(np.arange(len(found) + 1, dtype=np.int32) * found.shape[1])
            array = pa.ListArray.from_arrays(offsets, pa.array(found.ravel()), type=field_type)
        else:
            array = pa.array(found, field_type)
        return array.take(pa.array(place, mask=place < 0))

    def _label_names(self, labels: pa.Array) -> pa.Array:
        if self._class_names is None:
            return pa.nulls(len(self._images), SCHEMA.field("label_name").type)
        # A dictionary of all the class names would be written whole into every part; and if a name
        # stands in it twice, as ImageNet's crane does, Arrow writes the name of every row too.
        names = pa.array([name or None for name in self._class_names], pa.string())
        return names.take(labels).dictionary_encode()


def write_part(output: OutputFolder, shard: int, table: pa.Table, facts: dict[str, Any]) -> None:
    """Commit a shard: write its part atomically. Raises OSError, AccessError."""
    metadata = {**(table.schema.metadata or {}), FACTS_KEY: json.dumps(facts).encode()}
    part = pa.BufferOutputStream()
    # As the schema's, Arrow would store the metadata twice: 5 kB in each part.
    with pq.ParquetWriter(part, table.schema.remove_metadata(), **PARQUET_OPTIONS) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    output.write(part_file(shard), part.getvalue().to_pybytes())


def read_facts(output: OutputFolder, shard: int) -> dict[str, Any]:
    """The facts that a part was written with, and its `num_rows`.

    Raises FileNotFoundError when the part does not exist; ValueError or OSError when it is
    damaged; OSError or AccessError when it cannot be read now.
    """
    try:
        return _facts_of_part(output, shard)
    except ChangedError:  # another driver has committed the shard too
        return _facts_of_part(output, shard)


def _facts_of_part(output: OutputFolder, shard: int) -> dict[str, Any]:
    with output.open(part_file(shard)) as file:
        return facts_of(file, part_name(shard))


def facts_of(part: Path | BinaryIO, name: str) -> dict[str, Any]:
    """As `read_facts`, of a path or an open file. name: for error messages."""
    try:
        metadata = pq.read_metadata(part)
    except pa.ArrowNotImplementedError as error:  # no ValueError, as its others are
        raise ValueError(f"{name} is no Parquet file that can be read: {error}") from error
    stored = (metadata.metadata or {}).get(FACTS_KEY)
    if stored is None:
        raise ValueError(
            f"{name} is not a part of a labels data set: it has no {FACTS_KEY!r} facts"
        )
    try:
        facts = {**json.loads(stored), "num_rows": metadata.num_rows}
        facts["counts"].items()  # every reader needs them
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the facts in {name} are damaged ({named(error)})") from error
    return facts
