"""JPEG compression at a stated quality: once, or several times in a row.

The coder is libjpeg-turbo through the `turbojpeg` package: islow DCT, fancy upsampling, standard
Huffman tables. Pillow drives the same library with the same defaults, so that
`compress(rgb, q, s)` equals `Image.save(..., "JPEG", quality=q, subsampling=s)` byte for byte when
the two bundle the same version, and in quantization tables always.

Everything here works on one uint8 (H, W, 3) RGB picture and on the CPU, for files, evaluation and
reference; compression inside the DALI graph is compared with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import turbojpeg

RgbImage = npt.NDArray[np.uint8]  # (H, W, 3)

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")
# Of compressions at a random quality (the paper's Table VI).
LOWEST_QUALITY, HIGHEST_QUALITY = 5, 95


@dataclass(frozen=True, slots=True)
class CompressionProtocol:
    """How evaluation degrades a picture at a quality factor, and at which point of the data path.

    Attributes:
        name: what reports call it.
        applies_to: "full_image", before any resize; or "model_input", after resize and crop.
        later_qualities: further compressions that follow the one at the stated quality.
    """

    name: str
    applies_to: Literal["full_image", "model_input"]
    later_qualities: tuple[int, ...] = ()


FULL_IMAGE = CompressionProtocol("full-image", applies_to="full_image")
# ImageNet-C stores its 224x224 pictures, JPEG corruption included, as JPEG of quality 85
# (Hendrycks and Dietterich, ICLR 2019, `make_imagenet_c.py`).
IMAGENET_C = CompressionProtocol("imagenet-c", applies_to="model_input", later_qualities=(85,))
PROTOCOLS = {protocol.name: protocol for protocol in (FULL_IMAGE, IMAGENET_C)}


def compress(
    rgb: RgbImage,
    quality: int,
    subsampling: str = "4:2:0",
    *,
    progressive: bool = False,
) -> bytes:
    """Encode uint8 (H, W, 3) RGB as a baseline (or progressive) JPEG.

    Args:
        rgb: at most 65535 pixels a side.
        quality: IJG quality, 1 to 100.
        subsampling: one of `SUBSAMPLINGS`.
        progressive: several scans of growing precision.

    Raises:
        ValueError: an array of another shape or type, a quality or subsampling that does not exist.
    """
    _check_rgb(rgb)
    # libjpeg clamps a quality outside 1 to 100 in silence.
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be from 1 to 100, got {quality!r}")
    # The package reads a strided view's memory as if it were contiguous.
    encoded: bytes = turbojpeg.compress(
        np.ascontiguousarray(rgb),
        quality,
        _sampling(subsampling),
        progressive=progressive,
    )
    return encoded


def decompress(jpeg: bytes) -> RgbImage:
    """Decode a JPEG to uint8 (H, W, 3) RGB, gray ones included, without turning by EXIF.

    Raises:
        ValueError: libjpeg-turbo cannot decode it to RGB (CMYK, 12 bits, damaged beyond reading).
    """
    try:
        return np.asarray(turbojpeg.decompress(jpeg, pixelformat=turbojpeg.PF.RGB))
    except RuntimeError as error:
        raise ValueError(f"cannot decode the JPEG: {error}") from error


def degrade(rgb: RgbImage, qualities: Sequence[int], *, subsampling: str = "4:2:0") -> RgbImage:
    """Compress and decode `rgb` once for every quality, in order.

    Args:
        rgb: uint8 (H, W, 3).
        qualities: IJG qualities; none leaves the picture as it is.
        subsampling: of every compression, one of `SUBSAMPLINGS`.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        ValueError: as `compress`.
    """
    _check_rgb(rgb)
    degraded = rgb.copy()
    for quality in qualities:
        degraded = decompress(compress(degraded, quality, subsampling))
    return degraded


def random_qualities(rng: np.random.Generator, times: int) -> tuple[int, ...]:
    """Draw `times` IJG qualities, uniform over those from the lowest to the highest."""
    drawn = rng.integers(LOWEST_QUALITY, HIGHEST_QUALITY, size=times, endpoint=True)
    return tuple(int(quality) for quality in drawn)


def _check_rgb(rgb: RgbImage) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape or rgb.dtype != np.uint8:
        raise ValueError(
            f"picture must be uint8 (height, width, 3), got {rgb.dtype} {tuple(rgb.shape)}"
        )
    if max(rgb.shape[:2]) > 65535:
        raise ValueError(f"JPEG sides are at most 65535 pixels, got {rgb.shape[1]}x{rgb.shape[0]}")


def _sampling(subsampling: str) -> Any:
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(
            f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {subsampling!r}"
        )
    return getattr(turbojpeg.SAMP, "Y" + subsampling.replace(":", ""))
