"""The record that training consumes: the same windows of the same pictures, clean and compressed.

The training loop takes any iterable of these; `pipeline.pairs.training_data` makes them.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PairBatch(NamedTuple):
    """One batch.

    Attributes:
        clean, degraded: (B, 3, crop, crop) float32, normalised for the backbone, channels_last.
        dct: (B, 192, crop/8, crop/8) float32, of the degraded pixels, see `afd_model.dct`.
        quality: (B,) float32, the IJG quality that the degraded picture's file would state; NaN
            where it would state none.
        condition: (B,) int64, the draw's kind: what it means is the maker's (training ignores it,
            validation reports by it).
    """

    clean: Tensor
    degraded: Tensor
    dct: Tensor
    quality: Tensor
    condition: Tensor

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on a device."""
        return PairBatch(*(tensor.to(device, non_blocking=True) for tensor in self))
