"""Resamples windows of decoded images to the model's input size, on a CPU.

DALI's own operator gives the same pixels, but takes three to four times as long: as long as
decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from afd_model.inference.kernels import has_numba, in_threads
from pipeline.pixels.geometry import Geometry, crop_window

# (images, (H, W, 3) uint8 each; output tensor, (B, crop, crop, 3) uint8)
Resample = Callable[[Sequence[np.ndarray], Tensor], None]


def cpu_resample(geometry: Geometry) -> Resample | None:
    """A function that resamples the images' crop windows, in as many threads as PyTorch uses.

    Bilinear or bicubic with antialiasing, as in Pillow, but without rounding between the two
    passes. None if Numba is not installed, or if the geometry does not resize.
    """
    if geometry.resize is None or not has_numba():
        return None
    from pipeline.pixels.resample_kernel import resample

    cubic = geometry.interpolation == "bicubic"

    def resample_all(pictures: Sequence[np.ndarray], out: Tensor) -> None:
        windows = out.numpy()

        def resample_some(part: slice) -> None:
            for picture, window in zip(pictures[part], windows[part], strict=True):
                height, width, _ = picture.shape
                box = crop_window((height, width), geometry).astype(np.float64)
                resample(picture, box, cubic, window)

        in_threads(resample_some, len(pictures))

    return resample_all
