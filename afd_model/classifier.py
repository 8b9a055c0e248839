"""A frozen classifier with the AFD-Module plugged in: pixels and DCT -> logits and drift."""

import copy
from contextlib import suppress
from itertools import chain
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone
from afd_model.drift import Drift, drift, drift_by_convolutions


class Enhance(Protocol):
    """How a module is applied to the stem's features and the drift scored."""

    def __call__(
        self, module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
    ) -> tuple[Tensor, Drift]:
        """The enhanced features, (B, C, H, W) as `features`, and their drift.

        out: where the enhanced features may be written, and then are what is returned.
        """
        ...


def enhance_then_score(
    module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Drift]:
    """Step by step, on any device; see `AFDModule.forward` and `drift`."""
    enhanced, _ = module(features, dct)
    return enhanced, drift(features, enhanced)


def _enhance_for_compiler(
    module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Drift]:
    """`enhance_then_score` in operators that suit OpenVINO."""
    enhanced, _ = module(features, dct)
    return enhanced, drift_by_convolutions(features, enhanced)


class ClassifierOutput(NamedTuple):
    """One batch's result.

    Attributes:
        logits: (B, K) in the model's dtype.
        drift_angle_deg, drift_energy: (B,) float32; 0 without an AFD-Module.
    """

    logits: Tensor
    drift_angle_deg: Tensor
    drift_energy: Tensor


class ClassifierFeatures(NamedTuple):
    """What training and the figures look at.

    Attributes:
        logits: (B, K).
        before, after: (B, C, H, W), the stem's features as they are and enhanced.
        fdm: see `AFDModule.forward`; None without an AFD-Module.
    """

    logits: Tensor
    before: Tensor
    after: Tensor
    fdm: Tensor | None


class AFDClassifier(nn.Module):
    """Backbone + AFD-Module.

    The backbone stays frozen and in eval mode whatever `train` is told; its parameters are shared
    with `backbone.module`, which itself is left as it was. One instance serves one thread at a
    time: the stem's features pass from inside the backbone through the instance.

    Args:
        backbone: from `load_backbone`.
        afd: made for that backbone's stem; None: the bare backbone.

    Attributes:
        images_per_part: how many images at a time `forward` enhances and scores; None: all. On a
            CPU the module's maps, the largest there are, then stay in the cache while the
            backbone takes a batch whose size suits it.
        enhance: how `forward` applies the module and scores the drift.

    Raises:
        ValueError: the module was made for another number of channels.
    """

    images_per_part: int | None = None
    enhance: Enhance = staticmethod(enhance_then_score)

    def __init__(self, backbone: Backbone, afd: AFDModule | None) -> None:
        super().__init__()
        if afd is not None and afd.config.stem_channels != backbone.stem_channels:
            raise ValueError(
                f"the AFD-Module is for {afd.config.stem_channels} stem channels; "
                f"{backbone.name} has {backbone.stem_channels}"
            )
        self.afd = afd
        self.stem_layer = backbone.stem_layer
        self.crop = backbone.preprocessing.crop
        self._exchange = exchange = _Exchange(afd)
        self.backbone = _sharing_copy(backbone.module)
        stem = self.backbone.get_submodule(backbone.stem_layer)
        self.backbone.set_submodule(backbone.stem_layer, _EnhancedStem(stem, exchange))
        for number, place in enumerate(afd.config.stages if afd else ()):
            layer = self.backbone.get_submodule(place.layer)
            self.backbone.set_submodule(place.layer, _CorrectedStage(layer, exchange, number))
        self.backbone.eval().requires_grad_(requires_grad=False)

    def forward(self, pixels: Tensor, dct: Tensor) -> ClassifierOutput:
        """Labels a batch.

        Args:
            pixels: (B, 3, H, W) normalised, in the model's dtype.
            dct: (B, 192, H/8, W/8) as `block_dct` gives it, in the model's dtype.
        """
        if self.afd is None:
            logits = self.bare(pixels).logits
            zero = torch.zeros(logits.shape[0], dtype=torch.float32, device=logits.device)
            return ClassifierOutput(logits, zero, zero)
        return self._scored(pixels, dct, self.enhance)

    def forward_for_compiler(self, pixels: Tensor, dct: Tensor) -> ClassifierOutput:
        """As `forward`, in operators that suit OpenVINO; needs an AFD-Module."""
        return self._scored(pixels, dct, _enhance_for_compiler)

    def _scored(self, pixels: Tensor, dct: Tensor, enhance: Enhance) -> ClassifierOutput:
        exchange = self._exchange
        exchange.dct, exchange.enhance, exchange.drifts = dct, enhance, []
        exchange.images_per_part = self.images_per_part or pixels.shape[0]
        try:
            logits = self.backbone(pixels)
            angles, energies = zip(*exchange.drifts, strict=True)
        finally:
            exchange.clear()
        return ClassifierOutput(logits, torch.cat(angles), torch.cat(energies))

    def features(self, pixels: Tensor, dct: Tensor) -> ClassifierFeatures:
        """As `forward`, with the stem's features and without the drift; differentiable."""
        exchange = self._exchange
        exchange.dct = dct
        try:
            logits = self.backbone(pixels)
            before, after, fdm = exchange.before, exchange.after, exchange.fdm
        finally:
            exchange.clear()
        assert before is not None
        assert after is not None
        return ClassifierFeatures(logits, before, after, fdm)

    def bare(self, pixels: Tensor) -> ClassifierFeatures:
        """The backbone alone: `after` is `before`, and there is no FDM."""
        exchange = self._exchange
        try:
            logits = self.backbone(pixels)
            before = exchange.before
        finally:
            exchange.clear()
        assert before is not None
        return ClassifierFeatures(logits, before, before, None)

    def stem(self, pixels: Tensor, dct: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The stem's features, (B, C, H, W) each, as they are and enhanced; differentiable.

        Stops there: nothing behind the stem is computed. Without `dct` both are the same.
        """
        exchange = self._exchange
        exchange.dct, exchange.stem_only = dct, True
        try:
            with suppress(_StemReached):
                self.backbone(pixels)
            before, after = exchange.before, exchange.after
        finally:
            exchange.clear()
        assert before is not None
        assert after is not None
        return before, after

    def train(self, mode: bool = True) -> "AFDClassifier":
        """Sets the AFD-Module's mode; the backbone's statistics are never updated."""
        super().train(mode)
        self.backbone.eval()
        return self


class _Exchange:
    """Carries the DCT into the backbone, and the stem's features out of it.

    Without a DCT no part of the AFD-Module is run: that is the bare backbone.
    """

    def __init__(self, afd: AFDModule | None) -> None:
        self.afd = afd
        self.clear()

    def clear(self) -> None:
        self.dct: Tensor | None = None
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self.fdm: Tensor | None = None
        self.stem_only = False
        self.enhance: Enhance | None = None  # None: the drift is not asked for
        self.drifts: list[Drift] = []
        self.images_per_part = 1


class _StemReached(Exception):  # noqa: N818
    """Leaves the backbone's forward pass behind its stem; never seen outside."""


class _EnhancedStem(nn.Module):
    """The backbone's stem layer followed by the AFD-Module.

    The AFD-Module is not registered here: it is the classifier's, and would be saved twice.
    """

    def __init__(self, stem: nn.Module, exchange: _Exchange) -> None:
        super().__init__()
        self.stem = stem
        self._exchange = exchange

    def forward(self, x: Tensor) -> Tensor:
        exchange = self._exchange
        before = self.stem(x)
        if exchange.enhance is not None:
            return self._scored(before, exchange.enhance)
        after = before
        if exchange.afd is not None and exchange.dct is not None:
            after, exchange.fdm = exchange.afd(before, exchange.dct)
        exchange.before, exchange.after = before, after
        if exchange.stem_only:
            raise _StemReached
        return after

    def _scored(self, before: Tensor, enhance: Enhance) -> Tensor:
        """The enhanced features, whose drift the exchange is given."""
        afd, dct, step = self._exchange.afd, self._exchange.dct, self._exchange.images_per_part
        assert afd is not None
        assert dct is not None
        if before.shape[0] <= step:
            enhanced, drifts = enhance(afd, before, dct)
            self._exchange.drifts.append(drifts)
            return enhanced
        after = torch.empty_like(before)
        for part in zip(before.split(step), dct.split(step), after.split(step), strict=True):
            enhanced, drifts = enhance(afd, *part)
            self._exchange.drifts.append(drifts)
            if enhanced is not part[2]:
                part[2].copy_(enhanced)
        return after


class _CorrectedStage(nn.Module):
    """The last layer of a later stage followed by the AFD-Module's correction of it."""

    def __init__(self, layer: nn.Module, exchange: _Exchange, number: int) -> None:
        super().__init__()
        self.layer = layer
        self._exchange = exchange
        self._number = number

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer(x)
        exchange = self._exchange
        if exchange.afd is None or exchange.dct is None:
            return features
        corrected: Tensor = exchange.afd.stage_corrections[self._number](features)
        return corrected


def _sharing_copy(module: nn.Module) -> nn.Module:
    """A copy of the module tree whose parameters and buffers are the original's."""
    tensors = chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
