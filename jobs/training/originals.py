"""Whether the training images were compressed before: what that left in them is taught as clean."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from statistics import median

from jobs.sampling import evenly
from pipeline.pairs.pair_plan import largest_reduced_crop
from pipeline.reading.reading_tasks import read_and_screen
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits

_SAMPLE = 100
_NEARLY_CLEAN = 90
# An image whose shorter side is longer than so many training windows is reduced by them enough.
_FEW_WINDOWS = 2
_SMALLEST_CROP = 64  # the last stages of a classifier see 2 x 2 positions of it


def advice(refs: Sequence[ImageRef], crop: int, limits: Limits, num_threads: int) -> str | None:
    """One line about `--reduced-share` if most images are small JPEGs of a low quality; else None.

    refs: of at least one image, of which a sample is read. crop: side of the training window,
    pixels.
    """
    sample = evenly(refs, _SAMPLE)
    with ThreadPoolExecutor(num_threads) as pool:
        images = list(pool.map(read_and_screen, range(len(sample)), sample, repeat(limits)))
    found = [
        (image.stated_quality, min(image.size))
        for image in images
        if image.size and image.stated_quality < _NEARLY_CLEAN
    ]
    small = [(quality, side) for quality, side in found if side < _FEW_WINDOWS * crop]
    if 2 * len(small) <= len(sample):
        return None
    quality, side = (median(values) for values in zip(*small, strict=True))
    smaller_crop = min(crop, largest_reduced_crop(side))
    if smaller_crop < _SMALLEST_CROP:
        return None
    flags = "--reduced-share 1" + (f" --crop {smaller_crop}" if smaller_crop < crop else "")
    return (
        f"most images are small JPEGs of quality {quality:.0f} (median), and what that has left in"
        f" them is taught as clean: {flags} reduces them first"
    )
