"""Images -> the batches that are decoded together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.records import EncodedImage

# 2 in 100 of ImageNet's photographs have more pixels, up to sixty times as many as the others. A
# batch of several takes little longer than one; without them an H200 decodes 3.4 times as fast.
LARGE_PIXELS = 1_000_000


@dataclass(slots=True)
class _Gathered:
    images: list[EncodedImage] = field(default_factory=list)
    pixels: int = 0

    def taken(self) -> list[EncodedImage]:
        images, self.images, self.pixels = self.images, [], 0
        return images


def batches(
    images: Iterable[EncodedImage], most_images: int, most_pixels: int, *, large_apart: bool
) -> Iterator[list[EncodedImage]]:
    """Every decodable image in exactly one batch, none of which is empty.

    A batch has up to `most_images`, and up to `most_pixels` unless it is one image of more: so it
    fits into memory, whatever a collection holds.

    Args:
        large_apart: images of more than `LARGE_PIXELS` are batches of their own, which come once
            they are full or at the end. Where images are decoded side by side a batch takes as
            long as its largest. Otherwise all stay in their order.
    """
    small, large = _Gathered(), _Gathered()
    for image in images:
        if not image.decodable:
            continue
        pixels = _pixels_of(image)
        gathered = large if large_apart and pixels > LARGE_PIXELS else small
        if gathered.images and gathered.pixels + pixels > most_pixels:
            yield gathered.taken()
        gathered.images.append(image)
        gathered.pixels += pixels
        if len(gathered.images) == most_images:
            yield gathered.taken()
    for gathered in (small, large):
        if gathered.images:
            yield gathered.taken()


def num_pixels(batch: Iterable[EncodedImage]) -> int:
    """Of all its images, by their headers."""
    return sum(map(_pixels_of, batch))


def _pixels_of(image: EncodedImage) -> int:
    height, width = image.size or (0, 0)
    return height * width
