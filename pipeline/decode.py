"""Encoded bytes -> normalised pixels and DCT coefficients, by one DALI graph. Nothing else decodes.

It serves the CPU and CUDA; on CUDA everything from the JPEG decoder on runs on the device, and on a
CPU the graph ends with the whole picture, see `pipeline.pixels.resample`.
It runs at a queue depth of one and is fed ahead by hand: every fed batch then gives exactly one
result or one error, in order, and a refused batch leaves the pipeline usable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from afd_model.dct import DCT_CHANNELS
from pipeline.pixels.batches import batches, num_pixels
from pipeline.pixels.block_dct import BlockDct, BlockDctByOneProduct
from pipeline.pixels.geometry import DCT_BLOCK, Geometry, crop_window
from pipeline.pixels.normalize import Normalize
from pipeline.pixels.resample import cpu_resample
from pipeline.records import DecodedBatch, EncodedImage
from pipeline.rescue import (
    give_up,
    is_refusal,
    machine_fault,
    passes_header_check,
    sound_picture,
    split_refused,
)
from pipeline.stage_clock import StageClock

# A batch decoded takes three bytes a pixel. On a CPU, where whole pictures wait beside the one in
# use, a batch may hold so many pixels for each thread of the decoder, and twice as many wait.
_PIXELS_PER_THREAD = 64_000_000
_MOST_PIXELS = 256_000_000
_INTERPOLATION = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Where and how to decode.

    device: "cpu", or "cuda" for DALI's mixed decoder; device_id: the CUDA device's number.
    batch_size: images per batch; prefetch_batches: batches decoded ahead of the one in use.
    num_threads: DALI's CPU threads (on CUDA they do the Huffman decoding).
    dtype: of the normalised pixels, any floating one.
    hw_decoder_load: share of the JPEGs given to the GPU's hardware decoder, where it has one.
    dct: extract DCT coefficients; False where no module looks at them: then they have no channels.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    device_id: int = 0
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


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=1)
def _graph(geometry: Geometry, options: DecodeOptions, *, whole: bool) -> Any:
    """What the model sees of each image, (crop, crop, 3) uint8 on the options' device.

    whole: the picture as it is instead, (height, width, 3).
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
        cuda = self._large_apart = options.device == "cuda"
        device = torch.device("cuda", options.device_id) if cuda else torch.device("cpu")
        count, side, blocks = options.batch_size, geometry.crop, geometry.crop // DCT_BLOCK
        self._resample = None if cuda else cpu_resample(geometry)
        self._most_pixels = (
            min(_MOST_PIXELS, _PIXELS_PER_THREAD * options.num_threads)
            if self._resample
            else _MOST_PIXELS
        )
        self._rgb = torch.empty(count if self._resample else 0, side, side, 3, dtype=torch.uint8)
        self._normalize = Normalize(geometry, options.dtype, device)
        # DALI does not wait for PyTorch's stream before it writes to an output again.
        self._outputs_read = torch.cuda.Event() if cuda else None
        self._pixels = torch.empty(count, side, side, 3, dtype=options.dtype, device=device)
        transform = BlockDctByOneProduct(side, device) if cuda else BlockDct(side)
        self._block_dct = transform if options.dct else None
        self._dct = torch.empty(
            (count, DCT_CHANNELS if options.dct else 0, blocks, blocks),
            device=device,
            memory_format=torch.channels_last if cuda else torch.contiguous_format,
        )
        self._in_flight: deque[list[EncodedImage]] = deque()
        self._sound_batch = [sound_picture()]
        self._pipeline = _graph(
            geometry,
            options,
            whole=self._resample is not None,
            batch_size=options.batch_size,
            num_threads=options.num_threads,
            device_id=options.device_id if cuda else None,
        )
        self._pipeline.build()

    def decode(
        self, images: Iterable[EncodedImage], clock: StageClock
    ) -> Generator[DecodedBatch, None, None]:
        """Decode what is decodable, in batches, a few ahead of the caller.

        Every image that decodes is in exactly one batch, in input order but for the large ones on
        CUDA and the neighbours of an image that the decoder refused: they come later. A refused
        image is marked rejected. Raises RuntimeError when a sound picture is refused after it:
        then what has been marked is not the images' fault.
        A batch's tensors are valid until the next one is asked for; encoded bytes are freed.
        """
        checked = filter(passes_header_check, images)
        queue = batches(checked, self.batch_size, self._most_pixels, large_apart=self._large_apart)
        retries: deque[list[EncodedImage]] = deque()  # and a batch for which there is no room yet
        try:
            while True:
                while len(self._in_flight) <= self._prefetch_batches:
                    if (batch := retries.popleft() if retries else next(queue, None)) is None:
                        break
                    if not self._has_room_for(batch):
                        retries.appendleft(batch)
                        break
                    self._feed(batch)
                if not self._in_flight:
                    return
                batch = self._in_flight.popleft()
                try:
                    outputs = self._pipeline.share_outputs()
                except RuntimeError as error:
                    self._blame(batch, error, retries)
                    continue
                try:
                    if batch is not self._sound_batch:
                        yield self._decoded(batch, outputs, clock)
                finally:
                    if self._outputs_read is not None:
                        self._outputs_read.synchronize()
                    del outputs
                    self._pipeline.release_outputs()
        finally:
            self._drain()

    def _blame(
        self, batch: list[EncodedImage], error: RuntimeError, retries: deque[list[EncodedImage]]
    ) -> None:
        """Give up a lone refused image, or have the batch tried in parts. Re-raises other errors.

        A sound picture that is fed after it tells an image's fault from the machine's.
        """
        message = str(error)
        if batch is self._sound_batch:
            raise machine_fault(error) from error
        if not is_refusal(message):
            raise error
        if len(batch) > 1:
            retries.extend(split_refused(batch, message))
            return
        give_up(batch[0], message)
        if not any(waiting is self._sound_batch for waiting in retries):
            retries.append(self._sound_batch)

    def _has_room_for(self, batch: list[EncodedImage]) -> bool:
        if self._resample is None or not self._in_flight:
            return True
        pixels = sum(map(num_pixels, self._in_flight)) + num_pixels(batch)
        return pixels <= 2 * self._most_pixels

    def _feed(self, batch: list[EncodedImage]) -> None:
        encoded = [np.frombuffer(image.data or b"", np.uint8) for image in batch]
        self._pipeline.feed_input("encoded", encoded)
        if self._resample is None:
            windows = [crop_window(image.size or (0, 0), self._geometry) for image in batch]
            self._pipeline.feed_input("window", windows)
        self._pipeline.schedule_run()
        self._in_flight.append(batch)

    def _decoded(self, batch: list[EncodedImage], outputs: Any, clock: StageClock) -> DecodedBatch:
        for image in batch:
            image.data = None
        rgb = self._placed(outputs[0], len(batch))
        pixels = self._normalize(rgb, out=self._pixels[: len(batch)])
        with clock.stage("dct"):
            dct = self._dct[: len(batch)]
            if self._block_dct is not None:
                self._block_dct(rgb, out=dct)
        if self._outputs_read is not None:
            self._outputs_read.record(torch.cuda.current_stream(rgb.device))
        return DecodedBatch(batch, pixels, dct)

    def _placed(self, pictures: Any, count: int) -> torch.Tensor:
        """(B, crop, crop, 3) uint8, from the graph's output."""
        if self._resample is None:
            return torch.from_dlpack(pictures.as_tensor())
        rgb = self._rgb[:count]
        self._resample([np.asarray(pictures[place]) for place in range(count)], rgb)
        return rgb

    def _drain(self) -> None:
        """Take out what is still in flight: the next shard starts with an empty pipeline."""
        while self._in_flight:
            self._in_flight.popleft()
            try:
                self._pipeline.share_outputs()
            except Exception:  # whatever DALI raises: nobody waits for this batch
                continue
            self._pipeline.release_outputs()
