"""Images -> a model's results for them, clean and under each condition of the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from pipeline.decode import DecodeOptions, Decoder
from pipeline.degrade import CompressionProtocol, RgbImage
from pipeline.pairs.recompress import compressed_file, drawn_qualities, open_rgb
from pipeline.pixels.batches import num_pixels
from pipeline.pixels.geometry import Geometry
from pipeline.reading.reading_tasks import read_and_screen
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits
from pipeline.stage_clock import StageClock


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of a table: a protocol with one compression at `quality`, or `times` random ones.

    Without either: the clean image.
    """

    protocol: CompressionProtocol | None = None
    quality: int | None = None
    times: int | None = None

    def qualities(self, name: str, seed: int) -> tuple[int, ...]:
        """The qualities of the compressions of the image called `name`."""
        if self.times is not None:
            return drawn_qualities(name, seed, self.times)
        return () if self.quality is None else (self.quality,)


CLEAN = Condition()
_MOST_PIXELS = 128_000_000  # of the originals that are held while they are compressed, 3 bytes each


class Model(Protocol):
    """See `afd_model.evaluation.evaluator.Evaluator`. `measure` takes a result of `clean_stem`."""

    def clean_stem(self, pixels: torch.Tensor) -> Any: ...
    def measure(
        self,
        pixels: torch.Tensor,
        dct: torch.Tensor,
        clean_stem: Any,
        file_facts: torch.Tensor,
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class MeasuredChunk:
    """The results of one batch.

    indices: of its images, in the evaluated list. outcomes: the images' results per condition.
    left_out: (index, reason) of the images that cannot be evaluated.
    """

    indices: list[int]
    outcomes: dict[Condition, Any]
    left_out: list[tuple[int, str]]


class ImageEvaluator:
    """Evaluates images under every condition. Owns two decoders and a thread pool."""

    def __init__(
        self,
        model: Model,
        geometry: Geometry,
        options: DecodeOptions,
        *,
        conditions: Sequence[Condition],
        seed: int,
        limits: Limits,
    ) -> None:
        self._model, self._geometry, self._limits = model, geometry, limits
        self._conditions = [c for c in conditions if c != CLEAN]
        self._seed = seed
        self._batch_size = options.batch_size
        self._decoder = Decoder(geometry, options)
        # For images that were compressed as the model's window: no resize.
        self._window_decoder = Decoder(replace(geometry, resize=None), options)
        self._pool = ThreadPoolExecutor(options.num_threads, thread_name_prefix="compress")

    def measure(self, refs: Sequence[ImageRef], names: Sequence[str]) -> Iterator[MeasuredChunk]:
        """Every image under every condition, in batches; large images in smaller ones.

        names: one per reference; it determines the random qualities.
        """
        for start in range(0, len(refs), self._batch_size):
            stop = min(start + self._batch_size, len(refs))
            rows = range(start, stop)
            images = list(self._pool.map(lambda k: read_and_screen(k, refs[k], self._limits), rows))
            for group in _of_few_pixels(images):
                yield self._measure_batch(group, names)

    def _measure_batch(self, images: list[EncodedImage], names: Sequence[str]) -> MeasuredChunk:
        originals: dict[int, RgbImage] = {}
        left_out = []
        for image in images:
            try:
                if image.status is not Status.OK:
                    raise ValueError(image.error)
                originals[image.row] = open_rgb(image.data)
            except ValueError as error:
                left_out.append((image.row, str(error)))
        usable = [image for image in images if image.row in originals]
        rows, pixels, dct, file_facts = _decoded(self._decoder, usable)
        refused = [i for i in usable if i.row not in rows]
        left_out += [(i.row, i.error or "cannot be decoded") for i in refused]
        if not rows:
            return MeasuredChunk([], {}, sorted(left_out))
        stem = self._model.clean_stem(pixels)
        outcomes = {CLEAN: self._model.measure(pixels, dct, stem, file_facts)}
        for condition in self._conditions:
            outcomes[condition] = self._measure_under(condition, rows, originals, names, stem)
        return MeasuredChunk(rows, outcomes, sorted(left_out))

    def _measure_under(
        self,
        condition: Condition,
        rows: list[int],
        originals: dict[int, RgbImage],
        names: Sequence[str],
        stem: Any,
    ) -> Any:
        protocol = condition.protocol
        assert protocol is not None
        qualities = {row: condition.qualities(names[row], self._seed) for row in rows}
        on_window = protocol.applies_to == "model_input"

        def compressed(row: int) -> EncodedImage:
            data = compressed_file(
                originals[row], qualities[row], protocol=protocol, geometry=self._geometry
            )
            side = self._geometry.crop
            size = (side, side) if on_window else originals[row].shape[:2]
            return EncodedImage(row, data, size=size)

        images = list(self._pool.map(compressed, rows))
        decoder = self._window_decoder if on_window else self._decoder
        found, pixels, dct, file_facts = _decoded(decoder, images)
        if found != rows:
            raise RuntimeError(f"the decoder refused JPEGs made here: {set(rows) - set(found)}")
        file_facts[:, 0] = torch.tensor([protocol.stated_quality(qualities[row]) for row in rows])
        return self._model.measure(pixels, dct, stem, file_facts)


def _of_few_pixels(images: list[EncodedImage]) -> Iterator[list[EncodedImage]]:
    """The images in order, in groups whose pictures fit into memory together."""
    group: list[EncodedImage] = []
    for image in images:
        if group and num_pixels([*group, image]) > _MOST_PIXELS:
            yield group
            group = []
        group.append(image)
    yield group


def _decoded(
    decoder: Decoder, images: list[EncodedImage]
) -> tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows, pixels, dct, file_facts) of the images that decode, in the order of their rows."""
    rows: list[int] = []
    parts = []
    for batch in decoder.decode(images, StageClock()):
        rows += [image.row for image in batch.images]
        parts.append((batch.pixels.clone(), batch.dct.clone(), batch.file_facts))
    if not parts:
        return [], torch.empty(0), torch.empty(0), torch.empty(0, 2)
    order = sorted(range(len(rows)), key=lambda k: rows[k])
    pixels, dct, facts = (torch.cat(tensors)[order] for tensors in zip(*parts, strict=True))
    return [rows[k] for k in order], pixels, dct, facts
