"""The settings of `afd explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.settings import (
    REQUIRED,
    BackboneSettings,
    ClassNamesSettings,
    device_setting,
    require_between,
    require_positive,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class ExplainSettings(ClassNamesSettings, BackboneSettings):
    """Draw what compression does to an image inside the classifier: one PNG per image."""

    images: tuple[str, ...] = setting(
        REQUIRED,
        "image files, or folders, globs, tars, Parquet files and manifests of them",
        positional=True,
    )
    output: str = setting("explained", "folder for the pictures, one PNG per image, named after it")

    afd: str = setting(
        "default",
        "AFD-Module: default (the shipped checkpoint if there is one, else the identity), none, or"
        " a checkpoint file",
    )

    clean: str = setting(
        "none",
        "the images' clean originals: a folder that holds them under the same names, or one file"
        " for one image; none: not known",
    )
    quality: int | Literal["none"] = setting(
        "none", "treat the images as clean originals, and first compress each at this IJG quality"
    )

    device: Literal["auto", "cuda", "cpu"] = device_setting()
    dpi: int = setting(150, "dots per inch of the pictures, which are up to 14 inches wide")
    max_pixels: int = setting(
        100_000_000,
        "images with more pixels (width x height) are refused before memory is allocated for them",
    )

    def check_values(self) -> None:
        require_between(self, 1, 100, "quality")
        require_between(self, 20, 1200, "dpi")
        require_positive(self, "max_pixels")
        if self.quality != "none" and self.clean != "none":
            raise ValueError(
                f"--clean {self.clean} and --quality {self.quality} exclude each other: with"
                " --quality the image itself is the clean original"
            )
