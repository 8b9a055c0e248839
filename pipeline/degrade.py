"""JPEG compression at a given quality, once or several times, with or without a shifted 8x8 grid.

The coder is libjpeg-turbo through the `turbojpeg` package: islow DCT, fancy upsampling, standard
Huffman tables. Pillow uses the same library with the same defaults: the quantization tables of
`compress(rgb, q, s)` equal those of `Image.save(..., "JPEG", quality=q, subsampling=s)`, and so do
all bytes if the two bundle the same version.

Everything here works on one uint8 (H, W, 3) RGB image on the CPU. Files and evaluation use it; the
compression inside the DALI graph is tested against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import turbojpeg

RgbImage = npt.NDArray[np.uint8]  # (H, W, 3)

# Luma sampling factors (horizontal, vertical); also the size of an MCU in 8x8 blocks.
_SAMPLING_FACTORS = {
    "4:4:4": (1, 1),
    "4:2:2": (2, 1),
    "4:2:0": (2, 2),
    "4:4:0": (1, 2),
    "4:1:1": (4, 1),
}
SUBSAMPLINGS = tuple(_SAMPLING_FACTORS)
_LARGEST_SIDE = 65_500  # libjpeg's limit, in pixels
# The range of random qualities (the paper's Table VI).
LOWEST_QUALITY, HIGHEST_QUALITY = 5, 95


@dataclass(frozen=True, slots=True)
class CompressionProtocol:
    """How evaluation degrades an image at a given quality.

    Attributes:
        name: as in reports.
        applies_to: "full_image", before any resize; or "model_input", after resize and crop.
        later_qualities: of further compressions after the one at the given quality.
    """

    name: str
    applies_to: Literal["full_image", "model_input"]
    later_qualities: tuple[int, ...] = ()

    def stated_quality(self, qualities: Sequence[int]) -> float:
        """The quality that a file's header states after compressions at these qualities."""
        return float((*qualities, *self.later_qualities)[-1])


FULL_IMAGE = CompressionProtocol("full-image", applies_to="full_image")
# ImageNet-C stores its 224x224 pictures, JPEG corruption included, as JPEG of quality 85
# (Hendrycks and Dietterich, ICLR 2019, `make_imagenet_c.py`).
IMAGENET_C = CompressionProtocol("imagenet-c", applies_to="model_input", later_qualities=(85,))
PROTOCOLS = {protocol.name: protocol for protocol in (FULL_IMAGE, IMAGENET_C)}


def check_sides(height: int, width: int) -> None:
    """Raises ValueError for an image that is too large for JPEG."""
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
        rgb: at most 65,500 pixels per side.
        quality: IJG quality, 1 to 100.
        subsampling: one of `SUBSAMPLINGS`.
        progressive: write a progressive JPEG.

    Raises:
        ValueError: an array of another shape or type, a quality or subsampling that does not exist.
    """
    _check_rgb(rgb)
    # libjpeg silently clamps a quality outside 1 to 100.
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be from 1 to 100, got {quality!r}")
    # The package reads a strided array as if it were contiguous.
    encoded: bytes = turbojpeg.compress(
        np.ascontiguousarray(rgb),
        quality,
        _sampling(subsampling),
        progressive=progressive,
    )
    return encoded


def decompress(jpeg: bytes) -> RgbImage:
    """Decode a JPEG, colour or gray, to uint8 (H, W, 3) RGB; an EXIF orientation is ignored.

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
    """Compress and decode `rgb` once per quality, in order.

    Args:
        rgb: uint8 (H, W, 3).
        qualities: IJG qualities; empty leaves the image as it is.
        subsampling: of every compression, one of `SUBSAMPLINGS`.
        grid_shift: (down, right) in pixels, 0 or more: the shift of the block grid from one
            compression to the next, as if the image had been cropped by so much in between. (0, 0)
            and multiples of the MCU keep the grids aligned.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        ValueError: as `compress`.
    """
    _check_rgb(rgb)
    horizontal, vertical = _sampling_factors(subsampling)
    mcu_height, mcu_width = 8 * vertical, 8 * horizontal
    degraded = rgb.copy()
    for cuts, quality in zip(range(len(qualities), 0, -1), qualities, strict=True):
        # The grid starts above and left of the image. Incomplete blocks are filled by repeating the
        # border, as an encoder does on the other two sides.
        top, left = cuts * grid_shift[0] % mcu_height, cuts * grid_shift[1] % mcu_width
        padded = np.pad(degraded, ((top, 0), (left, 0), (0, 0)), mode="edge")
        decoded = decompress(compress(padded, quality, subsampling))
        degraded = decoded[top:, left:].copy()
    return degraded


def random_qualities(rng: np.random.Generator, times: int) -> tuple[int, ...]:
    """Draw `times` IJG qualities, uniformly from `LOWEST_QUALITY` to `HIGHEST_QUALITY`."""
    drawn = rng.integers(LOWEST_QUALITY, HIGHEST_QUALITY, size=times, endpoint=True)
    return tuple(int(quality) for quality in drawn)


def random_grid_shift(rng: np.random.Generator) -> tuple[int, int]:
    """Draw (down, right) from 0 to 7 pixels, never (0, 0): the 63 misaligned 8x8 grids."""
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
