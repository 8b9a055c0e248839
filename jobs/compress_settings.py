"""The settings of `afd compress`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.settings import (
    REQUIRED,
    CollectionSettings,
    require_between,
    require_positive,
    setting,
)
from pipeline.degrade import PROTOCOLS
from pipeline.pairs.compressed_sets import SetRecipe
from pipeline.pairs.recompress import MAX_TIMES
from pipeline.pixels.geometry import Geometry
from pipeline.screening.screen import Limits


@dataclass(frozen=True, kw_only=True)
class CompressSettings(CollectionSettings):
    """Write the paper's test sets: a collection compressed at stated qualities, as JPEG files."""

    MAY_CHANGE = frozenset({"output", "quality", "times", "max_pixels", "workers"})

    output: str = setting(
        REQUIRED, "folder for the sets (q07/, q10/, ...); repeating the command continues them"
    )
    quality: tuple[int, ...] = setting(
        (7, 10, 15, 18, 25), "IJG qualities, 1 to 100, one set for each; class folders are kept"
    )
    times: int = setting(
        0, "also write times1/ to timesN/: 1 to N compressions at random qualities, 5 to 95"
    )
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1"] = setting(
        "4:2:0", "chroma subsampling of every compression"
    )
    shift_grid: bool = setting(
        False,
        "shift the grid of 8x8 blocks between two compressions by a random offset per image, as"
        " when somebody crops a picture and saves it again",
    )
    protocol: Literal["full-image", "imagenet-c"] = setting(
        "full-image",
        "full-image: compress the picture at its full size; imagenet-c: first resize and crop it"
        " to the model's input, compress it, and save the result again at quality 85",
    )
    resize: int = setting(256, "imagenet-c: shorter side after resizing, pixels")
    crop: int = setting(224, "imagenet-c: side of the centre crop, pixels")
    interpolation: Literal["bilinear", "bicubic"] = setting("bilinear", "imagenet-c: resize filter")
    seed: int = setting(0, "random seed of --times and --shift-grid")
    max_pixels: int = setting(
        100_000_000, "images with more pixels (width x height) are left out and listed"
    )
    workers: int = setting(2, "threads that read, compress and write")

    def check_values(self) -> None:
        if not self.quality and not self.times:
            raise ValueError("nothing to write: give --quality or --times")
        require_between(self, 1, 100, "quality")
        require_between(self, 0, MAX_TIMES, "times")
        require_positive(self, "workers")
        self.recipe()  # raises ValueError for an impossible --crop, --resize or --max-pixels

    def recipe(self) -> SetRecipe:
        unused = (0.0, 0.0, 0.0)  # files are not normalised
        return SetRecipe(
            quality=self.quality,
            times=self.times,
            seed=self.seed,
            subsampling=self.subsampling,
            shift_grid=self.shift_grid,
            protocol=PROTOCOLS[self.protocol],
            geometry=Geometry(self.resize, self.crop, self.interpolation, unused, unused),
            limits=Limits(self.max_pixels),
        )
