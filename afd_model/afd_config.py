"""The hyperparameters of an AFD-Module's architecture, as its checkpoint stores them."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from afd_model.fde_net import DCT_INPUTS, FDM_KINDS, DCTInput, FDMKind
from afd_model.stage_correction import StagePlace

AFDSize = Literal["paper", "light", "deep"]
AFD_SIZES: tuple[str, ...] = get_args(AFDSize)


@dataclass(frozen=True)
class AFDConfig:
    """The architecture of an AFD-Module; the defaults are the paper's.

    Attributes:
        stem_channels, stem_stride: of the features that it enhances.
        size: the preset that it was made from; training that starts from the module and asks for
            the same one keeps `depth`.
        width, reduction, depth, levels, down_blocks, up_blocks: see `FENet`.
        fde_hidden: `hidden` of `FDENet`.
        fdm: `kind` of `FDENet`.
        dct_input: see `FDENet`.
        fdm_on: "output": the FDM gates FE-Net's output (the paper). "bottleneck": it gates the
            input of FE-Net's last layer, `width` channels at the reduced resolution; that layer
            has no bias, so FDM = 0 still means no correction. No FDM of the stem's size is needed.
        output_min, output_max: range of the stem's activation; None: unbounded.
        stages: where a `StageCorrection` is added behind the stem; (): nowhere (the paper).
        stage_width: `width` of each `StageCorrection`.
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
    stages: tuple[StagePlace, ...] = ()
    stage_width: int = 32

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
        widths = ("stem_channels", "width", "fde_hidden", "stage_width")
        for name in (*widths, "stem_stride", "reduction"):
            _check_whole(name, getattr(self, name), least=1)
        for name in ("depth", "levels"):
            _check_whole(name, getattr(self, name), least=0)
        for name in ("down_blocks", "up_blocks"):
            blocks = getattr(self, name)
            if not isinstance(blocks, tuple) or len(blocks) not in (0, self.levels):
                raise ValueError(
                    f"AFD config: {name} is one number for each of the {self.levels} levels,"
                    f" not {blocks}"
                )
            for count in blocks:
                _check_whole(name, count, least=0)
        for name in ("output_min", "output_max"):
            bound = getattr(self, name)
            if bound is not None and not (type(bound) in (int, float) and math.isfinite(bound)):
                raise ValueError(f"AFD config: {name} is a finite number or null, not {bound!r}")
        for place in self.stages:
            if not isinstance(place.layer, str):
                raise ValueError(f"AFD config: a stage's layer is a path, not {place.layer!r}")
            _check_whole("a stage's channels", place.channels, least=1)
            _check_whole("a stage's stride", place.stride, least=1)
        if self.fdm_on == "bottleneck" and self.reduction == 1:
            raise ValueError("AFD config: fdm_on='bottleneck' needs a reduction of at least 2")


def _check_whole(name: str, value: object, *, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"AFD config: {name} is a whole number >= {least}, not {value!r}")


def config_from_dict(fields: dict[str, Any]) -> AFDConfig:
    """The inverse of `dataclasses.asdict`.

    Raises:
        ValueError: a missing or an unknown field.
    """
    known = set(AFDConfig.__dataclass_fields__)
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"AFD config has unknown fields: {', '.join(unknown)}")
    lists = {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
    try:
        stages = tuple(StagePlace(*place) for place in fields.get("stages", ()))
        return AFDConfig(**{**fields, **lists, "stages": stages})
    except TypeError as error:
        raise ValueError(f"AFD config is incomplete: {error}") from error
