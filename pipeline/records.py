"""The records that pass between the steps of the pipeline, and the schema of the output's rows.

The path of an image: `ImageRef` (planned) -> `EncodedImage` (bytes and header) -> `DecodedBatch`
(tensors) -> `Predictions` (the classifier's arrays) -> one row of `SCHEMA`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

if TYPE_CHECKING:
    import torch

    from afd_model.inference.predictions import Predictions
    from pipeline.jpeg_scan import JpegHeader

SCHEMA_VERSION = 1


class Status(StrEnum):
    """The outcome of an image; every planned image gets exactly one row with one of these."""

    OK = "ok"
    DAMAGED = "damaged"  # decoded and labelled, but the stream is truncated or corrupt
    REJECTED = "rejected"  # not a decodable image, or over a stated limit
    UNREADABLE = "unreadable"  # the bytes could not be fetched


STATUSES = tuple(status.value for status in Status)


class Container(StrEnum):
    """The kinds of archive: files that hold many images."""

    TAR = "tar"
    TAR_GZ = "tar.gz"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The location of one image's encoded bytes.

    uri: the image's name in the output.
    source: the file that holds the bytes; None if that is `uri`.
    container: the kind of archive that `source` is; None if it is the image file itself.
    offset: in an archive, the image's byte in the uncompressed tar or its row in the Parquet file.
    num_bytes: the image's size, if it is known at planning time.
    """

    uri: str
    source: str | None = None
    container: Container | None = None
    offset: int | None = None
    num_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive images of the plan: the unit of scheduling, retry and commit."""

    index: int
    refs: tuple[ImageRef, ...]


@dataclass(slots=True)
class EncodedImage:
    """One image before it is decoded.

    row: its position in the shard.
    data: the encoded bytes; b"" once they are no longer needed.
    size: (height, width) in pixels as stored; an EXIF orientation is not applied.
    status: an image that is rejected or unreadable is not decoded.
    """

    row: int
    data: bytes = b""
    num_bytes: int | None = None
    size: tuple[int, int] | None = None
    header: JpegHeader | None = None
    status: Status = Status.OK
    error: str | None = None

    @property
    def decodable(self) -> bool:
        return self.status in (Status.OK, Status.DAMAGED)

    @property
    def num_pixels(self) -> int:
        """By the header; 0 before it is read."""
        height, width = self.size or (0, 0)
        return height * width

    @property
    def stated_quality(self) -> float:
        """The JPEG quality found from the header, 1 to 100; NaN without one."""
        if self.header is None or self.header.quality is None:
            return math.nan
        return float(self.header.quality)

    def flag(self, reason: str) -> None:
        """Mark the image as damaged; an earlier status and error stay."""
        if self.status is Status.OK:
            self.status, self.error = Status.DAMAGED, reason

    def fail(self, status: Status, error: str) -> None:
        """Exclude the image from decoding: set its status and error, free its bytes."""
        self.status, self.error, self.data = status, error, b""


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Model input for the images that could be decoded.

    The tensors are reused: they are valid until the next batch is requested.

    pixels: (B, 3, crop, crop), normalised, channels_last, float32, float16 or bfloat16.
    dct: (B, 192, crop/8, crop/8) float32, on the scale of JPEG's quantization tables; (B, 0, ...)
        if the decoder does not extract coefficients.
    file_facts: (B, 2) float32, on the host: `EncodedImage.stated_quality` and
        `Geometry.enlargement`.
    """

    images: list[EncodedImage]
    pixels: torch.Tensor
    dct: torch.Tensor
    file_facts: torch.Tensor


class Predict(Protocol):
    """What a loaded model does: tensors of a `DecodedBatch` in, `Predictions` out."""

    def __call__(
        self, pixels: torch.Tensor, dct: torch.Tensor, file_facts: torch.Tensor
    ) -> Predictions: ...


_DICTIONARY_STRING = pa.dictionary(pa.int32(), pa.string())


def _column(
    name: str, kind: pa.DataType, description: str, unit: str = "", *, nullable: bool = True
) -> pa.Field:
    """unit: only for numbers."""
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


_COLUMNS = [
    _column("uri", pa.string(), "the image's absolute path or URI", nullable=False),
    _column("shard", pa.int32(), "the shard it was labelled in", "index", nullable=False),
    _column("status", _DICTIONARY_STRING, "ok, damaged, rejected or unreadable", nullable=False),
    _column("error", pa.string(), "what is wrong, one line; null when ok"),
    _column("num_bytes", pa.int64(), "encoded size; null if it is not known", "bytes"),
    _column("width", pa.int32(), "as stored: an EXIF orientation is not applied", "pixels"),
    _column("height", pa.int32(), "as stored: an EXIF orientation is not applied", "pixels"),
    _column(
        "jpeg_quality",
        pa.int8(),
        "the quality whose luma quantization table is nearest; null where none is near",
        "IJG quality, 1 to 100",
    ),
    _column(
        "jpeg_quality_error",
        pa.float32(),
        "mean absolute difference of the two tables; 0 for an exact one",
        "quantization steps",
    ),
    _column("jpeg_subsampling", pa.string(), "chroma subsampling, such as 4:2:0, or gray"),
    _column("jpeg_progressive", pa.bool_(), "progressive rather than sequential"),
    _column("jpeg_components", pa.int8(), "1 gray, 3 colour, 4 CMYK or YCCK", "count"),
    _column("label", pa.int32(), "most probable class; null unless labelled", "index"),
    _column("label_name", _DICTIONARY_STRING, "its name, where one is known"),
    _column("confidence", pa.float32(), "its softmax probability", "probability"),
    _column("top_labels", pa.list_(pa.int32()), "the most probable classes, best first", "index"),
    _column(
        "top_confidences", pa.list_(pa.float32()), "their softmax probabilities", "probability"
    ),
    _column(
        "drift_angle_deg",
        pa.float32(),
        "how far the AFD-Module turned the stem features; null without a trained one",
        "degrees",
    ),
    _column(
        "drift_energy",
        pa.float32(),
        "L2 norm of what the AFD-Module changed, relative to the stem features'; null likewise",
        "ratio",
    ),
    _column(
        "flip_probability",
        pa.float32(),
        "that compression changed the label; null without a fitted model",
        "probability",
    ),
]

# The metadata of fields is Arrow's own. Other Parquet readers find it here, as JSON.
COLUMNS_KEY = b"columns"

SCHEMA = pa.schema(
    _COLUMNS,
    metadata={
        COLUMNS_KEY: json.dumps(
            {
                field.name: {key.decode(): value.decode() for key, value in field.metadata.items()}
                for field in _COLUMNS
            }
        )
    },
)
