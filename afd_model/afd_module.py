"""The AFD-Module: FDE-Net and FE-Net together, plugged in at a classifier's stem.

Peng et al. 2024, Fig. 2: enhanced = features + FE-Net(features) * FDM. Beyond the paper, it may
correct the ends of the last stages too: `StageCorrection`.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from afd_model.afd_config import AFDConfig
from afd_model.fde_net import FDENet
from afd_model.fe_net import FENet
from afd_model.rep_conv import RepConv, fuse_rep_convs
from afd_model.stage_correction import StageCorrection


class AFDModule(nn.Module):
    """Degraded stem features and DCT coefficients -> enhanced stem features; later ones corrected.

    Starts as the identity: FE-Net's last layer is zero, and those of the corrections are.

    Attributes:
        stage_corrections: of the stages in `config.stages`, (B, C, h, w) -> (B, C, h, w) each.
    """

    def __init__(self, config: AFDConfig) -> None:
        super().__init__()
        self.config = config
        gated = config.stem_channels if config.fdm_on == "output" else config.width
        self.fde_net = FDENet(gated, config.fde_hidden, config.fdm, config.dct_input)
        self.fe_net = FENet(
            config.stem_channels,
            config.width,
            config.reduction,
            config.depth,
            config.levels,
            config.down_blocks,
            config.up_blocks,
        )
        self.stage_corrections = nn.ModuleList(
            StageCorrection(place.channels, config.stage_width) for place in config.stages
        )

    def forward(self, features: Tensor, dct: Tensor) -> tuple[Tensor, Tensor]:
        """Enhances the stem's features.

        Args:
            features: (B, C, H, W), the stem's output, in the module's dtype.
            dct: (B, 192, h, w) from `block_dct` of the same picture, any floating dtype; any
                grid (its map is resampled to the features').

        Returns:
            enhanced (B, C, H, W) and the FDM in (0, 1), broadcastable against what it gates.
        """
        # As few passes as can be: one over the stem's features costs as much as a convolution.
        if self.config.fdm_on == "output":
            fdm = self.fde_net(dct, features)
            enhanced = torch.addcmul(features, self.fe_net(features), fdm)
        else:
            narrow = self.fe_net.encode(features)
            fdm = self.fde_net(dct, narrow)
            size = (features.shape[2], features.shape[3])
            enhanced = self.fe_net.decode(narrow * fdm, size).add_(features)
        # The paper applies the stem's activation once more. That keeps an untrained module the
        # identity for ReLU only; projecting on the activation's range does for SiLU and
        # hard-swish too, and is the same thing for ReLU.
        low, high = self.config.output_min, self.config.output_max
        if low is not None or high is not None:
            enhanced = enhanced.clamp_(low, high)
        return enhanced, fdm

    def fuse(self) -> "AFDModule":
        """Makes every RepConv one 3x3 convolution, in place and exactly; returns self.

        Fusing again does nothing. A fused module cannot be trained on as a RepConv.
        """
        fuse_rep_convs(self)
        self.fde_net.fuse()
        return self

    @property
    def is_identity(self) -> bool:
        """Whether its last layers are all zero, as in a module that was never trained."""
        return not any(p.any() for p in self._last_layers())

    def _last_layers(self) -> Iterator[Tensor]:
        exit_layer = self.fe_net.exit
        if isinstance(exit_layer, RepConv):
            yield from exit_layer.kernel()
        else:
            yield from exit_layer.parameters()
        for correction in self.stage_corrections:
            assert isinstance(correction, StageCorrection)
            yield from correction.up.parameters()


def with_parts_of(module: AFDModule, config: AFDConfig) -> AFDModule:
    """The module with other residual blocks and stage corrections, the rest of its weights kept.

    Further parts start as the identity, so that it computes what `module` does; parts left out
    take with them what they had learnt.

    Args:
        module: not fused; left as it is.
        config: what to make; only `size`, `down_blocks`, `up_blocks`, `stages` and `stage_width`
            may differ, the last two only where `module` corrects no stage or `config` none.

    Raises:
        ValueError: `config` differs in something else.
    """
    names = ["size", "down_blocks", "up_blocks"]
    if not (module.config.stages and config.stages):
        names += ["stages", "stage_width"]
    if replace(module.config, **{name: getattr(config, name) for name in names}) != config:
        raise ValueError(f"{module.config} differs from {config} in more than its parts")
    made = AFDModule(config)
    kept = {key: w for key, w in module.state_dict().items() if key in made.state_dict()}
    made.load_state_dict(kept, strict=False)
    return made
