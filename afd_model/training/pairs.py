"""The input of training: batches of the same crops of the same images, clean and compressed.

`pipeline.pairs.training_data` makes them.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PairBatch(NamedTuple):
    """One batch.

    Attributes:
        clean, degraded: (B, 3, crop, crop) float32, normalised for the backbone, channels_last.
        dct: (B, 192, crop/8, crop/8) float32, `block_dct` of the degraded pixels; channels_last on
            CUDA, contiguous on a CPU.
        quality: (B,) float32, IJG quality in the degraded image's header; NaN without one.
        compressed: (B,) bool, whether the degraded image is. Validation counts the two kinds apart.
    """

    clean: Tensor
    degraded: Tensor
    dct: Tensor
    quality: Tensor
    compressed: Tensor

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on a device."""
        return PairBatch(*(tensor.to(device, non_blocking=True) for tensor in self))
