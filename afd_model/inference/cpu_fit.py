"""How many images at a time a CPU is fastest with: as many as its caches hold the maps of."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afd_model.classifier import AFDClassifier

# Measured on two cores with 1 MiB of second-level cache each and 32 MiB shared (docs/speed.md).
# With fewer images PyTorch's fixed cost per layer weighs more; with more the maps do not fit.
_MIB = 1 << 20
_LARGEST_MAPS_BYTES = 16 * _MIB
_STEM_MAPS_BYTES = 13 * _MIB // 2
_BACKBONES_LEAST = {torch.bfloat16: 8, torch.float32: 4}


class Fit(NamedTuple):
    """images_per_slice: for the backbone; images_per_part: for the AFD-Module, within a slice."""

    images_per_slice: int
    images_per_part: int


def fit_to_caches(model: AFDClassifier, crop: int, precision: torch.dtype) -> Fit:
    """How many images of crop x crop pixels to take at a time, with PyTorch's current threads."""
    threads, each = torch.get_num_threads(), precision.itemsize
    least = max(_BACKBONES_LEAST[precision], _BACKBONES_LEAST[precision] // 2 * threads)
    try:
        largest, stem = _map_sizes(model, crop)
    except (NotImplementedError, RuntimeError):  # a layer that needs its input's values
        return Fit(least, least // 2)
    part = max(2 * threads, _power_of_two(_STEM_MAPS_BYTES // (each * stem)))
    return Fit(max(least, _power_of_two(_LARGEST_MAPS_BYTES // (each * largest))), part)


def _power_of_two(most: int) -> int:
    """The largest that is no larger; at least 1."""
    return 1 << max(0, most.bit_length() - 1)


def _map_sizes(model: AFDClassifier, crop: int) -> tuple[int, int]:
    """How many numbers an image's largest map has, and its stem's.

    Runs on a copy without storage, so it costs no arithmetic.
    """
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    stand_in = copy.deepcopy(model).to(device="meta", dtype=torch.float32)
    for layer in stand_in.backbone.modules():
        layer.register_forward_hook(note)
    with torch.no_grad():
        before = stand_in.bare(torch.empty(1, 3, crop, crop, device="meta")).before
    return max(sizes), before.numel()
