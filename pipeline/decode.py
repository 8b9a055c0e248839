"""Encoded bytes -> normalised pixels and DCT coefficients, by one DALI graph for CPU and CUDA.

On CUDA, everything from the JPEG decoder on runs on the device. On a CPU, the graph only decodes
whole images, and `pipeline.pixels.resample` does the rest; where nothing is resized, or Numba is
missing, the graph makes the model's windows here too.
The graph has a queue depth of one, and prefetch is done here: so every batch gives exactly one
result or one error, in order, and a refused batch leaves the DALI pipeline usable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from afd_model.dct import DCT_CHANNELS
from pipeline.pixels.batches import batches, num_pixels
from pipeline.pixels.block_dct import block_dct_on
from pipeline.pixels.geometry import DCT_BLOCK, Geometry, crop_window
from pipeline.pixels.normalize import Normalize
from pipeline.pixels.resample import cpu_resample
from pipeline.records import DecodedBatch, EncodedImage
from pipeline.rescue import (
    admit,
    decoder_fault,
    is_refusal,
    known_good_image,
    reject,
    split_refused,
)
from pipeline.stage_clock import StageClock

# A decoded batch takes three bytes per pixel. On a CPU, where whole images are prefetched, a batch
# has at most so many pixels per decoder thread, and twice as many are prefetched.
_PIXELS_PER_THREAD = 64_000_000
_MAX_BATCH_PIXELS = 256_000_000
_CPU = torch.device("cpu")
_INTERPOLATION = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Where and how to decode.

    device: a CPU, or a CUDA device for DALI's mixed decoder.
    batch_size: images per batch; prefetch_batches: batches decoded ahead of the one in use.
    num_threads: DALI's CPU threads (on CUDA they do the Huffman decoding).
    dtype: of the normalised pixels, any floating-point type.
    hw_decoder_load: share of the JPEGs given to the GPU's hardware decoder, if it has one.
    dct: whether to extract DCT coefficients; without, `DecodedBatch.dct` has no channels.
    """

    device: torch.device = _CPU
    batch_size: int = 32
    num_threads: int = 2
    prefetch_batches: int = 2
    dtype: torch.dtype = torch.float32
    hw_decoder_load: float = 0.65
    dct: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_threads", "prefetch_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not positive: use at least 1")

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dali_arguments(self) -> dict[str, Any]:
        """The arguments that every DALI pipeline takes."""
        return {
            "batch_size": self.batch_size,
            "num_threads": self.num_threads,
            "device_id": (self.device.index or 0) if self.on_cuda else None,
        }


def decode_rgb(encoded: Any, options: DecodeOptions) -> Any:
    """Graph node: the images as (height, width, 3) uint8 on the options' device."""
    on_gpu: dict[str, Any] = {"hw_decoder_load": options.hw_decoder_load} if options.on_cuda else {}
    return fn.decoders.image(
        encoded,
        device="mixed" if options.on_cuda else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,  # like PIL: pixels as stored
        jpeg_fancy_upsampling=True,  # like libjpeg
        **on_gpu,
    )


def resample_window(rgb: Any, window: Any, geometry: Geometry) -> Any:
    """Graph node: a window of the image, resampled to (crop, crop, 3) uint8; see `crop_window`."""
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
    """Graph node: a window of the image without resampling, black outside the image."""
    return fn.slice(
        rgb,
        start=fn.cast(window[0:2], dtype=types.INT32),
        shape=[geometry.crop, geometry.crop],
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=1)
def _graph(geometry: Geometry, options: DecodeOptions, *, whole: bool) -> Any:
    """The model's window of each image, (crop, crop, 3) uint8 on the options' device.

    whole: return whole images instead, (height, width, 3).
    """
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    if whole:
        return decode_rgb(encoded, options)
    window = fn.external_source(name="window", dtype=types.FLOAT, ndim=1)
    place = _cut_window if geometry.resize is None else resample_window
    return place(decode_rgb(encoded, options), window, geometry)


class Decoder:
    """A running DALI pipeline. Not thread-safe; one shard at a time."""

    def __init__(self, geometry: Geometry, options: DecodeOptions) -> None:
        if options.dct:
            geometry.check_blocks()
        self.batch_size = options.batch_size
        self._geometry = geometry
        self._prefetch_batches = options.prefetch_batches
        cuda = self._large_apart = options.on_cuda
        device = options.device
        count, side, blocks = options.batch_size, geometry.crop, geometry.crop // DCT_BLOCK
        self._resample = None if cuda else cpu_resample(geometry)
        self._max_pixels = (
            min(_MAX_BATCH_PIXELS, _PIXELS_PER_THREAD * options.num_threads)
            if self._resample
            else _MAX_BATCH_PIXELS
        )
        self._rgb = torch.empty(count if self._resample else 0, side, side, 3, dtype=torch.uint8)
        self._normalize = Normalize(geometry, options.dtype, device)
        # DALI reuses an output's memory without waiting for PyTorch's stream that reads from it.
        self._outputs_read = torch.cuda.Event() if cuda else None
        self._pixels = torch.empty(count, side, side, 3, dtype=options.dtype, device=device)
        self._block_dct = block_dct_on(device, side) if options.dct else None
        self._dct = torch.empty(
            (count, DCT_CHANNELS if options.dct else 0, blocks, blocks),
            device=device,
            memory_format=torch.channels_last if cuda else torch.contiguous_format,
        )
        self._in_flight: deque[list[EncodedImage]] = deque()
        self._known_good_batch = [known_good_image()]
        whole = self._resample is not None
        self._pipeline = _graph(geometry, options, whole=whole, **options.dali_arguments)
        self._pipeline.build()

    def decode(
        self, images: Iterable[EncodedImage], clock: StageClock
    ) -> Generator[DecodedBatch, None, None]:
        """Decode all decodable images in batches, a few of them prefetched.

        Every image that decodes is in exactly one batch. The order is that of the input, except
        that large images on CUDA and images from refused batches come later. An image that the
        decoder refuses is marked as rejected. Raises RuntimeError when the decoder then refuses a
        known-good image too: the fault is the machine's, and the images must not be blamed.
        A batch's tensors are valid until the next batch is requested. Encoded bytes are freed.
        """
        checked = filter(admit, images)
        queue = batches(checked, self.batch_size, self._max_pixels, large_apart=self._large_apart)
        waiting: deque[list[EncodedImage]] = deque()  # parts of refused batches come before others
        try:
            while True:
                self._feed_ahead(waiting, queue)
                if not self._in_flight:
                    return
                batch = self._in_flight.popleft()
                try:
                    outputs = self._pipeline.share_outputs()
                except RuntimeError as error:
                    self._blame(batch, error, waiting)
                    continue
                try:
                    if batch is not self._known_good_batch:
                        yield self._decoded(batch, outputs, clock)
                finally:
                    if self._outputs_read is not None:
                        self._outputs_read.synchronize()
                    del outputs
                    self._pipeline.release_outputs()
        finally:
            self._drain()

    def _feed_ahead(
        self, waiting: deque[list[EncodedImage]], queue: Iterator[list[EncodedImage]]
    ) -> None:
        """Feed batches as far as the prefetch depth and the memory allow, first those waiting."""
        while len(self._in_flight) <= self._prefetch_batches:
            batch = waiting.popleft() if waiting else next(queue, None)
            if batch is None:
                return
            if not self._has_room_for(batch):
                waiting.appendleft(batch)
                return
            self._feed(batch)

    def _blame(
        self, batch: list[EncodedImage], error: RuntimeError, waiting: deque[list[EncodedImage]]
    ) -> None:
        """Reject a refused image, or queue the parts of a refused batch. Re-raises other errors.

        After a rejection, the known-good image is queued, to find out if the machine is at fault.
        """
        message = str(error)
        if batch is self._known_good_batch:
            raise decoder_fault(error) from error
        if not is_refusal(message):
            raise error
        if len(batch) > 1:
            waiting.extend(split_refused(batch, message))
            return
        reject(batch[0], message)
        if not any(other is self._known_good_batch for other in waiting):
            waiting.append(self._known_good_batch)

    def _has_room_for(self, batch: list[EncodedImage]) -> bool:
        if self._resample is None or not self._in_flight:
            return True
        pixels = sum(map(num_pixels, self._in_flight)) + num_pixels(batch)
        return pixels <= 2 * self._max_pixels

    def _feed(self, batch: list[EncodedImage]) -> None:
        encoded = [np.frombuffer(image.data, np.uint8) for image in batch]
        self._pipeline.feed_input("encoded", encoded)
        if self._resample is None:
            windows = [crop_window(image.size or (0, 0), self._geometry) for image in batch]
            self._pipeline.feed_input("window", windows)
        self._pipeline.schedule_run()
        self._in_flight.append(batch)

    def _decoded(self, batch: list[EncodedImage], outputs: Any, clock: StageClock) -> DecodedBatch:
        for image in batch:
            image.data = b""
        rgb = self._windows(outputs[0], len(batch))
        pixels = self._normalize(rgb, out=self._pixels[: len(batch)])
        with clock.stage("dct"):
            dct = self._dct[: len(batch)]
            if self._block_dct is not None:
                self._block_dct(rgb, out=dct)
        if self._outputs_read is not None:
            self._outputs_read.record(torch.cuda.current_stream(rgb.device))
        facts = [(i.stated_quality, self._geometry.enlargement(i.size or (0, 0))) for i in batch]
        return DecodedBatch(batch, pixels, dct, torch.tensor(facts))

    def _windows(self, pictures: Any, count: int) -> torch.Tensor:
        """(B, crop, crop, 3) uint8, from the graph's output."""
        if self._resample is None:
            return torch.from_dlpack(pictures.as_tensor())
        rgb = self._rgb[:count]
        self._resample([np.asarray(pictures[place]) for place in range(count)], rgb)
        return rgb

    def _drain(self) -> None:
        """Discard the batches in flight, so that the next shard starts with an empty pipeline."""
        while self._in_flight:
            self._in_flight.popleft()
            try:
                self._pipeline.share_outputs()
            except Exception:  # whatever DALI raises: this batch is not needed
                continue
            self._pipeline.release_outputs()
