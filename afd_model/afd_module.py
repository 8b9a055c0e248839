"""The AFD-Module: FDE-Net and FE-Net, applied to the output of a classifier's stem.

Peng et al. 2024, Fig. 2: enhanced = features + FE-Net(features) * FDM. Not in the paper: the module
may also hold a `StageCorrection` for each of the backbone's last stages.
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
    """Stem features of a compressed image and its DCT coefficients -> enhanced stem features.

    An untrained module is the identity: the last layer of FE-Net and of each stage correction
    starts at zero.

    Attributes:
        stage_corrections: one for each of `config.stages`, (B, C, h, w) -> (B, C, h, w). `forward`
            does not call them; `AFDClassifier` does, inside the backbone.
    """

    def __init__(self, config: AFDConfig) -> None:
        super().__init__()
        self.config = config
        gated_channels = config.stem_channels if config.fdm_on == "output" else config.width
        self.fde_net = FDENet(gated_channels, config.fde_hidden, config.fdm, config.dct_input)
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
            dct: (B, 192, h, w) from `block_dct` of the same image, any floating dtype. The FDM is
                resized from h x w to the features' grid.

        Returns:
            The enhanced features (B, C, H, W), and the FDM in (0, 1), broadcastable to the tensor
            that it gates (see `AFDConfig.fdm_on`).
        """
        # One pass over a tensor of the stem's size costs as much as a convolution, so the sum and
        # the product share one here, and the sum and the clamp are in place below.
        if self.config.fdm_on == "output":
            fdm = self.fde_net(dct, features)
            enhanced = torch.addcmul(features, self.fe_net(features), fdm)
        else:
            narrow = self.fe_net.encode(features)
            fdm = self.fde_net(dct, narrow)
            size = (features.shape[2], features.shape[3])
            enhanced = self.fe_net.decode(narrow * fdm, size).add_(features)
        # The paper applies the stem's activation again. An untrained module would then be the
        # identity for ReLU only. Clamping to the activation's range equals ReLU for ReLU, and keeps
        # the identity for SiLU and hard-swish too.
        low, high = self.config.output_min, self.config.output_max
        if low is not None or high is not None:
            enhanced = enhanced.clamp_(low, high)
        return enhanced, fdm

    def fuse(self) -> "AFDModule":
        """Fuses every RepConv into one 3x3 convolution, in place and exactly; returns self.

        Fusing twice is harmless. A fused module cannot be trained as RepConvs or saved.
        """
        fuse_rep_convs(self)
        self.fde_net.fuse()
        return self

    @property
    def is_identity(self) -> bool:
        """Whether all last layers are zero, as in a module that was never trained."""
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


def reconfigured(module: AFDModule, config: AFDConfig) -> AFDModule:
    """A copy with residual blocks and stage corrections added or removed.

    All other weights are kept. Added parts start as the identity, so adding changes no output;
    what a removed part had learnt is lost.

    Args:
        module: not fused; not modified.
        config: may differ from the module's in `size`, `down_blocks` and `up_blocks`, and in
            `stages` and `stage_width` if one of the two configurations has no stages.

    Raises:
        ValueError: `config` differs in another field.
    """
    names = ["size", "down_blocks", "up_blocks"]
    if not (module.config.stages and config.stages):
        names += ["stages", "stage_width"]
    if replace(module.config, **{name: getattr(config, name) for name in names}) != config:
        raise ValueError(
            f"cannot turn {module.config} into {config}: only {', '.join(names)} may differ"
        )
    made = AFDModule(config)
    kept = {key: w for key, w in module.state_dict().items() if key in made.state_dict()}
    made.load_state_dict(kept, strict=False)
    return made
