"""One image -> its files in the compressed test sets, written atomically, and its manifest rows."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from afd_model.atomic_file import atomic_write
from pipeline.degrade import CompressionProtocol
from pipeline.inputs.image_bytes import modification_time
from pipeline.inputs.image_names import distinct, relative_name
from pipeline.pairs.recompress import (
    compressed_file,
    drawn_grid_shift,
    drawn_qualities,
    open_rgb,
)
from pipeline.pixels.geometry import Geometry
from pipeline.reading.reading_tasks import read_and_screen
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits
from pipeline.stores.output_store import STAGING

# Tars and buckets may hold `a` beside `a/b`, and names of any length. The last two are of disks
# that refuse some characters, as exFAT and NTFS do.
_NAME_ERRORS = (
    *(errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.EINVAL, errno.EILSEQ),
)
# `path` is relative to the manifest, so `afd label` can read the manifest as its input.
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string()),  # null if the image has no files
        pa.field("set", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("qualities", pa.list_(pa.int16())),  # of the compressions, in order
        pa.field("num_bytes", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class SetRecipe:
    """How the sets are made.

    quality: one set (q07, q10, ...) for each. times: sets times1 to timesN of random compressions.
    shift_grid: shift the 8x8 grid between compressions, by a random offset per image.
    """

    quality: tuple[int, ...]
    times: int
    seed: int
    subsampling: str
    shift_grid: bool
    protocol: CompressionProtocol
    geometry: Geometry
    limits: Limits


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """ref: the original. files: the image's path in each set -> the qualities of its compressions.

    grid_shift: (down, right) in pixels, from one compression to the next.
    """

    ref: ImageRef
    files: dict[Path, tuple[int, ...]]
    grid_shift: tuple[int, int]


def plan_images(refs: Sequence[ImageRef], recipe: SetRecipe, root: str) -> Iterator[PlannedImage]:
    """Every image's files, named as in the collection; no two images share a file.

    The random qualities depend on the name in the collection, as in `afd evaluate`.

    root: see `collection_root`.
    """
    names = [relative_name(ref, root) for ref in refs]
    for ref, name, file in zip(refs, names, distinct(map(_as_jpeg, names)), strict=True):
        sets = set_qualities(recipe, name)
        shift = drawn_grid_shift(name, recipe.seed) if recipe.shift_grid else (0, 0)
        yield PlannedImage(ref, {Path(s, file): q for s, q in sets.items()}, shift)


def set_qualities(recipe: SetRecipe, name: str) -> dict[str, tuple[int, ...]]:
    """Set -> the qualities of the compressions of the image called `name`."""
    drawn = drawn_qualities(name, recipe.seed, recipe.times)
    sets: dict[str, tuple[int, ...]] = {f"q{quality:02d}": (quality,) for quality in recipe.quality}
    return sets | {f"times{n}": drawn[:n] for n in range(1, recipe.times + 1)}


def _as_jpeg(name: str) -> str:
    """The JPEG's name: x.jpg stays, x.png becomes x.png.jpg, so that a folder may hold both."""
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"


def write_files(image: PlannedImage, folder: Path, recipe: SetRecipe) -> list[dict[str, Any]]:
    """Write the image's files that are missing under `folder`, or older than the original.

    Returns rows of `MANIFEST_SCHEMA`: one per file, or one with the reason why the image has no
    files. A damaged image has none, since its pixels are not those of the original.
    """
    try:
        changed_at = modification_time(image.ref)
        missing = {
            path: qualities
            for path, qualities in image.files.items()
            if not _is_newer(folder / path, changed_at)
        }
        if missing:
            encoded = read_and_screen(0, image.ref, recipe.limits)
            error = _write_missing(encoded, missing, folder, recipe, image.grid_shift)
            if error is not None:
                return [_bad_row(image.ref, encoded.status, error)]
    except OSError as failure:
        if failure.errno not in _NAME_ERRORS:
            raise
        reason = f"the output can hold no file of its name: {failure.strerror}"
        return [_bad_row(image.ref, Status.REJECTED, reason)]
    later = recipe.protocol.later_qualities
    return [
        {
            "path": str(path),
            "set": path.parts[0],
            "uri": image.ref.uri,
            "qualities": [*qualities, *later],
            "num_bytes": (folder / path).stat().st_size,
            "status": Status.OK.value,
        }
        for path, qualities in image.files.items()
    ]


def _is_newer(file: Path, changed_at: float) -> bool:
    return file.is_file() and file.stat().st_mtime >= changed_at


def _bad_row(ref: ImageRef, status: Status, error: str) -> dict[str, Any]:
    return {"uri": ref.uri, "status": status.value, "error": error}


def _write_missing(
    image: EncodedImage,
    files: dict[Path, tuple[int, ...]],
    folder: Path,
    recipe: SetRecipe,
    grid_shift: tuple[int, int],
) -> str | None:
    """Write the files; returns the error of an image that cannot have any, else None."""
    if image.status is not Status.OK:
        return image.error
    try:
        rgb = open_rgb(image.data)
    except ValueError as error:
        image.fail(Status.REJECTED, str(error))
        return image.error
    for path, qualities in files.items():
        data = compressed_file(
            rgb,
            qualities,
            protocol=recipe.protocol,
            geometry=recipe.geometry,
            subsampling=recipe.subsampling,
            grid_shift=grid_shift,
        )
        with atomic_write(folder / path, staging=folder / STAGING) as temporary:
            temporary.write_bytes(data)
    return None
