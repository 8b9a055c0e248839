"""The paper's test images: an image degraded by a protocol, as the bytes of a JPEG file.

`afd compress` writes these bytes to disk and `afd evaluate` decodes them, so both use the same
images.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace

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
from pipeline.screening.pillow_warnings import silenced

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
