"""The paper's test images: what a picture becomes under a protocol, as the bytes of a JPEG file.

`afd compress` writes these bytes to disk and `afd evaluate` hands them to the decoder, so the two
see the same images.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
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
from pipeline.pixels.geometry import Geometry, crop_window
from pipeline.records import ImageRef
from pipeline.screening.pillow_warnings import silenced
from pipeline.stores.locations import is_remote, local_path

MAX_TIMES = 20  # random compressions of an image, one after the other
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def open_rgb(data: bytes) -> RgbImage:
    """The pixels of an encoded image of any kind Pillow reads, as uint8 (H, W, 3) RGB.

    As the decoder: not turned by EXIF.
    Raises ValueError, one line, when it cannot be decoded whole or is too large for a JPEG.
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
    """What the model sees of a picture, uint8 (crop, crop, 3): resized and cropped by Pillow."""
    top, left, bottom, right = (float(value) for value in crop_window(rgb.shape[:2], geometry))
    picture = Image.fromarray(rgb)
    if geometry.resize is None:
        return np.asarray(picture.crop((round(left), round(top), round(right), round(bottom))))
    side = (geometry.crop, geometry.crop)
    box = (left, top, right, bottom)
    return np.asarray(picture.resize(side, _RESAMPLING[geometry.interpolation], box=box))


def compressed_file(
    rgb: RgbImage,
    qualities: Sequence[int],
    *,
    protocol: CompressionProtocol,
    geometry: Geometry,
    subsampling: str = "4:2:0",
    grid_shift: tuple[int, int] = (0, 0),
) -> bytes:
    """A JPEG that holds `rgb` as the protocol degrades it.

    rgb: uint8 (H, W, 3), the whole picture. qualities: at least one, in order; the protocol's own
    later ones follow. geometry: of the model; only a protocol on the model's input uses it.
    grid_shift: between one compression and the next, see `degrade`.
    Raises ValueError for a quality outside 1 to 100 or an unknown subsampling.
    """
    if protocol.applies_to == "model_input":
        rgb = model_window(rgb, geometry)
    *earlier, last = (*qualities, *protocol.later_qualities)
    degraded = degrade(rgb, earlier, subsampling=subsampling, grid_shift=grid_shift)
    return compress(degraded, last, subsampling)


def drawn_qualities(name: str, seed: int, times: int) -> tuple[int, ...]:
    """The qualities of an image's `times` random compressions (Table VI), uniform from 5 to 95.

    A draw depends on the image's name and the seed alone, and fewer compressions are the first of
    more: every run and every job gives an image the same.
    """
    return random_qualities(_rng_of(name, seed), times)


def drawn_grid_shift(name: str, seed: int) -> tuple[int, int]:
    """An image's own way to miss the grid of its last compression, by its name and the seed."""
    return random_grid_shift(_rng_of(f"grid of {name}", seed))


def _rng_of(name: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))


def relative_name(ref: ImageRef, root: str) -> str:
    """Where an image stands in its collection, with / between the parts.

    A tar's member has its own name; a file its path below `root`, see `common_root`.
    Parts that would lead out of a folder are left out.
    """
    if ref.source is not None:
        name = ref.uri.removeprefix(f"{ref.source}#")
    else:
        name = os.path.relpath(ref.uri, root) if root else ref.uri
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    return "/".join(parts)


def distinct(paths: Iterable[str]) -> Iterator[str]:
    """The paths in their order, each once: one that is taken gets -2 before its extension, or -3.

    Two tars of a folder may hold members of one name, and two such names may fall together. The
    same paths in the same order always give the same.
    """
    taken: dict[str, int] = {}  # -> the last number that was tried
    for path in paths:
        stem, extension = os.path.splitext(path)
        own = path
        while own in taken:
            taken[path] += 1
            own = f"{stem}-{taken[path]}{extension}"
        taken[own] = 1
        yield own


def collection_root(location: str, refs: Sequence[ImageRef]) -> str:
    """The folder that names are given below: `location` where that holds every file.

    So the folder of the only class is not lost. Else `common_root`: of a manifest, a pattern.
    """
    folder = location if is_remote(location) else os.path.abspath(local_path(location))
    files = [ref.uri for ref in refs if ref.source is None]
    below = files and all(uri.startswith(f"{folder.rstrip('/')}/") for uri in files)
    return folder if below else common_root(refs)


def common_root(refs: Sequence[ImageRef]) -> str:
    """The deepest folder that holds every file among the references; "" when there is none."""
    folders = {os.path.dirname(ref.uri) for ref in refs if ref.source is None}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # file:// URIs among paths
        return ""
