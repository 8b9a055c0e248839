"""JPEG compression at a stated quality: once or several times, with and without a moved 8x8 grid.

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

# Luma sampling factors (horizontal, vertical), and with them the size of an MCU in 8x8 blocks.
_SAMPLING_FACTORS = {
    "4:4:4": (1, 1),
    "4:2:2": (2, 1),
    "4:2:0": (2, 2),
    "4:4:0": (1, 2),
    "4:1:1": (4, 1),
}
SUBSAMPLINGS = tuple(_SAMPLING_FACTORS)
_LARGEST_SIDE = 65_500  # libjpeg's limit, in pixels
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


def check_sides(height: int, width: int) -> None:
    """Raises ValueError for a picture that no JPEG is made of."""
    if max(height, width) > _LARGEST_SIDE:
        raise ValueError(f"JPEG sides are at most {_LARGEST_SIDE} pixels, got {width}x{height}")


def compress(
    rgb: RgbImage,
    quality: int,
    subsampling: str = "4:2:0",
    *,
    progressive: bool = False,
) -> bytes:
    """Encode uint8 (H, W, 3) RGB as a baseline (or progressive) JPEG.

    Args:
        rgb: at most 65500 pixels a side.
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


def degrade(
    rgb: RgbImage,
    qualities: Sequence[int],
    *,
    subsampling: str = "4:2:0",
    grid_shift: tuple[int, int] = (0, 0),
) -> RgbImage:
    """Compress and decode `rgb` once for every quality, in order.

    Args:
        rgb: uint8 (H, W, 3).
        qualities: IJG qualities; none leaves the picture as it is.
        subsampling: of every compression, one of `SUBSAMPLINGS`.
        grid_shift: (down, right), pixels, 0 or more: how far the block grid has moved against the
            picture by the next compression, as if so much had been cut off after each. (0, 0) and
            multiples of the MCU keep the grids aligned.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        ValueError: as `compress`.
    """
    _check_rgb(rgb)
    horizontal, vertical = _sampling_factors(subsampling)
    mcu_height, mcu_width = 8 * vertical, 8 * horizontal
    height, width = rgb.shape[:2]
    degraded = rgb.copy()
    for cuts, quality in zip(range(len(qualities), 0, -1), qualities, strict=True):
        # A grid that starts above and left of the picture: the blocks that overhang repeat its
        # border, which is how an encoder fills incomplete blocks on the other two sides.
        top, left = cuts * grid_shift[0] % mcu_height, cuts * grid_shift[1] % mcu_width
        padded = np.pad(degraded, ((top, 0), (left, 0), (0, 0)), mode="edge")
        decoded = decompress(compress(padded, quality, subsampling))
        degraded = decoded[top : top + height, left : left + width].copy()
    return degraded


def random_qualities(rng: np.random.Generator, times: int) -> tuple[int, ...]:
    """Draw `times` IJG qualities, uniform over those from the lowest to the highest."""
    drawn = rng.integers(LOWEST_QUALITY, HIGHEST_QUALITY, size=times, endpoint=True)
    return tuple(int(quality) for quality in drawn)


def random_grid_shift(rng: np.random.Generator) -> tuple[int, int]:
    """Draw (down, right) from 0 to 7 pixels, never (0, 0): the 63 ways to miss an 8x8 grid."""
    offset = int(rng.integers(1, 64))
    return offset // 8, offset % 8


def _check_rgb(rgb: RgbImage) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape or rgb.dtype != np.uint8:
        raise ValueError(
            f"picture must be uint8 (height, width, 3), got {rgb.dtype} {tuple(rgb.shape)}"
        )
    check_sides(*rgb.shape[:2])


def _sampling_factors(subsampling: str) -> tuple[int, int]:
    if subsampling not in _SAMPLING_FACTORS:
        raise ValueError(
            f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {subsampling!r}"
        )
    return _SAMPLING_FACTORS[subsampling]


def _sampling(subsampling: str) -> Any:
    _sampling_factors(subsampling)
    return getattr(turbojpeg.SAMP, "Y" + subsampling.replace(":", ""))
