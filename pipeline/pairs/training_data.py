"""A collection -> clean/compressed pairs for training: shuffled, split among ranks, reproducible.

The images and plans of a step depend on (seed, step) alone. So a resumed run gets the same pairs as
an uninterrupted one, and N ranks together see the same batches as a single one (except for bad
images, which each rank replaces from its own share).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from afd_model.training.pairs import PairBatch
from pipeline.decode import DecodeOptions
from pipeline.inputs.image_names import common_root, relative_name
from pipeline.pairs.decode_training import PairDecoder
from pipeline.pairs.pair_plan import (
    DegradationMix,
    PairPlan,
    training_plan,
    validation_plan,
)
from pipeline.pixels.block_dct import block_dct_on
from pipeline.pixels.geometry import Geometry
from pipeline.pixels.normalize import Normalize
from pipeline.prefetch import prefetch
from pipeline.reading.reading_tasks import read_and_screen
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits

_MAX_BAD_IN_A_ROW = 100


@dataclass(frozen=True, slots=True)
class Rank:
    """This worker's number among `count` equal workers, from 0."""

    index: int = 0
    count: int = 1


def split_held_out(
    refs: Sequence[ImageRef], num_held_out: int
) -> tuple[list[ImageRef], list[ImageRef]]:
    """(training, held-out) images, chosen by a hash of their names in the collection.

    So the split stays the same when the collection is moved. Raises ValueError when no image would
    be held out, or none left to train on.
    """
    if not 0 < num_held_out < len(refs):
        raise ValueError(
            f"{num_held_out} held-out images of {len(refs)}: hold out at least 1 and leave some"
            " (--held-out-images)"
        )
    root = common_root(refs)

    def key(ref: ImageRef) -> bytes:
        return hashlib.blake2b(relative_name(ref, root).encode(), digest_size=16).digest()

    held_out = {id(ref) for ref in sorted(refs, key=key)[:num_held_out]}
    return (
        [ref for ref in refs if id(ref) not in held_out],
        [ref for ref in refs if id(ref) in held_out],
    )


def images_of_step(
    step: int, *, num_images: int, batch_size: int, seed: int, rank: Rank
) -> list[tuple[int, int]]:
    """(epoch, image index) of each pair in a rank's share of a step.

    Every epoch is a new permutation of the images. A step takes the next `batch_size` images, and
    the ranks take turns among them.
    """
    first = step * batch_size
    positions = range(first + rank.index, first + batch_size, rank.count)
    return [
        (p // num_images, int(_permutation(num_images, seed, p // num_images)[p % num_images]))
        for p in positions
    ]


@lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


class PairLoader:
    """References -> `PairBatch`es. Owns a DALI pipeline and reading threads. Not thread-safe.

    options: `batch_size` is per rank. Damaged images are not used.
    """

    def __init__(
        self,
        refs: Sequence[ImageRef],
        geometry: Geometry,
        options: DecodeOptions,
        mix: DegradationMix,
        *,
        limits: Limits | None = None,
        seed: int = 0,
        rank: Rank | None = None,
        read_threads: int = 4,
    ) -> None:
        self._refs, self._geometry, self._options, self._mix = refs, geometry, options, mix
        self._limits = limits or Limits()
        self._seed, self._rank = seed, rank or Rank()
        self._decoder = PairDecoder(
            geometry,
            options,
            max_compressions=mix.max_compressions,
            varied=mix.varied,
        )
        self._normalize = Normalize(geometry, torch.float32, options.device)
        self._block_dct = block_dct_on(options.device, geometry.crop)
        self._pool = ThreadPoolExecutor(read_threads, thread_name_prefix="read")

    def training(self, first_step: int = 0) -> Generator[PairBatch, None, None]:
        """This rank's share of every step from `first_step` on; endless.

        A bad image is replaced by another one of its batch, so that every batch is full. A batch
        without any good image is replaced by that of a later step. Raises ValueError after about
        100 bad images in a row.
        """
        batches = map(self._batch_of, itertools.count(first_step))
        return prefetch(batches, self._options.prefetch_batches)

    def held_out(self) -> Iterator[PairBatch]:
        """This rank's share of the images, once, in order, with the plans of `validation_plan`."""
        return self._one_pass(lambda index, size: validation_plan(index, size, self._geometry))

    def random_pass(self, number: int) -> Iterator[PairBatch]:
        """This rank's share of the images, once, in order, with plans as in training.

        number: passes with different numbers have different plans.
        """
        return self._one_pass(lambda index, size: self._drawn(number, index, size))

    def _one_pass(self, plan: Callable[[int, tuple[int, int]], PairPlan]) -> Iterator[PairBatch]:
        share = range(self._rank.index, len(self._refs), self._rank.count)
        for start in range(0, len(share), self.batch_size):
            chosen = share[start : start + self.batch_size]
            images = self._read(chosen)
            plans = [plan(chosen[image.row], image.size or (0, 0)) for image in images]
            if (batch := self._decoded(images, plans)) is not None:
                yield batch

    @property
    def batch_size(self) -> int:
        return self._options.batch_size

    def _batch_of(self, step: int) -> PairBatch:
        tried: list[int] = []
        while len(tried) < _MAX_BAD_IN_A_ROW:
            chosen = images_of_step(
                step + len(tried) // self.batch_size,
                num_images=len(self._refs),
                batch_size=self.batch_size * self._rank.count,
                seed=self._seed,
                rank=self._rank,
            )
            indices = [index for _, index in chosen]
            images = self._read(indices)
            plans = [self._drawn(*chosen[image.row], image.size or (0, 0)) for image in images]
            if (batch := self._decoded(images, plans)) is not None:
                return _filled(batch, len(chosen))
            tried += indices
        first = self._refs[tried[0]]
        reason = read_and_screen(0, first, self._limits).error
        raise ValueError(
            f"none of {len(set(tried))} images in a row can be used for training; the first"
            f" is {first.uri}" + (f": {reason}" if reason else "")
        )

    def _read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """The undamaged ones of the images; `row` is the position in `indices`."""
        found = self._pool.map(
            lambda place: read_and_screen(place, self._refs[indices[place]], self._limits),
            range(len(indices)),
        )
        return [image for image in found if image.status is Status.OK]

    def _drawn(self, epoch: int, index: int, size: tuple[int, int]) -> PairPlan:
        rng = np.random.default_rng((self._seed, epoch, index))
        return training_plan(rng, size, self._mix, crop=self._geometry.crop)

    def _decoded(self, images: list[EncodedImage], plans: list[PairPlan]) -> PairBatch | None:
        clean, degraded, kept = self._decoder.decode(images, plans)
        if not kept:
            return None
        crop = self._geometry.crop
        facts = [(_stated_quality(images[k], plans[k]), plans[k].enlargement(crop)) for k in kept]
        return PairBatch(
            clean=self._normalize(clean),
            degraded=self._normalize(degraded),
            dct=self._block_dct(degraded),
            file_facts=torch.tensor(facts, device=clean.device),
            compressed=torch.tensor(
                [plans[k].quality is not None for k in kept], device=clean.device
            ),
        )


def _stated_quality(image: EncodedImage, plan: PairPlan) -> float:
    """The quality that the degraded image's header would state; NaN: none."""
    if plan.quality is not None:
        return float(plan.quality)
    return image.stated_quality if plan.reduced_to is None else math.nan


def _filled(batch: PairBatch, size: int) -> PairBatch:
    """The batch, with its pairs repeated in order up to `size` pairs."""
    if len(batch.quality) == size:
        return batch
    again = torch.arange(size, device=batch.quality.device) % len(batch.quality)
    return PairBatch(*(tensor[again] for tensor in batch))
