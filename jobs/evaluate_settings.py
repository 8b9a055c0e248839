"""The settings of `afd evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.settings import (
    REQUIRED,
    ClassifierSettings,
    ClassNamesSettings,
    device_setting,
    precision_setting,
    require_between,
    require_positive,
    setting,
)
from pipeline.pairs.recompress import MAX_TIMES


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(ClassNamesSettings, ClassifierSettings):
    """Measure what compression costs a classifier and how much the AFD-Module recovers."""

    input: str = setting(
        REQUIRED,
        "folder (recursive), glob, tar, Parquet file or manifest of clean images; if their folders"
        " are named by WordNet id or class name, accuracy is measured as well as agreement",
        positional=True,
    )
    output: str = setting(REQUIRED, "output folder: report.md, report.json, tables and images")

    afd: str = setting(
        "default",
        "AFD-Module: default (the shipped checkpoint if there is one, else the identity), none, or"
        " a checkpoint file",
    )

    protocol: tuple[Literal["full-image", "imagenet-c"], ...] = setting(
        ("full-image", "imagenet-c"),
        "full-image: JPEG at full size, then resize and crop; imagenet-c: resize and crop, JPEG at"
        " the stated quality, then JPEG at quality 85",
    )
    quality: tuple[int, ...] = setting((25, 18, 15, 10, 7), "IJG qualities, one table row for each")
    times: int = setting(5, "also 1 to N compressions at random qualities, 5 to 95; 0: none")
    num_images: int | Literal["all"] = setting(
        "all", "number of images, evenly spaced over the collection"
    )
    seed: int = setting(0, "random seed for the qualities of --times and for the bootstrap")
    resamples: int = setting(2000, "bootstrap samples for the 95 % intervals")
    figures: bool = setting(
        False,
        "also draw the paper's Fig. 4 (angle between features against angle between DCT"
        " coefficients) from at most 200 of the images; needs the figures extra",
    )

    device: Literal["auto", "cuda", "cpu"] = device_setting()
    precision: Literal["auto", "fp16", "bf16", "fp32"] = precision_setting()
    batch_size: int = setting(16, "images per batch")
    threads: int = setting(2, "threads for each of the model, the decoder and the compression")
    max_pixels: int = setting(
        100_000_000, "images with more pixels (width x height) are left out and counted"
    )

    def check_values(self) -> None:
        require_between(self, 1, 100, "quality")
        require_between(self, 0, MAX_TIMES, "times")
        require_positive(self, "num_images", "resamples", "batch_size", "threads", "max_pixels")
        if not self.protocol:
            raise ValueError("nothing to measure: give --protocol a name")
        if not self.quality and not self.times:
            raise ValueError("nothing to measure: give --quality, or --times")
