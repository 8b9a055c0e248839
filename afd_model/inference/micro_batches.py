"""Micro-batch sizes for CPUs: as many images as the caches hold the feature maps of."""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afd_model.classifier import AFDClassifier

# Measured on two cores with 1 MiB of L2 cache each and 32 MiB of L3 shared (docs/speed-log.md).
# With fewer images PyTorch's overhead per layer weighs more; with more the maps do not fit.
_MIB = 1 << 20
_LARGEST_MAPS_BYTES = 16 * _MIB
_STEM_MAPS_BYTES = 13 * _MIB // 2
_MIN_BACKBONE_IMAGES = {torch.bfloat16: 8, torch.float32: 4}


class MicroBatchSizes(NamedTuple):
    """Images at a time for the backbone, and of these for the AFD-Module."""

    backbone: int
    afd: int


def micro_batch_sizes(model: AFDClassifier, crop: int, precision: torch.dtype) -> MicroBatchSizes:
    """The fastest sizes for images of crop x crop pixels and PyTorch's current threads."""
    threads, each = torch.get_num_threads(), precision.itemsize
    least = max(_MIN_BACKBONE_IMAGES[precision], _MIN_BACKBONE_IMAGES[precision] // 2 * threads)
    largest, stem = _map_sizes(model, crop)
    part = max(2 * threads, _power_of_two(_STEM_MAPS_BYTES // (each * stem)))
    return MicroBatchSizes(max(least, _power_of_two(_LARGEST_MAPS_BYTES // (each * largest))), part)


def _power_of_two(most: int) -> int:
    """The largest power of two up to `most`; at least 1."""
    return 1 << max(0, most.bit_length() - 1)


def _map_sizes(model: AFDClassifier, crop: int) -> tuple[int, int]:
    """Elements per image of the largest feature map and of the stem's.

    It runs the model on one image: for a small model, that is faster than on the meta device.
    """
    sizes: list[int] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    weight = next(model.backbone.parameters())
    with torch.inference_mode(), ExitStack() as stack:
        for layer in model.backbone.modules():
            stack.enter_context(layer.register_forward_hook(record))
        image = torch.zeros(1, 3, crop, crop, dtype=weight.dtype, device=weight.device)
        stem = model.bare(image).stem_features
    return max(sizes), stem.numel()
