"""A corpus as a crawl finds it: small photographs, some of 12 to 50 megapixels, some damaged.

    python benchmarks/mixed_corpus.py FOLDER [--images 400] [--huge 12] [--seed 0]

Of the small ones (500x375) one in twenty is progressive, in thirty grey, in fifty CMYK, and one in
thirty is damaged; of the huge ones every third is progressive, one grey and one CMYK.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.benchmarking.corpus import natural_picture
from jobs.demo_corpus import flip_bits
from pipeline.degrade import RgbImage

_HUGE_MEGAPIXELS = (12, 50)


def jpeg(rgb: RgbImage, quality: int, mode: str, *, progressive: bool) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(file, "JPEG", quality=quality, progressive=progressive)
    return file.getvalue()


def small(rng: np.random.Generator, number: int) -> bytes:
    size = (375, 500) if rng.random() < 0.75 else (500, 375)
    mode = "L" if number % 30 == 3 else "CMYK" if number % 50 == 7 else "RGB"
    data = jpeg(
        natural_picture(rng, *size), int(rng.integers(20, 96)), mode, progressive=number % 20 == 5
    )
    if number % 30 != 11:
        return data
    damaged = (
        data[: len(data) // 2],
        flip_bits(data, rng, flips=20, start=700),
        b"",
        b"<html>no picture</html>",
    )
    return damaged[number // 30 % len(damaged)]


def huge(rng: np.random.Generator, number: int, count: int) -> bytes:
    """From the smallest to the largest as `number` goes up to `count`."""
    megapixels = np.interp(number, (0, max(1, count - 1)), _HUGE_MEGAPIXELS)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    picture = natural_picture(rng, height, height * 4 // 3)
    mode = {4: "L", 7: "CMYK"}.get(number, "RGB")
    return jpeg(picture, int(rng.integers(75, 93)), mode, progressive=number % 3 == 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--huge", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    places = {
        int(place): number
        for number, place in enumerate(rng.choice(options.images, options.huge, replace=False))
    }
    for index in range(options.images):
        which = places.get(index)
        data = small(rng, index) if which is None else huge(rng, which, options.huge)
        (options.folder / f"{index:06d}.jpg").write_bytes(data)


if __name__ == "__main__":
    main()
