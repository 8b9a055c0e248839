"""An image as the model sees it, paired with the same image before it was compressed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.decode import Decoder
from pipeline.degrade import FULL_IMAGE
from pipeline.pairs.recompress import compressed_file, open_rgb
from pipeline.pixels.geometry import Geometry
from pipeline.reading.reading_tasks import read_and_screen
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits, screen
from pipeline.stage_clock import StageClock


@dataclass(frozen=True, slots=True)
class PicturePair:
    """image: its header and status; the bytes are freed.

    pixels: (1, 3, crop, crop), dct: (1, 192, crop/8, crop/8), see `DecodedBatch`.
    clean_pixels: the pixels of the clean original; None without one.
    """

    image: EncodedImage
    pixels: torch.Tensor
    dct: torch.Tensor
    clean_pixels: torch.Tensor | None


class PairReader:
    """Reads images one at a time.

    twin_of: finds an image's clean original, see `CleanTwins.of`; None: there are none.
    quality: if given, every image is compressed as a whole file with this IJG quality, and is
        itself the clean original.
    """

    def __init__(
        self,
        decoder: Decoder,
        geometry: Geometry,
        limits: Limits,
        *,
        twin_of: Callable[[ImageRef], ImageRef] | None = None,
        quality: int | None = None,
    ) -> None:
        self._decoder, self._geometry, self._limits = decoder, geometry, limits
        self._twin_of, self._quality = twin_of, quality

    def read(self, ref: ImageRef) -> PicturePair:
        """The image and its original. Raises a one-line ValueError when either cannot be read."""
        image = read_and_screen(0, ref, self._limits)
        if not image.decodable:
            raise ValueError(image.error)
        clean = None
        if self._quality is not None:
            clean, image = image, self._compressed(image)
        elif self._twin_of is not None:
            clean = self._twin(ref, image)
        pictures = self._decoded([image] if clean is None else [image, clean])
        pixels, dct = pictures[0]
        return PicturePair(image, pixels, dct, None if clean is None else pictures[1][0])

    def _compressed(self, image: EncodedImage) -> EncodedImage:
        if image.status is not Status.OK:
            raise ValueError(f"no clean original: {image.error}")
        assert self._quality is not None
        data = compressed_file(
            open_rgb(image.data),
            (self._quality,),
            protocol=FULL_IMAGE,
            geometry=self._geometry,
        )
        made = EncodedImage(1, data)
        screen(made, self._limits)
        return made

    def _twin(self, ref: ImageRef, image: EncodedImage) -> EncodedImage:
        assert self._twin_of is not None
        found = self._twin_of(ref)
        twin = read_and_screen(1, found, self._limits)
        if twin.status is not Status.OK:
            raise ValueError(f"its clean twin {found.uri!r}: {twin.error}")
        if twin.size != image.size:
            raise ValueError(
                f"it has {_size(image)} pixels, its clean twin {found.uri!r} {_size(twin)}"
            )
        return twin

    def _decoded(self, images: list[EncodedImage]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(pixels, dct) of each image, as batches of one. Raises ValueError if one is rejected."""
        found = {}
        for batch in self._decoder.decode(images, StageClock()):
            for k, image in enumerate(batch.images):
                found[image.row] = batch.pixels[k : k + 1].clone(), batch.dct[k : k + 1].clone()
        for image in images:
            if not image.decodable:
                raise ValueError(image.error)
        return [found[image.row] for image in images]


def _size(image: EncodedImage) -> str:
    height, width = image.size or (0, 0)
    return f"{width}x{height}"
