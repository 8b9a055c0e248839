"""The AFD-Module's sizes, "paper", "light" and "deep": configuration for a backbone, and cost."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from afd_model.afd_config import AFDConfig, AFDSize
from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone
from afd_model.dct import DCT_CHANNELS
from afd_model.stage_correction import last_stages
from afd_model.stem import STRIDES

# "light": maximum share of the backbone's multiply-adds, and the candidates for FE-Net's width.
# More than this share gained no accuracy worth its time; the lightest backbones allow 4 channels.
LIGHT_SHARE = 0.10
LIGHT_WIDTHS = (32, 24, 16, 12, 8, 4)

# "deep": `down_blocks` and `up_blocks`. On every grid a block costs the same multiply-adds, and on
# the next coarser one four times the parameters. More blocks would fit the budget on ResNet-50, but
# cost a light backbone too much time.
DEEP_BLOCKS = ((1, 1), (1, 0))

# Stage corrections cost little and gain as much as the rest (docs/experiments.md). The paper has
# none.
CORRECTED_STAGES: dict[AFDSize, int] = {"paper": 0, "light": 3, "deep": 3}

# Maximum parameters of a fused module, and the candidates for `stage_width` that keep within it.
MAX_PARAMETERS = 200_000
STAGE_WIDTHS = (64, 32, 16, 8, 4)


def config_for(
    backbone: Backbone,
    size: AFDSize = "light",
    *,
    corrected_stages: int | None = None,
    **changes: Any,
) -> AFDConfig:
    """The configuration of a size for a backbone.

    "paper" is Peng et al.'s: width 16 at the stem's resolution, the FDM on the output. "deep" adds
    `DEEP_BLOCKS`, the FDM "full+channel" and the logarithm of the DCT. "light" works at half the
    stem's resolution, with the widest of `LIGHT_WIDTHS` that costs at most `LIGHT_SHARE` of the
    backbone's multiply-adds at the crop of its preset, or with the narrowest of them.

    Args:
        corrected_stages: at most how many of the last stages are corrected; None: the size's
            default. `stage_width` is the widest of `STAGE_WIDTHS` that keeps the module within
            `MAX_PARAMETERS`, and "light" within its share; where none does, fewer stages are
            corrected.
        changes: fields of `AFDConfig` to override, for ablations.

    Raises:
        ValueError: an unknown size; an invalid field; stages to correct, but the backbone has none.
    """
    if backbone.stem_stride not in STRIDES:
        raise ValueError(
            f"{backbone.name} begins with patches of {backbone.stem_stride} pixels, where no"
            " AFD-Module can work: use --afd none, or a backbone that begins with convolutions"
        )
    max_macs = _light_macs(backbone) if size == "light" else math.inf
    config = _sized(backbone, size, max_macs, changes)
    count = CORRECTED_STAGES[size] if corrected_stages is None else corrected_stages
    crop = backbone.preprocessing.crop
    stages = tuple(last_stages(backbone.module, backbone.stem_layer, crop, count))
    if corrected_stages and not stages:
        raise ValueError(
            f"{backbone.name} has no stage to correct behind its stem: use --corrected-stages 0"
        )
    while stages:
        for width in STAGE_WIDTHS:
            corrected = replace(config, stages=stages, stage_width=width)
            parameters = count_parameters(AFDModule(corrected).fuse())
            if parameters <= MAX_PARAMETERS and module_macs(corrected, crop) <= max_macs:
                return corrected
        stages = stages[1:]  # the one with the largest grid
    return config


def _sized(
    backbone: Backbone, size: AFDSize, max_macs: float, changes: dict[str, Any]
) -> AFDConfig:
    """The configuration without stage corrections."""
    low, high = backbone.stem_range
    paper = AFDConfig(backbone.stem_channels, backbone.stem_stride, output_min=low, output_max=high)
    if size == "deep":
        down, up = DEEP_BLOCKS
        deep: dict[str, Any] = {"down_blocks": down, "up_blocks": up}
        gate: dict[str, Any] = {"fdm": "full+channel", "dct_input": "log"}
        return replace(paper, size=size, **(deep | gate | changes))
    # Behind a stem of stride 8, half the resolution would lose too much detail
    # (docs/experiments.md, "Size and grid").
    if size == "paper" or backbone.stem_stride >= 8:
        return replace(paper, size=size, **changes)
    config = paper
    for width in LIGHT_WIDTHS:
        light: dict[str, Any] = {"width": width, "reduction": 2, "depth": 1, "levels": 0}
        gate = {"fdm": "full+channel", "dct_input": "log", "fdm_on": "bottleneck"}
        config = replace(paper, size=size, fde_hidden=width, **(light | gate | changes))
        if module_macs(config, backbone.preprocessing.crop) <= max_macs:
            break
    return config


def _light_macs(backbone: Backbone) -> float:
    crop = backbone.preprocessing.crop
    device = next(backbone.module.parameters()).device
    return LIGHT_SHARE * count_macs(backbone.module, torch.zeros(1, 3, crop, crop, device=device))


def count_parameters(module: nn.Module) -> int:
    """The number of parameters; fuse the module first to count those of deployment."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of the convolutions and matrix products in one forward pass, which it runs."""
    # PyTorch's counter is faster on real tensors than on the meta device, where it goes through a
    # Python implementation of every operator.
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def module_macs(config: AFDConfig, crop: int) -> int:
    """Multiply-adds of the fused AFD-Module for one image of crop x crop pixels."""
    module = AFDModule(config).fuse()
    dct = torch.zeros(1, DCT_CHANNELS, crop // 8, crop // 8)
    total = count_macs(module, _maps(config.stem_channels, crop, config.stem_stride), dct)
    for place, correction in zip(config.stages, module.stage_corrections, strict=True):
        total += count_macs(correction, _maps(place.channels, crop, place.stride))
    return total


def _maps(channels: int, crop: int, stride: int) -> Tensor:
    side = -(-crop // stride)
    return torch.zeros(1, channels, side, side)
