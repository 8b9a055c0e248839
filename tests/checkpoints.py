"""An AFD checkpoint that changes what the classifier says, for jobs that are given one."""

from pathlib import Path

import torch
from torch import nn

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.checkpoint import save_checkpoint
from afd_model.flip_model import FLIP_FEATURES, FlipModel

MINIATURE = "timm:test_resnet"
"""timm's ResNet for tests: as ResNet-18 is built, a twentieth of its size."""

_COUNT = len(FLIP_FEATURES)
_FLIP = FlipModel(0.0, (1.0,) * _COUNT, (0.0,) * _COUNT, (100.0,) * _COUNT)


def miniature_checkpoint(folder: Path) -> Path:
    """For an untrained miniature: `light`, last layers that are not zero, and a flip model."""
    backbone = load_backbone(MINIATURE, "none")
    torch.manual_seed(0)
    module = AFDModule(config_for(backbone, "light", corrected_stages=2))
    corrections = [correction.up for correction in module.stage_corrections]
    for layer in (module.fe_net.exit, *corrections):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.02)
    path = folder / "afd.safetensors"
    save_checkpoint(path, module, backbone, flip_model=_FLIP)
    return path
