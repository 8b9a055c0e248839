"""The DALI graph of training: one JPEG -> the same window of it, clean and compressed.

The compression is DALI's own operator, so on CUDA nothing leaves the device. On a CPU, its result
is bit-identical to libjpeg-turbo's at 4:2:0 (see `tests/test_decode_training.py`); on CUDA, it is
DALI's own implementation of the same steps, without entropy coding and without interpolating
chroma: by its steps in NumPy, windows differ by 1 grey level in the mean, and by up to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from pipeline.decode import DecodeOptions, decode_rgb, resample_window
from pipeline.degrade import check_sides
from pipeline.pairs.pair_plan import Colours, PairPlan
from pipeline.pixels.geometry import Geometry
from pipeline.records import EncodedImage, Status
from pipeline.rescue import (
    admit,
    decoder_fault,
    is_refusal,
    known_good_image,
    reject,
    split_refused,
)


def _window(rgb: Any, window: Any, mirrored: Any, geometry: Geometry) -> Any:
    return fn.flip(resample_window(rgb, window, geometry), horizontal=mirrored)


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=1, enable_conditionals=True)
def _graph(
    geometry: Geometry, options: DecodeOptions, max_compressions: int, *, varied: bool
) -> tuple[Any, Any]:
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    window = fn.external_source(name="window", dtype=types.FLOAT, ndim=1)
    mirrored = fn.external_source(name="mirrored", dtype=types.INT32, ndim=0)
    # `max_compressions` qualities per sample, padded with 0 for no compression.
    on_full = fn.external_source(name="full_qualities", dtype=types.INT32, ndim=1)
    on_crop = fn.external_source(name="crop_qualities", dtype=types.INT32, ndim=1)
    rgb = decode_rgb(encoded, options)
    if varied:
        colours = fn.external_source(name="colours", dtype=types.FLOAT, ndim=1)
        recoloured = fn.external_source(name="recoloured", dtype=types.INT32, ndim=0)
        upside_down = fn.external_source(name="upside_down", dtype=types.INT32, ndim=0)
        reduced_to = fn.external_source(name="reduced_to", dtype=types.FLOAT, ndim=1)
        if reduced_to[0] > 0:
            rgb = fn.resize(rgb, size=reduced_to, interp_type=types.INTERP_LANCZOS3)
        if recoloured > 0:
            rgb = fn.color_twist(
                rgb,
                hue=colours[0],
                saturation=colours[1],
                brightness=colours[2],
                contrast=colours[3],
            )
        if upside_down > 0:
            rgb = fn.flip(rgb, horizontal=0, vertical=1)
    clean = _window(rgb, window, mirrored, geometry)
    if on_full[0] > 0:
        full = fn.jpeg_compression_distortion(rgb, quality=on_full[0])
        for k in range(1, max_compressions):
            if on_full[k] > 0:
                full = fn.jpeg_compression_distortion(full, quality=on_full[k])
        degraded = _window(full, window, mirrored, geometry)
    else:
        degraded = clean
    for k in range(max_compressions):
        if on_crop[k] > 0:
            degraded = fn.jpeg_compression_distortion(degraded, quality=on_crop[k])
    return clean, degraded


def _admit_size(image: EncodedImage) -> bool:
    """Reject an image that is too large for JPEG, which would fail its batch; False if so."""
    try:
        check_sides(*(image.size or (0, 0)))
    except ValueError as error:
        image.fail(Status.REJECTED, f"cannot be compressed: {error}")
        return False
    return True


class PairDecoder:
    """A running DALI pipeline. Not thread-safe.

    geometry: its crop and interpolation are used; the window is that of the `PairPlan`.
    max_compressions: in a plan, of the whole image, and of the window.
    varied: whether plans may reduce images, change their colours or turn them upside down.
    """

    def __init__(
        self,
        geometry: Geometry,
        options: DecodeOptions,
        *,
        max_compressions: int,
        varied: bool = False,
    ) -> None:
        self.batch_size = options.batch_size
        self._max_compressions = max_compressions
        self._varied = varied
        self._side = geometry.crop
        self._pipeline = _graph(
            geometry, options, max_compressions, varied=varied, **options.dali_arguments
        )
        self._pipeline.build()

    def decode(
        self, images: Sequence[EncodedImage], plans: Sequence[PairPlan]
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Decode at most `batch_size` images and carry out their plans.

        Returns clean and degraded windows, (B, crop, crop, 3) uint8 each, on the options' device
        and owned by the caller; and the indices of their images. An image that the decoder refuses,
        or that is too large for JPEG, is marked as rejected and left out. Raises RuntimeError when
        the decoder then refuses a known-good image too: the fault is the machine's.
        """
        clean, degraded, kept = [], [], []
        checked = [k for k, image in enumerate(images) if admit(image) and _admit_size(image)]
        groups = [checked] if checked else []
        while groups:
            group = groups.pop(0)
            try:
                pair = self._run([images[k] for k in group], [plans[k] for k in group])
            except RuntimeError as error:
                message = str(error)
                if not is_refusal(message):
                    raise
                if len(group) == 1:
                    self._check_decoder()
                    reject(images[group[0]], message)
                else:
                    groups = split_refused(group, message) + groups
                continue
            clean.append(pair[0])
            degraded.append(pair[1])
            kept += group
        if not kept:
            nothing = torch.empty(0, self._side, self._side, 3, dtype=torch.uint8)
            return nothing, nothing, kept
        return torch.cat(clean), torch.cat(degraded), kept

    def _check_decoder(self) -> None:
        """Raises RuntimeError if a known-good image does not decode."""
        image = known_good_image()
        whole = np.array([0, 0, *(image.size or ())], np.float32)
        try:
            self._run([image], [PairPlan(whole)])
        except RuntimeError as error:
            raise decoder_fault(error) from error

    def _run(
        self, images: list[EncodedImage], plans: list[PairPlan]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        feed = self._pipeline.feed_input
        feed("encoded", [np.frombuffer(image.data, np.uint8) for image in images])
        feed("window", [plan.window for plan in plans])
        if self._varied:
            feed("colours", [np.array(plan.colours or Colours(), np.float32) for plan in plans])
            feed("recoloured", [np.array(plan.colours is not None, np.int32) for plan in plans])
            feed("upside_down", [np.array(plan.upside_down, np.int32) for plan in plans])
            feed("reduced_to", [np.array(plan.reduced_to or (0, 0), np.float32) for plan in plans])
        feed("mirrored", [np.array(plan.mirrored, np.int32) for plan in plans])
        feed("full_qualities", [self._padded(plan.full_qualities) for plan in plans])
        feed("crop_qualities", [self._padded(plan.crop_qualities) for plan in plans])
        self._pipeline.schedule_run()
        outputs = self._pipeline.share_outputs()
        # Cloned, because DALI writes the next batch to the same memory.
        clean, degraded = (torch.from_dlpack(o.as_tensor()).clone() for o in outputs)
        if clean.is_cuda:
            torch.cuda.current_stream(clean.device).synchronize()
        self._pipeline.release_outputs()
        return clean, degraded

    def _padded(self, qualities: tuple[int, ...]) -> np.ndarray:
        if len(qualities) > self._max_compressions:
            raise ValueError(
                f"{len(qualities)} compressions planned, built for {self._max_compressions}"
            )
        padded = np.zeros(self._max_compressions, np.int32)
        padded[: len(qualities)] = qualities
        return padded
