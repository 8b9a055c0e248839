"""The decoder's references: torchvision's transforms on PIL's pixels, and scipy's DCT."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from PIL import Image
from torchvision import transforms

from pipeline.decode import Decoder
from pipeline.pixels.geometry import Geometry, Interpolation
from pipeline.records import EncodedImage
from pipeline.screening.screen import Limits, screen
from pipeline.stage_clock import StageClock

_INTERPOLATION = {
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
}


@dataclass(frozen=True)
class Decoded:
    """One image out of the decoder.

    rgb: uint8 (crop, crop, 3), recovered from the pixels of a `plain` geometry.
    dct: float32 (192, crop/8, crop/8).
    """

    rgb: np.ndarray
    dct: np.ndarray


def plain(resize: int | None, crop: int, interpolation: Interpolation = "bilinear") -> Geometry:
    """A geometry whose normalised pixels are grey levels / 255."""
    return Geometry(resize, crop, interpolation, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def screened(files: Iterable[bytes], limits: Limits | None = None) -> list[EncodedImage]:
    """The files as the reader hands them over: row = position."""
    images = [EncodedImage(row, data) for row, data in enumerate(files)]
    for image in images:
        screen(image, limits or Limits())
    return images


def decode_all(decoder: Decoder, images: Iterable[EncodedImage]) -> dict[int, Decoded]:
    """row -> what the model would see. Fails when an image comes twice."""
    found: dict[int, Decoded] = {}
    for batch in decoder.decode(images, StageClock()):
        assert len(batch.images) == len(batch.pixels) == len(batch.dct)
        for image, pixels, dct in zip(batch.images, batch.pixels, batch.dct, strict=True):
            assert image.row not in found
            found[image.row] = Decoded(grey_levels(pixels.numpy()), dct.numpy().copy())
    return found


def grey_levels(pixels: np.ndarray) -> np.ndarray:
    """(3, H, W) in 0..1 -> uint8 (H, W, 3)."""
    levels = pixels.transpose(1, 2, 0) * 255
    assert np.abs(levels - levels.round()).max() < 1e-3
    return levels.round().astype(np.uint8)


def torchvision_input(data: bytes, geometry: Geometry) -> np.ndarray:
    """uint8 (crop, crop, 3): `Resize -> CenterCrop` of a PIL image."""
    steps: list[Any] = [transforms.CenterCrop(geometry.crop)]
    if geometry.resize is not None:
        mode = _INTERPOLATION[geometry.interpolation]
        steps.insert(0, transforms.Resize(geometry.resize, mode))
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(transforms.Compose(steps)(image.convert("RGB")))


def scipy_dct(rgb: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float64 (192, H/8, W/8), written out from JFIF and T.81 alone."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = np.stack([luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402])
    _, height, width = planes.shape
    blocks = planes.reshape(3, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4)
    spectra = scipy.fft.dctn(blocks, axes=(3, 4), norm="ortho")
    order = sorted(((v, u) for v in range(8) for u in range(8)), key=_zigzag_place)
    channels = [spectra[c, :, :, v, u] for c in range(3) for v, u in order]
    return np.stack(channels)


def _zigzag_place(frequency: tuple[int, int]) -> tuple[int, int]:
    vertical, horizontal = frequency
    diagonal = vertical + horizontal
    return diagonal, vertical if diagonal % 2 else horizontal
