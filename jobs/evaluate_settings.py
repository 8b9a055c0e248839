"""What `afd evaluate` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.settings import REQUIRED, ClassifierSettings, flag_of, setting


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(ClassifierSettings):
    """Measure what compression costs a classifier and what the AFD-Module gives back."""

    input: str = setting(
        REQUIRED,
        "folder (recursive), glob, tar or manifest of clean images; with folders named by WordNet"
        " id or class name, accuracy is measured beside agreement",
    )
    output: str = setting(REQUIRED, "output folder: report.md, report.json, tables and images")

    afd: str = setting(
        "default",
        "AFD-Module: default (the shipped checkpoint, or untrained: the identity), none, or a file",
    )

    protocol: tuple[str, ...] = setting(
        ("full-image", "imagenet-c"),
        "full-image: JPEG at full size, then resize and crop; imagenet-c: resize and crop, JPEG at"
        " the quality, JPEG at quality 85",
    )
    quality: tuple[int, ...] = setting((25, 18, 15, 10, 7), "IJG qualities, a row of a table each")
    times: int = setting(5, "also 1 to N compressions of random quality, 5 to 95; 0: none")
    num_images: int | Literal["all"] = setting(
        "all", "how many images, evenly spaced over the collection"
    )
    seed: int = setting(0, "of the random qualities and of the bootstrap")
    resamples: int = setting(2000, "bootstrap samples of the 95 % intervals")
    figures: bool = setting(
        False,
        "also draw the paper's Fig. 4, how far features turn with the DCT, from at most 200 of the"
        " images (needs the figures extra)",
    )

    device: Literal["auto", "cuda", "cpu"] = setting("auto", "auto takes CUDA where there is one")
    precision: Literal["auto", "fp16", "bf16", "fp32"] = setting(
        "auto", "of the model; auto: fp16 on CUDA, bf16 on CPUs that have it, else fp32"
    )
    batch_size: int = setting(16, "images in a batch")
    threads: int = setting(2, "threads of the model, of the decoder and of the compression, each")
    max_pixels: int = setting(
        100_000_000, "images with more pixels (width x height) are left out, and counted"
    )

    def __post_init__(self) -> None:
        for value in self.quality:
            if not 1 <= value <= 100:
                raise ValueError(f"--quality {value} is not between 1 and 100")
        for name in self.protocol:
            if name not in ("full-image", "imagenet-c"):
                raise ValueError(f"--protocol {name!r} is not one of: full-image, imagenet-c")
        if not 0 <= self.times <= 20:
            raise ValueError(f"--times {self.times} is not between 0 and 20")
        for name in ("num_images", "resamples", "batch_size", "threads", "max_pixels"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{flag_of(name)} {value} is not positive")
