"""JPEGs to measure with: natural pictures in ImageNet's sizes, at all qualities.

The cost of decoding depends on the number of pixels and on their statistics. So the pictures are
made from the photographs in the scikit-image and scikit-learn packages, and never enlarged: a
picture larger than its photograph is filled with mirror images, which have the same statistics.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo_corpus import PHOTOGRAPHS, photograph
from jobs.machine import num_cores
from pipeline.degrade import RgbImage, compress

# ((height, width), share): the most frequent sizes in ImageNet.
_COMMON_SIZES = (
    ((375, 500), 0.42),
    ((500, 375), 0.13),
    ((333, 500), 0.10),
    ((500, 333), 0.05),
    ((500, 500), 0.03),
    ((480, 640), 0.03),
)
# The others: a log-normal longer side, and aspect ratios from 1 to 1.8.
_MEDIAN_LONG_SIDE, _SIGMA, _LONG_SIDES, _MAX_ASPECT_RATIO = 500.0, 0.65, (48, 4000), 1.8
_SUBSAMPLINGS = {"4:2:0": 0.8, "4:4:4": 0.12, "4:2:2": 0.08}
_PROGRESSIVE_SHARE = 0.05
_QUALITIES = (5, 95)
_SCALES = (0.6, 0.7, 0.8, 0.9, 1.0)


def make_corpus(folder: Path, num_images: int, seed: int) -> None:
    """Write `num_images` JPEGs; equal for equal arguments. A complete folder is reused.

    Raises ValueError when the folder holds anything else, or the photographs are not installed.
    """
    names = [f"s{seed}-{index:06d}.jpg" for index in range(num_images)]
    if folder.is_dir() and any(folder.iterdir()):
        if sorted(os.listdir(folder)) != names:
            raise ValueError(
                f"{str(folder)!r} does not hold {num_images} images of seed {seed}: give another"
                " --corpus, or remove it"
            )
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, names, seed)
    except FileNotFoundError as error:
        shutil.rmtree(partial)
        raise ValueError(f"{error}, or give INPUT") from error
    os.replace(partial, folder)


def _write(folder: Path, names: Sequence[str], seed: int) -> None:
    def write(index: int) -> None:
        (folder / names[index]).write_bytes(make_jpeg(np.random.default_rng([seed, index])))

    with ThreadPoolExecutor(num_cores()) as pool:
        for _ in pool.map(write, range(len(names))):
            pass


def make_jpeg(rng: np.random.Generator) -> bytes:
    """One JPEG of random size, quality, subsampling and coding."""
    subsampling = rng.choice(list(_SUBSAMPLINGS), p=list(_SUBSAMPLINGS.values()))
    return compress(
        natural_picture(rng, *random_size(rng)),
        int(rng.integers(_QUALITIES[0], _QUALITIES[1] + 1)),
        str(subsampling),
        progressive=bool(rng.random() < _PROGRESSIVE_SHARE),
    )


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """(height, width) in pixels, distributed roughly as in ImageNet."""
    place = rng.random()
    for size, share in _COMMON_SIZES:
        place -= share
        if place < 0:
            return size
    long_side = int(np.clip(rng.lognormal(np.log(_MEDIAN_LONG_SIDE), _SIGMA), *_LONG_SIDES))
    short_side = round(long_side / rng.uniform(1.0, _MAX_ASPECT_RATIO))
    return (short_side, long_side) if rng.random() < 0.7 else (long_side, short_side)


def natural_picture(rng: np.random.Generator, height: int, width: int) -> RgbImage:
    """uint8 (height, width, 3): a window of a scaled-down photograph and its mirror images."""
    names = sorted(PHOTOGRAPHS)
    name = names[int(rng.integers(len(names)))]
    photo = _reduced(name, _SCALES[int(rng.integers(len(_SCALES)))])
    rows = _mirrored(rng, height, photo.shape[0])
    return np.ascontiguousarray(photo[rows[:, None], _mirrored(rng, width, photo.shape[1])])


@functools.cache
def _reduced(name: str, scale: float) -> RgbImage:
    photo = photograph(name)
    size = (round(photo.width * scale), round(photo.height * scale))
    return np.asarray(photo.resize(size, Image.Resampling.LANCZOS))


def _mirrored(rng: np.random.Generator, wanted: int, available: int) -> np.ndarray:
    """(wanted,) indices along a side: part of 0, 1, ..., available - 1, ..., 1, 0, 0, 1, ..."""
    start = int(rng.integers(max(1, available - wanted + 1)))
    places = (start + np.arange(wanted)) % (2 * available)
    return np.minimum(places, 2 * available - 1 - places)
