"""The random plan of one training pair: window, mirroring, compressions.

A plan is a pure function of a random generator and the image's size.
`pipeline.pairs.decode_training` carries it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.degrade import (
    FULL_IMAGE,
    HIGHEST_QUALITY,
    IMAGENET_C,
    CompressionProtocol,
    random_qualities,
)
from pipeline.pixels.geometry import Geometry, crop_window

PAPER_QUALITIES = (7, 10, 15, 18, 25)
HIGH_QUALITY_FROM = 75
_WINDOW_ATTEMPTS = 10


class Colours(NamedTuple):
    """A change of an image's colours: hue in degrees, the others as factors."""

    hue_deg: float = 0.0
    saturation: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0


_MAX_HUE_DEG = 40.0
_MIN_SATURATION, _MAX_SATURATION = 0.4, 1.6
_DARKEST, _BRIGHTEST = 0.7, 1.3  # also the range of contrast

# An image is reduced until its shorter side has this many times the pixels of the training window,
# so that a window has about the scale at which a classifier sees larger images, but at most to
# `_LARGEST_REDUCED` of its size, where an earlier compression begins to fade.
_REDUCED_SIDES = (1.25, 1.75)
_LARGEST_REDUCED = 0.75
_REDUCED_MIN_AREA = 0.6  # of its window, so that this is hardly enlarged
# The shorter sides of a thumbnail, pixels, evenly in their logarithm. It is enlarged to the model's
# input, so that compression changes its label more often than its traces tell.
_THUMBNAIL_SIDES = (48, 224)


@dataclass(frozen=True, slots=True)
class PairPlan:
    """window: (top, left, bottom, right) in pixels of the source, once reduced, float32 (4,).

    full_qualities: of compressions of the whole image, before the window is resampled, in order.
    crop_qualities: of compressions of the resampled window, in order. Both may be empty.
    reduced_to, colours, upside_down: changes to the image before all this. reduced_to: (height,
    width) in pixels, or None: its own; colours None: unchanged.
    """

    window: np.ndarray
    mirrored: bool = False
    full_qualities: tuple[int, ...] = ()
    crop_qualities: tuple[int, ...] = ()
    colours: Colours | None = None
    upside_down: bool = False
    reduced_to: tuple[int, int] | None = None

    @property
    def quality(self) -> int | None:
        """The quality of the last compression; None without one."""
        qualities = self.full_qualities + self.crop_qualities
        return qualities[-1] if qualities else None

    def enlargement(self, crop: int) -> float:
        """By how many doublings the degraded file's sides are enlarged to `crop` pixels.

        0 where they are not, and where the file is the window, compressed after it was resampled.
        """
        top, left, bottom, right = self.window
        if self.crop_qualities:
            return 0.0
        return max(0.0, math.log2(crop / math.sqrt((bottom - top) * (right - left))))


_VARYING_SHARES = ("recoloured_share", "upside_down_share", "reduced_share", "thumbnail_share")


@dataclass(frozen=True, slots=True)
class DegradationMix:
    """The mix of degradations in training, as shares of all pairs, each from 0 to 1.

    Attributes:
        clean_share: not compressed.
        high_quality_share: compressed once, at quality 75 to 95.
        multiple_share: compressed 2 to `max_compressions` times, at 5 to 95: a third each on the
            whole image, on the window, and on first the image and then the window, which also
            shifts the 8x8 grid in between.
        paper_share: of the remaining pairs, which are compressed once: those at one of the paper's
            qualities. The others are at 5 to 95.
        imagenet_c_share: of all pairs compressed once: those compressed on the window, and again at
            quality 85. The others are compressed on the whole image.
        min_area: the smallest window, as a share of the image's area.
        recoloured_share, upside_down_share: of all pairs, independent of the shares above:
            augmentation.
        reduced_share: of all pairs, independent of the shares above: those whose image is first
            reduced, if it is large enough. What an earlier compression left in an image would be
            taught as clean; reduced, it is nearly gone.
        thumbnail_share: likewise, those whose image is first made a thumbnail, which is then
            compressed as a whole.
    """

    clean_share: float = 0.10
    high_quality_share: float = 0.08
    multiple_share: float = 0.20
    paper_share: float = 0.60
    imagenet_c_share: float = 0.50
    max_compressions: int = 5
    min_area: float = 0.35
    recoloured_share: float = 0.0
    upside_down_share: float = 0.0
    reduced_share: float = 0.0
    thumbnail_share: float = 0.0

    @property
    def varied(self) -> bool:
        """Whether images may be changed before they are compressed."""
        return any(getattr(self, name) for name in _VARYING_SHARES)

    def __post_init__(self) -> None:
        shares = ("clean_share", "high_quality_share", "multiple_share")
        others = ("paper_share", "imagenet_c_share", "min_area")
        for name in (*shares, *others, *_VARYING_SHARES):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")
        if (total := sum(getattr(self, name) for name in shares)) > 1.0 + 1e-9:
            raise ValueError(f"{' + '.join(shares)} is {total:g}: at most 1")
        if self.min_area <= 0.0:
            raise ValueError(f"min_area {self.min_area} is not positive")
        if self.max_compressions < 2:
            raise ValueError(f"max_compressions {self.max_compressions}: use at least 2")


def training_plan(
    rng: np.random.Generator, size: tuple[int, int], mix: DegradationMix, *, crop: int
) -> PairPlan:
    """Draw the plan of a training pair.

    size: (height, width) of the image in pixels; crop: side of the training window, pixels.
    """
    plan = _degradation(rng, size, mix)
    # A share of 0 draws no number: what is drawn behind it stays as in a mix without that share.
    if mix.recoloured_share and rng.random() < mix.recoloured_share:
        plan = replace(plan, colours=_random_colours(rng))
    if mix.upside_down_share and rng.random() < mix.upside_down_share:
        plan = replace(plan, upside_down=True)
    if mix.reduced_share and rng.random() < mix.reduced_share:
        plan = _reduced(rng, size, mix, crop, plan)
    if mix.thumbnail_share and rng.random() < mix.thumbnail_share:
        plan = _thumbnail(rng, size, mix, plan)
    return plan


def _reduced(
    rng: np.random.Generator,
    size: tuple[int, int],
    mix: DegradationMix,
    crop: int,
    plan: PairPlan,
) -> PairPlan:
    """The plan with its image reduced, and a new window; unchanged if the image is too small."""
    shorter = min(size)
    smallest, largest = (min(crop * x, shorter * _LARGEST_REDUCED) for x in _REDUCED_SIDES)
    if largest < crop:
        return plan
    return _of_side(rng, size, mix, rng.uniform(smallest, largest), plan)


def _thumbnail(
    rng: np.random.Generator, size: tuple[int, int], mix: DegradationMix, plan: PairPlan
) -> PairPlan:
    """The plan with its image as a thumbnail, all of whose compressions are of the whole image."""
    smallest, largest = (min(side, *size) for side in _THUMBNAIL_SIDES)
    side = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    qualities = plan.full_qualities + plan.crop_qualities
    plan = replace(plan, full_qualities=qualities, crop_qualities=())
    return _of_side(rng, size, mix, side, plan)


def _of_side(
    rng: np.random.Generator,
    size: tuple[int, int],
    mix: DegradationMix,
    shorter_side: float,
    plan: PairPlan,
) -> PairPlan:
    """The plan with its image reduced to a shorter side, in pixels, and a new window."""
    factor = shorter_side / min(size)
    height, width = (round(side * factor) for side in size)
    window = random_window(rng, (height, width), max(mix.min_area, _REDUCED_MIN_AREA))
    return replace(plan, reduced_to=(height, width), window=window)


def largest_reduced_crop(shorter_side: float) -> int:
    """The largest training window, pixels, for which such images are reduced as they should be.

    A multiple of 8. Images with larger windows are reduced less, or not at all.
    """
    return int(shorter_side * _LARGEST_REDUCED / _REDUCED_SIDES[0]) // 8 * 8


def _random_colours(rng: np.random.Generator) -> Colours:
    return Colours(
        rng.uniform(-_MAX_HUE_DEG, _MAX_HUE_DEG),
        rng.uniform(_MIN_SATURATION, _MAX_SATURATION),
        rng.uniform(_DARKEST, _BRIGHTEST),
        rng.uniform(_DARKEST, _BRIGHTEST),
    )


def _degradation(rng: np.random.Generator, size: tuple[int, int], mix: DegradationMix) -> PairPlan:
    window = random_window(rng, size, mix.min_area)
    mirrored = bool(rng.random() < 0.5)
    kind = rng.random()
    if kind < mix.clean_share:
        return PairPlan(window, mirrored)
    kind -= mix.clean_share
    if kind < mix.high_quality_share:
        quality = int(rng.integers(HIGH_QUALITY_FROM, HIGHEST_QUALITY, endpoint=True))
        return _once(rng, window, mirrored, quality, mix)
    kind -= mix.high_quality_share
    if kind < mix.multiple_share:
        times = int(rng.integers(2, mix.max_compressions, endpoint=True))
        qualities = random_qualities(rng, times)
        cut = int(rng.choice([0, int(rng.integers(1, times)), times]))
        return PairPlan(window, mirrored, qualities[:cut], qualities[cut:])
    if rng.random() < mix.paper_share:
        return _once(rng, window, mirrored, int(rng.choice(PAPER_QUALITIES)), mix)
    (quality,) = random_qualities(rng, 1)
    return _once(rng, window, mirrored, quality, mix)


def _once(
    rng: np.random.Generator,
    window: np.ndarray,
    mirrored: bool,
    quality: int,
    mix: DegradationMix,
) -> PairPlan:
    protocol = IMAGENET_C if rng.random() < mix.imagenet_c_share else FULL_IMAGE
    return _by_protocol(protocol, quality, window, mirrored=mirrored)


def _by_protocol(
    protocol: CompressionProtocol, quality: int, window: np.ndarray, *, mirrored: bool
) -> PairPlan:
    qualities = (quality, *protocol.later_qualities)
    if protocol.applies_to == "full_image":
        return PairPlan(window, mirrored, full_qualities=qualities)
    return PairPlan(window, mirrored, crop_qualities=qualities)


# The clean image (None), and each protocol at each of the paper's qualities.
VALIDATION_CONDITIONS: tuple[tuple[CompressionProtocol, int] | None, ...] = (
    None,
    *((protocol, q) for q in PAPER_QUALITIES for protocol in (FULL_IMAGE, IMAGENET_C)),
)


def validation_plan(index: int, size: tuple[int, int], geometry: Geometry) -> PairPlan:
    """The validation pair of held-out image `index`, with the model's own window.

    Successive indices cycle through `VALIDATION_CONDITIONS`, so that each gets the same share.
    """
    window = crop_window(size, geometry)
    condition = VALIDATION_CONDITIONS[index % len(VALIDATION_CONDITIONS)]
    if condition is None:
        return PairPlan(window)
    protocol, quality = condition
    return _by_protocol(protocol, quality, window, mirrored=False)


def random_window(rng: np.random.Generator, size: tuple[int, int], min_area: float) -> np.ndarray:
    """As torchvision's RandomResizedCrop: `min_area` to 1 of the area, aspect ratio 3:4 to 4:3.

    size: (height, width). Returns (top, left, bottom, right) in pixels, float32 (4,).
    """
    height, width = size
    for _ in range(_WINDOW_ATTEMPTS):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            top, left = rng.uniform(0, height - h), rng.uniform(0, width - w)
            break
    else:  # a very long image: its centre square
        w = h = min(height, width)
        top, left = (height - h) / 2, (width - w) / 2
    return np.array([top, left, top + h, left + w], np.float32)
