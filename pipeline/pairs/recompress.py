"""The paper's test images: an image degraded by a protocol, as the bytes of a JPEG file.

`afd compress` writes these bytes to disk and `afd evaluate` decodes them, so both use the same
images.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from pipeline.degrade import (
    CompressionProtocol,
    RgbImage,
    check_sides,
    compress,
    degrade,
    random_grid_shift,
    random_qualities,
)
from pipeline.error_text import one_line
from pipeline.pixels.geometry import Geometry, crop_window, resized
from pipeline.records import ImageRef
from pipeline.screening.pillow_warnings import silenced
from pipeline.stores.locations import is_remote, local_path, uri_of

MAX_TIMES = 20  # random compressions of one image
# 64 MB. Of a picture so long that it would have more, only the window is resized.
_MAX_RESIZED_PIXELS = 1 << 24
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def open_rgb(data: bytes) -> RgbImage:
    """The pixels of an image in any format that Pillow reads, as uint8 (H, W, 3) RGB.

    An EXIF orientation is ignored, as in `pipeline.decode`. Raises a one-line ValueError when the
    image cannot be decoded completely, or is too large for JPEG.
    """
    try:
        with silenced(), Image.open(io.BytesIO(data)) as picture:
            check_sides(picture.height, picture.width)
            if picture.mode.startswith("I;16"):  # which Pillow would clip at 255
                gray = np.asarray(picture, np.uint16) / 257
                return np.repeat(gray.round().astype(np.uint8)[:, :, None], 3, axis=2)
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded: {one_line(error)}") from error


def model_window(rgb: RgbImage, geometry: Geometry) -> RgbImage:
    """The model's window of an image, uint8 (crop, crop, 3): torchvision's own, to the bit.

    It is cropped from the whole image resized, as the protocol has it. Pillow rounds the pixels
    between its two passes, and the size decides whether rows or columns come first, so that a
    window resized alone would differ.
    """
    size = rgb.shape[:2]
    picture = Image.fromarray(rgb)
    if geometry.resize is not None:
        resampling = _RESAMPLING[geometry.interpolation]
        height, width = resized(size, geometry.resize)
        if height * width > _MAX_RESIZED_PIXELS:
            top, left, bottom, right = crop_window(size, geometry).tolist()
            side = (geometry.crop, geometry.crop)
            return np.asarray(picture.resize(side, resampling, box=(left, top, right, bottom)))
        picture = picture.resize((width, height), resampling)
        size = (height, width)
    top, left, bottom, right = map(int, crop_window(size, replace(geometry, resize=None)))
    return np.asarray(picture.crop((left, top, right, bottom)))


def compressed_file(
    rgb: RgbImage,
    qualities: Sequence[int],
    *,
    protocol: CompressionProtocol,
    geometry: Geometry,
    subsampling: str = "4:2:0",
    grid_shift: tuple[int, int] = (0, 0),
) -> bytes:
    """`rgb` degraded by a protocol, as a JPEG.

    rgb: uint8 (H, W, 3), the whole image. qualities: at least one, in order; the protocol's later
    qualities follow. geometry: the model's, for protocols on the model's input. grid_shift: see
    `degrade`.
    Raises ValueError for a quality outside 1 to 100 or an unknown subsampling.
    """
    if protocol.applies_to == "model_input":
        rgb = model_window(rgb, geometry)
    *earlier, last = (*qualities, *protocol.later_qualities)
    degraded = degrade(rgb, earlier, subsampling=subsampling, grid_shift=grid_shift)
    return compress(degraded, last, subsampling)


def drawn_qualities(name: str, seed: int, times: int) -> tuple[int, ...]:
    """The qualities of an image's `times` random compressions (Table VI), uniform from 5 to 95.

    They depend on the image's name and the seed alone, and n compressions are the first n of more:
    so an image gets the same qualities in every run and every job.
    """
    return random_qualities(_rng_of(name, seed), times)


def drawn_grid_shift(name: str, seed: int) -> tuple[int, int]:
    """The image's random shift of the 8x8 grid; depends on its name and the seed alone."""
    return random_grid_shift(_rng_of(f"grid of {name}", seed))


def _rng_of(name: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))


def relative_name(ref: ImageRef, root: str) -> str:
    """An image's path within its collection, with slashes.

    For a member of a tar, its name there; for a file, its path below `root`, see `collection_root`.
    Parts that would lead out of a folder, such as "..", are removed. A name that is not UTF-8 is
    percent-encoded.
    """
    if ref.source is not None:
        name = ref.uri.removeprefix(f"{ref.source}#")
    else:
        path = local_path(ref.uri)
        name = uri_of(os.path.relpath(path, root) if root else path).removeprefix("file://")
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    return "/".join(parts)


def distinct(paths: Iterable[str]) -> Iterator[str]:
    """The paths in their order, made unique: duplicates get -2, -3, ... before the extension.

    Duplicates come from tars with members of the same name. The result depends on the paths and
    their order alone.
    """
    taken: dict[str, int] = {}  # path -> the last number that was tried
    for path in paths:
        stem, extension = os.path.splitext(path)
        own = path
        while own in taken:
            taken[path] += 1
            own = f"{stem}-{taken[path]}{extension}"
        taken[own] = 1
        yield own


def collection_root(location: str, refs: Sequence[ImageRef]) -> str:
    """The folder that names in the collection are relative to.

    This is `location`, if all files are below it: so that a collection of one class keeps the
    class's folder in its names. Otherwise, as for a manifest or a pattern, it is `common_root`.
    """
    folder = location if is_remote(location) else os.path.abspath(local_path(location))
    files = [local_path(ref.uri) for ref in refs if ref.source is None]
    below = files and all(path.startswith(f"{folder.rstrip('/')}/") for path in files)
    return folder if below else common_root(refs)


def common_root(refs: Sequence[ImageRef]) -> str:
    """The deepest folder that contains all files among the references; "" if there is none."""
    folders = {os.path.dirname(local_path(ref.uri)) for ref in refs if ref.source is None}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # remote files among local ones
        return ""
