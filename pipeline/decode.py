"""The DALI graph: encoded bytes -> normalised pixels and DCT coefficients. Nothing else decodes.

One graph serves the CPU and CUDA; on CUDA everything from the JPEG decoder on runs on the device.
It runs at a queue depth of one and is fed ahead by hand: every fed batch then gives exactly one
result or one error, in order, and a refused batch leaves the pipeline usable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from afd_model.dct import DCT_CHANNELS, JFIF_RGB_TO_YCBCR
from pipeline.block_dct import LEVEL_SHIFT, BlockDct, order_mfcc_spectra
from pipeline.geometry import DCT_BLOCK, Geometry, crop_window
from pipeline.normalize import Normalize
from pipeline.records import DecodedBatch, EncodedImage
from pipeline.rescue import give_up, is_refusal, split_refused
from pipeline.stage_clock import StageClock

_INTERPOLATION = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Where and how to decode.

    device: "cpu", or "cuda" for DALI's mixed decoder.
    batch_size: images a batch; prefetch_batches: batches decoded ahead of the one in use.
    num_threads: DALI's CPU threads (on CUDA they do the Huffman decoding).
    dtype: of the normalised pixels, any floating one.
    hw_decoder_load: share of the JPEGs given to the GPU's hardware decoder, where it has one.
    dct: extract DCT coefficients; False where no module looks at them: then they have no channels.
    dct_in_graph: extract the DCT with DALI's own operators on a CPU too, where they cost seven
        times as much as `BlockDct`. On CUDA nothing else does.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    device_id: int = 0
    batch_size: int = 32
    num_threads: int = 2
    prefetch_batches: int = 2
    dtype: torch.dtype = torch.float32
    hw_decoder_load: float = 0.65
    dct: bool = True
    dct_in_graph: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_threads", "prefetch_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not positive: use at least 1")


def decode_rgb(encoded: Any, options: DecodeOptions) -> Any:
    """Graph node: the pictures as (height, width, 3) uint8 on the options' device."""
    on_gpu: dict[str, Any] = (
        {"hw_decoder_load": options.hw_decoder_load} if options.device == "cuda" else {}
    )
    return fn.decoders.image(
        encoded,
        device="mixed" if options.device == "cuda" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,  # as PIL: the pixels as they are stored
        jpeg_fancy_upsampling=True,  # as libjpeg
        **on_gpu,
    )


def resample_window(rgb: Any, window: Any, geometry: Geometry) -> Any:
    """Graph node: a window of the picture as (crop, crop, 3) uint8; see `crop_window`."""
    return fn.resize(
        rgb,
        size=[geometry.crop, geometry.crop],
        roi_start=window[0:2],
        roi_end=window[2:4],
        interp_type=_INTERPOLATION[geometry.interpolation],
        antialias=True,
        dtype=types.UINT8,
    )


def _cut_window(rgb: Any, window: Any, geometry: Geometry) -> Any:
    """Graph node: the same without resampling, black where the window leaves the picture."""
    return fn.slice(
        rgb,
        start=fn.cast(window[0:2], dtype=types.INT32),
        shape=[geometry.crop, geometry.crop],
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


def _mfcc_dct(rgb: Any, side: int) -> Any:
    """The DCT by DALI's operators: spectra for `order_mfcc_spectra`, from (side, side, 3) uint8.

    There is no DCT operator, but mfcc of 8 coefficients is the orthonormal DCT-II along an axis.
    DALI's own YCbCr is limited-range BT.601, hence the JFIF matrix.
    """
    blocks = side // DCT_BLOCK
    matrix = [value for row in JFIF_RGB_TO_YCBCR for value in row]
    ycbcr = fn.coord_transform(rgb, M=matrix, T=[-LEVEL_SHIFT, 0.0, 0.0])
    rows = fn.reshape(ycbcr, shape=[blocks, DCT_BLOCK, side * 3])
    rows = fn.mfcc(rows, axis=1, dct_type=2, n_mfcc=DCT_BLOCK, normalize=True)
    columns = fn.reshape(rows, shape=[blocks * DCT_BLOCK * blocks, DCT_BLOCK, 3])
    return fn.mfcc(columns, axis=1, dct_type=2, n_mfcc=DCT_BLOCK, normalize=True)


def _normalized(rgb: Any, geometry: Geometry, dtype: torch.dtype) -> Any:
    """Graph node: what `Normalize` does; DALI has no bfloat16, for which it is float32."""
    return fn.crop_mirror_normalize(
        rgb,
        dtype=types.FLOAT16 if dtype == torch.float16 else types.FLOAT,
        output_layout="HWC",
        mean=[255 * value for value in geometry.mean],
        std=[255 * value for value in geometry.std],
    )


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=1)
def _graph(geometry: Geometry, options: DecodeOptions, *, dct_in_graph: bool) -> tuple[Any, ...]:
    """Pixels, normalised on CUDA alone, and where it is asked for the DCT's spectra."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    window = fn.external_source(name="window", dtype=types.FLOAT, ndim=1)
    place = _cut_window if geometry.resize is None else resample_window
    crop = place(decode_rgb(encoded, options), window, geometry)
    on_gpu = options.device == "cuda"
    pixels = _normalized(crop, geometry, options.dtype) if on_gpu else crop
    return (pixels, _mfcc_dct(crop, geometry.crop)) if dct_in_graph else (pixels,)


class Decoder:
    """A running DALI pipeline. Not thread-safe; one shard at a time."""

    def __init__(self, geometry: Geometry, options: DecodeOptions) -> None:
        self.batch_size = options.batch_size
        self._geometry = geometry
        self._prefetch_batches = options.prefetch_batches
        cuda = options.device == "cuda"
        in_graph = options.dct and (cuda or options.dct_in_graph)
        self._block_dct = BlockDct(geometry.crop) if options.dct and not in_graph else None
        blocks = geometry.crop // DCT_BLOCK
        self._dct = torch.empty(
            0 if in_graph else options.batch_size,
            DCT_CHANNELS if options.dct else 0,
            blocks,
            blocks,
        )
        self._dtype = options.dtype
        self._normalize = None if cuda else Normalize(geometry, options.dtype)
        side = geometry.crop
        self._pixels = torch.empty(
            0 if cuda else options.batch_size, side, side, 3, dtype=options.dtype
        )
        self._in_flight: deque[list[EncodedImage]] = deque()
        self._pipeline = _graph(
            geometry,
            options,
            dct_in_graph=in_graph,
            batch_size=options.batch_size,
            num_threads=options.num_threads,
            device_id=options.device_id if cuda else None,
        )
        self._pipeline.build()

    def decode(
        self, images: Iterable[EncodedImage], clock: StageClock
    ) -> Generator[DecodedBatch, None, None]:
        """Decode what is decodable, in batches, a few ahead of the caller.

        Every image that decodes is in exactly one batch, in input order but for the neighbours of
        an image that the decoder refused: they come later. A refused image is marked rejected.
        A batch's tensors are valid until the next one is asked for; encoded bytes are freed.
        """
        batches = self._batches(images)
        retries: deque[list[EncodedImage]] = deque()
        try:
            while True:
                while len(self._in_flight) <= self._prefetch_batches:
                    if (batch := retries.popleft() if retries else next(batches, None)) is None:
                        break
                    self._feed(batch)
                if not self._in_flight:
                    return
                batch = self._in_flight.popleft()
                try:
                    outputs = self._pipeline.share_outputs()
                except RuntimeError as error:
                    retries.extend(_blame(batch, error))
                    continue
                try:
                    yield self._decoded(batch, outputs, clock)
                finally:
                    del outputs
                    self._pipeline.release_outputs()
        finally:
            self._drain()

    def _batches(self, images: Iterable[EncodedImage]) -> Iterator[list[EncodedImage]]:
        batch: list[EncodedImage] = []
        for image in images:
            if image.decodable:
                batch.append(image)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _feed(self, batch: list[EncodedImage]) -> None:
        encoded = [np.frombuffer(image.data or b"", np.uint8) for image in batch]
        windows = [crop_window(image.size or (0, 0), self._geometry) for image in batch]
        self._pipeline.feed_input("encoded", encoded)
        self._pipeline.feed_input("window", windows)
        self._pipeline.schedule_run()
        self._in_flight.append(batch)

    def _decoded(self, batch: list[EncodedImage], outputs: Any, clock: StageClock) -> DecodedBatch:
        for image in batch:
            image.data = None
        rgb, *spectra = (torch.from_dlpack(output.as_tensor()) for output in outputs)
        if self._normalize is None:
            pixels = rgb.permute(0, 3, 1, 2).to(self._dtype)
        else:
            pixels = self._normalize(rgb, out=self._pixels[: len(batch)])
        with clock.stage("dct"):
            if spectra:
                dct = order_mfcc_spectra(spectra[0], self._geometry.crop)
            else:
                dct = self._dct[: len(batch)]
                if self._block_dct is not None:
                    self._block_dct(rgb, out=dct)
        return DecodedBatch(batch, pixels, dct)

    def _drain(self) -> None:
        """Take out what is still in flight: the next shard starts with an empty pipeline."""
        while self._in_flight:
            self._in_flight.popleft()
            try:
                self._pipeline.share_outputs()
            except RuntimeError:
                continue
            self._pipeline.release_outputs()


def _blame(batch: list[EncodedImage], error: RuntimeError) -> list[list[EncodedImage]]:
    """Give up a lone refused image, or say how to try the batch again. Re-raises other errors."""
    message = str(error)
    if not is_refusal(message):
        raise error
    if len(batch) > 1:
        return split_refused(batch, message)
    give_up(batch[0], message)
    return []
