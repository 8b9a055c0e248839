"""The AFD-Module: FDE-Net and FE-Net together, plugged in at a classifier's stem.

Peng et al. 2024, Fig. 2: enhanced = features + FE-Net(features) * FDM.
"""

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from afd_model.backbones import Backbone
from afd_model.dct import DCT_CHANNELS
from afd_model.fde_net import DCT_INPUTS, FDM_KINDS, DCTInput, FDENet, FDMKind
from afd_model.fe_net import FENet
from afd_model.rep_conv import RepConv, fuse_rep_convs

AFDSize = Literal["paper", "light", "deep"]
AFD_SIZES: tuple[str, ...] = get_args(AFDSize)

# The light size's share of the backbone's multiply-adds, and the widths it chooses from. The cap
# is where the prototype's accuracy stopped paying for the time; below 8 the GEMMs are all overhead.
LIGHT_SHARE = 0.10
LIGHT_WIDTHS = (32, 24, 16, 12, 8, 4)

# The deep size's residual blocks, down and up the paper's U-Net. A block costs as many
# multiply-adds on each of its grids, and four times the parameters on the next coarser one. More
# would fit the budget on ResNet-50, but a light backbone's time is spent already.
DEEP_BLOCKS = ((1, 1), (1, 0))


@dataclass(frozen=True)
class AFDConfig:
    """Everything that shapes an AFD-Module; stored in its checkpoint.

    Attributes:
        stem_channels, stem_stride: the features it enhances, (B, stem_channels, H/stride, ...).
        size: the family it was made from, for messages and file names.
        width: FE-Net's first width.
        reduction: FE-Net's grid over the stem's (1: the stem's own resolution).
        depth: residual RepConv blocks before the U-Net.
        levels: the U-Net's halvings.
        down_blocks, up_blocks: residual blocks on its way down and up, see `FENet`; (): none.
        fde_hidden: FDE-Net's inner width.
        fdm: "channel" | "spatial" | "both" | "full" | "full+channel", see `FDENet`.
        dct_input: "linear" | "log", see `FDENet`.
        fdm_on: "output": the FDM gates the correction (the paper); "bottleneck": it gates the
            last narrow features, which the bias-free exit maps to the correction. The latter
            never makes a map of the stem's full size.
        output_min, output_max: the range of the stem's activation; None: unbounded.
    """

    stem_channels: int
    stem_stride: int
    size: AFDSize = "paper"
    width: int = 16
    reduction: int = 1
    depth: int = 0
    levels: int = 2
    down_blocks: tuple[int, ...] = ()
    up_blocks: tuple[int, ...] = ()
    fde_hidden: int = 128
    fdm: FDMKind = "both"
    dct_input: DCTInput = "linear"
    fdm_on: Literal["output", "bottleneck"] = "output"
    output_min: float | None = None
    output_max: float | None = None

    def __post_init__(self) -> None:
        if self.size not in AFD_SIZES:
            raise ValueError(f"unknown AFD size {self.size!r}: one of {', '.join(AFD_SIZES)}")
        if self.fdm not in FDM_KINDS:
            raise ValueError(f"unknown FDM kind {self.fdm!r}: one of {', '.join(FDM_KINDS)}")
        if self.dct_input not in DCT_INPUTS:
            raise ValueError(
                f"unknown DCT input {self.dct_input!r}: one of {', '.join(DCT_INPUTS)}"
            )
        if self.fdm_on not in ("output", "bottleneck"):
            raise ValueError(f"fdm_on is 'output' or 'bottleneck', not {self.fdm_on!r}")
        for name in ("stem_channels", "stem_stride", "width", "reduction", "fde_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"AFD config: {name} is at least 1, not {getattr(self, name)}")
        for name in ("down_blocks", "up_blocks"):
            blocks = getattr(self, name)
            if blocks and (len(blocks) != self.levels or min(blocks) < 0):
                raise ValueError(
                    f"AFD config: {name} says how many for each of {self.levels} levels,"
                    f" not {blocks}"
                )
        if self.fdm_on == "bottleneck" and self.reduction == 1:
            raise ValueError("AFD config: fdm_on='bottleneck' needs a reduction of at least 2")


class AFDModule(nn.Module):
    """Degraded stem features and DCT coefficients -> enhanced stem features.

    Starts as the identity: FE-Net's last layer is zero.
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

    def forward(self, features: Tensor, dct: Tensor) -> tuple[Tensor, Tensor]:
        """Enhances the features.

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
        """Whether FE-Net's last layer is all zero, as in a module that was never trained."""
        return not any(p.any() for p in self._last_layer())

    def _last_layer(self) -> list[Tensor]:
        exit_layer = self.fe_net.exit
        if isinstance(exit_layer, RepConv):
            return list(exit_layer.kernel())
        return list(exit_layer.parameters())


def config_for(backbone: Backbone, size: AFDSize = "light", **changes: Any) -> AFDConfig:
    """The module's configuration for a backbone.

    "paper" is Peng et al.'s: width 16, at the stem's resolution, FDM on the output. "deep" is that
    with `DEEP_BLOCKS`, this project's gate and the DCT's logarithm. "light" works on half the
    stem's grid and takes the widest FE-Net of `LIGHT_WIDTHS` that costs at most `LIGHT_SHARE` of
    the backbone's multiply-adds at its preset's crop.

    Args:
        changes: fields of `AFDConfig` to set otherwise (an ablation).

    Raises:
        ValueError: an unknown size, or a field's value.
    """
    low, high = backbone.stem_range
    paper = AFDConfig(backbone.stem_channels, backbone.stem_stride, output_min=low, output_max=high)
    if size not in AFD_SIZES:
        raise ValueError(f"unknown AFD size {size!r}: one of {', '.join(AFD_SIZES)}")
    if size == "deep":
        down, up = DEEP_BLOCKS
        deep: dict[str, Any] = {"down_blocks": down, "up_blocks": up}
        gate: dict[str, Any] = {"fdm": "full+channel", "dct_input": "log"}
        return replace(paper, size=size, **(deep | gate | changes))
    # On an eighth of the picture's grid, the DCT's own, the same multiply-adds hold a third of the
    # stem's detail: docs/experiments.md.
    if size == "paper" or backbone.stem_stride >= 8:
        return replace(paper, size=size, **changes)
    crop = backbone.preprocessing.crop
    limit = LIGHT_SHARE * count_macs(backbone.module, torch.zeros(1, 3, crop, crop))
    config = paper
    for width in LIGHT_WIDTHS:
        light: dict[str, Any] = {"width": width, "reduction": 2, "depth": 3, "levels": 0}
        gate = {"fdm": "full+channel", "dct_input": "log", "fdm_on": "bottleneck"}
        config = replace(paper, size=size, fde_hidden=width, **(light | gate | changes))
        if module_macs(config, crop) <= limit:
            break
    return config


def with_blocks_of(module: AFDModule, config: AFDConfig) -> AFDModule:
    """The module with more or fewer residual blocks, the rest of its weights as they are.

    Further blocks start as the identity, so that it computes what `module` does; blocks left out
    take with them what they had learnt.

    Args:
        module: not fused; left as it is.
        config: what to make; only `size`, `down_blocks` and `up_blocks` may differ.

    Raises:
        ValueError: `config` differs in something else.
    """
    free = {name: getattr(config, name) for name in ("size", "down_blocks", "up_blocks")}
    if replace(module.config, **free) != config:
        raise ValueError(f"{module.config} differs from {config} in more than its blocks")
    made = AFDModule(config)
    kept = {key: w for key, w in module.state_dict().items() if key in made.state_dict()}
    made.load_state_dict(kept, strict=False)
    return made


def count_parameters(module: nn.Module) -> int:
    """The number of parameters (fuse first to count what is deployed)."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of the convolutions and matrix products in one forward pass.

    Runs on a copy without storage, so it costs no arithmetic; `inputs` give the shapes only.
    """
    stand_in = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stand_in(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() // 2


def module_macs(config: AFDConfig, crop: int) -> int:
    """Multiply-adds of the fused AFD-Module for one image of crop x crop pixels."""
    side = -(-crop // config.stem_stride)
    features = torch.empty(1, config.stem_channels, side, side, device="meta")
    dct = torch.empty(1, DCT_CHANNELS, crop // 8, crop // 8, device="meta")
    return count_macs(AFDModule(config).fuse(), features, dct)


def config_from_dict(fields: dict[str, Any]) -> AFDConfig:
    """The inverse of `dataclasses.asdict`, refusing what it does not know.

    Raises:
        ValueError: a missing or an unknown field.
    """
    known = set(AFDConfig.__dataclass_fields__)
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"AFD config has unknown fields: {', '.join(unknown)}")
    lists = {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
    try:
        return AFDConfig(**{**fields, **lists})
    except TypeError as error:
        raise ValueError(f"AFD config is incomplete: {error}") from error


def config_to_dict(config: AFDConfig) -> dict[str, Any]:
    """The configuration as plain JSON types."""
    return asdict(config)
