"""Measures what an image costs in each stage, with no other stage running.

On a CPU each stage has one thread, as in the label job's workers, and its cost is CPU time, which
other work on the machine affects little. On CUDA the cost is wall time until the device is done,
and all workers decode at the same time, as in the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from afd_model.afd_module import AFDModule
from afd_model.classifier import AFDClassifier
from afd_model.drift import Drift
from afd_model.inference.predictor import Predictor
from jobs.model import backbone_of, load_model
from jobs.settings import LabelSettings
from pipeline.inputs.image_bytes import read_image
from pipeline.jpeg_scan import JpegFormatError, scan_jpeg
from pipeline.label_shard import label_shard
from pipeline.output import OutputFolder
from pipeline.pixels.block_dct import BlockDct
from pipeline.records import EncodedImage, ImageRef, Shard
from pipeline.screening.screen import Limits, screen
from pipeline.shards import cut
from pipeline.sink import write_part
from pipeline.stage_clock import StageClock

_MODEL_BATCHES = {"cpu": 2, "cuda": 8}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of all threads and wall time of a stage for `images` images."""

    images: int
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch for the model, on its device.

    pixels: (B, 3, crop, crop). dct: (B, 192, crop/8, crop/8). rgb: (B, crop, crop, 3) uint8 on the
    host; random, because the cost of the DCT does not depend on the content.
    """

    pixels: Tensor
    dct: Tensor
    rgb: Tensor


class Stages:
    """Loads what the stages need; each call of `measure` runs every stage once.

    num_threads: of the decoder and of the model. scratch: a folder for parts.
    Raises ValueError, worded for the user, as `load_model` does.
    """

    def __init__(
        self, settings: LabelSettings, refs: Sequence[ImageRef], *, num_threads: int, scratch: Path
    ) -> None:
        self._refs = refs
        self._limits = Limits(settings.max_pixels, settings.integrity)
        self._scratch = OutputFolder(str(scratch))
        self._scratch.create()
        self._model = load_model(settings, num_threads=num_threads)
        self._predictor = self._model.predictor
        self._cuda = self._predictor.device.type == "cuda"
        self._files = [data for ref in refs if (data := _bytes_of(ref)) is not None]
        self._batches = self._take_batches(_MODEL_BATCHES[self._predictor.device.type])
        crop = self._batches[0].rgb.shape[1]
        self._backbone = _without_module(settings, self._predictor, crop)
        # The other engines compile module and backbone into one graph: no time for the module.
        separate = settings.afd != "none" and self._model.host["engine"] == "torch"
        self._afd_calls = self._take_afd_calls() if separate else []
        self._block_dct = BlockDct(crop)
        self._dct = torch.empty(self._batches[0].dct.shape)
        self._table = self._make_table(len(next(cut(refs, settings.images_per_shard))))

    @property
    def host(self) -> dict[str, str | int]:
        return {**self._model.host, "batch_size": self._model.decoder.batch_size}

    @property
    def facts(self) -> dict[str, str | None]:
        return self._model.facts

    def measure(self, decode: Callable[[], Cost] | None = None) -> dict[str, Cost]:
        """stage -> cost, in the order of the data path.

        decode: a function that measures decoding; None: it is measured here, with one decoder.
        """
        files, images = len(self._files), sum(len(batch.pixels) for batch in self._batches)
        costs = {
            "read": self._timed(len(self._refs), self._read),
            "header_scan": self._timed(files, self._scan),
            "screen": self._timed(files, self._screen),
            **({"decode_and_dct": decode()} if decode else self._decoding()),
            "backbone": self._timed(images, lambda: self._predict(self._backbone)),
            "model": self._timed(images, lambda: self._predict(self._predictor)),
        }
        if self._afd_calls:
            costs["afd_module"] = self._timed(images, self._enhance)
        costs["write"] = self._timed(self._table.num_rows, self._write)
        return costs

    def _timed(self, images: int, step: Callable[[], object]) -> Cost:
        self._synchronise()
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        self._synchronise()
        return Cost(images, time.process_time() - cpu, time.perf_counter() - wall)

    def _synchronise(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._predictor.device)

    def _read(self) -> None:
        for ref in self._refs:
            _bytes_of(ref)

    def _scan(self) -> None:
        """Only the marker scan, which is also a part of `_screen`."""
        for data in self._files:
            try:
                scan_jpeg(data)
            except JpegFormatError:
                continue

    def _screen(self) -> list[EncodedImage]:
        images = [EncodedImage(row, data) for row, data in enumerate(self._files)]
        for image in images:
            screen(image, self._limits)
        return images

    def _decoding(self) -> dict[str, Cost]:
        """The cost of the decoder as the job runs it on a CPU, and of its parts.

        The DCT runs in this thread and the rest in DALI's threads, so this thread's CPU time is
        that of the DCT.
        """
        screened = self._screen()
        images = sum(image.decodable for image in screened)
        clock = StageClock(time.thread_time)
        decoded: list[int] = []
        whole = self._timed(images, lambda: decoded.extend(self._decode(screened, clock)))
        accepted = sum(image.decodable for image in screened)  # those the decoder did not refuse
        if sum(decoded) != accepted:
            raise RuntimeError(f"{sum(decoded)} of {accepted} images were decoded")
        dct_s = clock.seconds["dct"]
        costs = {
            "decode_and_dct": whole,
            "decode": replace(whole, cpu_s=whole.cpu_s - dct_s, wall_s=whole.wall_s - dct_s),
        }
        if self._batches[0].dct.numel():  # empty without a module
            num_crops = sum(len(batch.rgb) for batch in self._batches)
            costs["dct"] = self._timed(num_crops, self._transform)
        return costs

    def _decode(self, images: Iterable[EncodedImage], clock: StageClock) -> list[int]:
        return [len(batch.images) for batch in self._model.decoder.decode(images, clock)]

    def _transform(self) -> None:
        for batch in self._batches:
            self._block_dct(batch.rgb, out=self._dct[: len(batch.rgb)])

    def _predict(self, predictor: Predictor) -> None:
        for batch in self._batches:
            predictor(batch.pixels, batch.dct)

    @torch.inference_mode()
    def _enhance(self) -> None:
        for call in self._afd_calls:
            call()

    def _write(self) -> None:
        write_part(self._scratch, 0, self._table, {})

    def _make_table(self, num_rows: int) -> pa.Table:
        """The rows of a whole shard: those of one batch, repeated."""
        table = label_shard(
            Shard(0, tuple(self._refs[: self._model.decoder.batch_size])),
            decoder=self._model.decoder,
            predict=self._predictor,
            class_names=self._model.class_names,
            limits=self._limits,
        ).table
        copies = -(-num_rows // table.num_rows)
        return pa.concat_tables([table] * copies).slice(0, num_rows).combine_chunks()

    def _take_batches(self, count: int) -> list[Inputs]:
        """The first `count` decoded batches, kept on the model's device."""
        batches: list[Inputs] = []
        for batch in self._model.decoder.decode(self._screen(), StageClock()):
            if len(batches) < count:
                shape = (len(batch.images), *batch.pixels.shape[2:], 3)
                rgb = torch.randint(0, 256, shape, dtype=torch.uint8)
                batches.append(Inputs(batch.pixels.clone(), batch.dct.clone(), rgb))
        if not batches:
            raise ValueError("none of the images can be decoded: give others")
        return batches

    def _take_afd_calls(self) -> list[Callable[[], object]]:
        """The calls that the model makes to the AFD-Module, recorded so that they can be repeated.

        The predictor splits a batch into parts, and calls the module for each of them.
        """
        calls: list[Callable[[], object]] = []
        model = self._predictor.model
        assert model.afd is not None
        enhance = model.enhance

        def recorded(
            module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
        ) -> tuple[Tensor, Drift]:
            calls.append(partial(enhance, module, features.clone(), dct.clone()))
            return enhance(module, features, dct, out)

        def record(correction: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls.append(partial(correction, inputs[0].clone()))

        model.enhance = recorded
        hooks = [layer.register_forward_pre_hook(record) for layer in model.afd.stage_corrections]
        try:
            self._predict(self._predictor)
        finally:
            model.enhance = enhance
            for hook in hooks:
                hook.remove()
        return calls


def _bytes_of(ref: ImageRef) -> bytes | None:
    try:
        return read_image(ref)
    except OSError:  # the label job would report it as unreadable
        return None


def _without_module(settings: LabelSettings, like: Predictor, crop: int) -> Predictor:
    """A predictor like `like`, but of the backbone without a module."""
    backbone = backbone_of(settings)
    return Predictor(
        AFDClassifier(backbone, None),
        device=like.device,
        precision=like.precision,
        top_k=settings.top_k,
        engine=like.engine,
        crop=crop,
        num_images=like.num_images,
    )
