"""The input of training: batches of the same crops of the same images, clean and compressed."""

from collections.abc import Generator, Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class PairBatch(NamedTuple):
    """One batch.

    Attributes:
        clean, degraded: (B, 3, crop, crop) float32, normalised for the backbone, channels_last.
        dct: (B, 192, crop/8, crop/8) float32, `block_dct` of the degraded pixels; channels_last on
            CUDA, contiguous on a CPU.
        file_facts: (B, 2) float32, of the degraded image's file, see `flip_features`.
        compressed: (B,) bool, whether the degraded image is. Validation counts the two kinds apart.
    """

    clean: Tensor
    degraded: Tensor
    dct: Tensor
    file_facts: Tensor
    compressed: Tensor

    @property
    def quality(self) -> Tensor:
        """(B,) IJG quality in the degraded image's header; NaN without one."""
        return self.file_facts[:, 0]

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on a device."""
        return PairBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Pairs(Protocol):
    """The source of the batches; implemented by `pipeline.pairs.training_data.PairLoader`."""

    def training(self, first_step: int) -> Generator[PairBatch, None, None]: ...
    def held_out(self) -> Iterable[PairBatch]: ...
    def random_pass(self, number: int) -> Iterable[PairBatch]: ...
