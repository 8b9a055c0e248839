"""The part of an image that the model sees: torchvision's `Resize -> CenterCrop` as one window.

To resize the whole image and then crop it gives the same as to resample only the window of the
source that the crop maps to. So the full resized image is never made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from afd_model.backbones import Preprocessing

Interpolation = Literal["bilinear", "bicubic"]

DCT_BLOCK = 8


@dataclass(frozen=True, slots=True)
class Geometry:
    """Resize, crop and normalisation of the model's input.

    resize: length of the shorter side in pixels after resizing; None: crop without resizing.
    crop: side of the square crop in pixels.
    mean, std: per RGB channel, of pixels from 0 to 1.
    """

    resize: int | None
    crop: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of_preset(cls, preset: Preprocessing, *, in_blocks: bool) -> Self:
        """A classifier's own geometry.

        in_blocks: round the crop to the nearest multiple of a DCT block (300 to 304).
        """
        crop = _in_blocks(preset.crop) if in_blocks else preset.crop
        resize = preset.resize and max(preset.resize, crop)
        return cls(resize, crop, preset.interpolation, preset.mean, preset.std)

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise ValueError(f"crop {self.crop} is not positive")
        if self.resize is not None and self.resize < self.crop:
            raise ValueError(
                f"resize {self.resize} is smaller than crop {self.crop}:"
                f" give a resize of at least {self.crop}, or a smaller crop"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"interpolation {self.interpolation!r} is not supported: use bilinear or bicubic"
            )

    def enlargement(self, size: tuple[int, int]) -> float:
        """By how many doublings the sides of a picture are enlarged; 0 where it is not.

        size: (height, width) of the picture in pixels.
        """
        if self.resize is None or not 0 < min(size) < self.resize:
            return 0.0
        return math.log2(self.resize / min(size))

    def check_blocks(self) -> None:
        """Raises ValueError if the crop is not a multiple of a DCT block."""
        if self.crop % DCT_BLOCK:
            raise ValueError(
                f"crop {self.crop} is not a multiple of {DCT_BLOCK}, the DCT's block size:"
                f" use {_in_blocks(self.crop)}"
            )


def _in_blocks(side: int) -> int:
    return max(1, round(side / DCT_BLOCK)) * DCT_BLOCK


def _centre(length: int, crop: int) -> int:
    # As torchvision's CenterCrop: int(round(x / 2.0)); Python rounds halves to even.
    return round((length - crop) / 2.0)


def resized(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) after torchvision's `Resize(short_side)`.

    It truncates the long side, so the two axes have slightly different scales.
    """
    height, width = size
    short = min(size)
    return short_side * height // short, short_side * width // short


def crop_window(size: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """The window of the source that becomes the model's input.

    size: (height, width) of the source in pixels.
    Returns (top, left, bottom, right) in source pixels, float32 (4,). Without a resize it may
    reach outside the image (torchvision pads such a crop with black).
    """
    height, width = size
    crop = geometry.crop
    if geometry.resize is None:
        top, left = _centre_or_pad(height, crop), _centre_or_pad(width, crop)
        return np.array([top, left, top + crop, left + crop], np.float32)
    new_height, new_width = resized(size, geometry.resize)
    top, left = _centre(new_height, crop), _centre(new_width, crop)
    scale_y, scale_x = height / new_height, width / new_width
    return np.array(
        [top * scale_y, left * scale_x, (top + crop) * scale_y, (left + crop) * scale_x],
        np.float32,
    )


def _centre_or_pad(length: int, crop: int) -> int:
    if length < crop:
        return -((crop - length) // 2)  # torchvision pads the smaller half first
    return _centre(length, crop)
