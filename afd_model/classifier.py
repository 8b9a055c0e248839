"""A frozen classifier with an AFD-Module plugged in: pixels and DCT -> logits and drift scores."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone
from afd_model.drift import Drift, drift


class Enhance(Protocol):
    """Applies an AFD-Module to the stem's features and scores the drift."""

    def __call__(
        self, module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
    ) -> tuple[Tensor, Drift]:
        """Returns the enhanced features, shaped as `features` (B, C, H, W), and their drift.

        An implementation may write the enhanced features to `out` and return it, or ignore `out`.
        """
        ...


def enhance_and_score(
    module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Drift]:
    """The reference `Enhance`, on any device: `AFDModule.forward`, then `drift`."""
    enhanced, _ = module(features, dct)
    return enhanced, drift(features, enhanced)


class ClassifierOutput(NamedTuple):
    """The result for one batch.

    Attributes:
        logits: (B, K) in the model's dtype.
        drift_angle_deg, drift_energy: (B,) float32; 0 without an AFD-Module.
    """

    logits: Tensor
    drift_angle_deg: Tensor
    drift_energy: Tensor


class ClassifierFeatures(NamedTuple):
    """The logits and what leads to them, for training and figures.

    Attributes:
        logits: (B, K).
        stem_features: (B, C, H, W), the stem's output.
        enhanced_features: (B, C, H, W), the AFD-Module's; `stem_features` itself without one.
        fdm: see `AFDModule.forward`; None without an AFD-Module.
    """

    logits: Tensor
    stem_features: Tensor
    enhanced_features: Tensor
    fdm: Tensor | None


class AFDClassifier(nn.Module):
    """A backbone with an AFD-Module at its stem.

    The backbone is frozen and stays in eval mode, also after `train()`. Its parameters are shared
    with `backbone.module`, which is not modified. Not thread-safe: the DCT coefficients reach the
    stem inside the backbone through an attribute of this instance, so each thread needs a copy
    (`copy.deepcopy`).

    Args:
        backbone: from `load_backbone`.
        afd: made for that backbone's stem; None: the backbone alone.

    Attributes:
        afd_micro_batch: how many images `forward` enhances and scores at a time; None: all. On a
            CPU, the module's feature maps, the largest of all, then fit the cache, while the
            backbone takes as many images as suit it.
        enhance: the implementation that `forward` uses; see `Enhance`.

    Raises:
        ValueError: the module was made for another number of channels.
    """

    afd_micro_batch: int | None = None
    enhance: Enhance = staticmethod(enhance_and_score)

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
        self._context = context = _ForwardContext(afd)
        self.backbone = _copy_sharing_tensors(backbone.module)
        stem = self.backbone.get_submodule(backbone.stem_layer)
        self.backbone.set_submodule(backbone.stem_layer, _EnhancedStem(stem, context))
        for index, place in enumerate(afd.config.stages if afd else ()):
            layer = self.backbone.get_submodule(place.layer)
            self.backbone.set_submodule(place.layer, _CorrectedStage(layer, context, index))
        self.backbone.eval().requires_grad_(requires_grad=False)

    @property
    def has_trained_module(self) -> bool:
        """Whether there is an AFD-Module, and not an untrained one: that is the identity."""
        return self.afd is not None and not self.afd.is_identity

    def forward(self, pixels: Tensor, dct: Tensor | None) -> ClassifierOutput:
        """Classifies a batch and scores its drift.

        Args:
            pixels: (B, 3, H, W) normalised, in the model's dtype.
            dct: (B, 192, H/8, W/8) as `block_dct` gives it, any floating dtype; ignored without
                an AFD-Module.
        """
        with self._context.filled(dct) as context:
            context.enhance = self.enhance
            context.afd_micro_batch = self.afd_micro_batch or pixels.shape[0]
            logits = self.backbone(pixels)
            drifts = context.drifts
        if self.afd is None:
            zero = torch.zeros(logits.shape[0], dtype=torch.float32, device=logits.device)
            return ClassifierOutput(logits, zero, zero)
        angles, energies = zip(*drifts, strict=True)
        return ClassifierOutput(logits, torch.cat(angles), torch.cat(energies))

    def bare(self, pixels: Tensor) -> ClassifierFeatures:
        """The backbone alone, without the AFD-Module; differentiable."""
        return self.features(pixels, None)

    def features(self, pixels: Tensor, dct: Tensor | None) -> ClassifierFeatures:
        """As `forward`, with the features in place of the drift scores; differentiable."""
        with self._context.filled(dct) as context:
            logits = self.backbone(pixels)
            stem, enhanced, fdm = context.stem_features, context.enhanced_features, context.fdm
        assert stem is not None
        assert enhanced is not None
        return ClassifierFeatures(logits, stem, enhanced, fdm)

    def stem(self, pixels: Tensor, dct: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The stem's features and the enhanced ones, (B, C, H, W) each; differentiable.

        Computes nothing behind the stem. Without `dct` the two are the same tensor.
        """
        with self._context.filled(dct) as context:
            context.stem_only = True
            with suppress(_StemReached):
                self.backbone(pixels)
            stem, enhanced = context.stem_features, context.enhanced_features
        assert stem is not None
        assert enhanced is not None
        return stem, enhanced

    def train(self, mode: bool = True) -> "AFDClassifier":
        """Sets the AFD-Module's mode; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self


class _ForwardContext:
    """Carries the DCT into the backbone during one forward pass, and features and drift out of it.

    While `dct` is None no part of the AFD-Module runs: that is the backbone alone.
    """

    def __init__(self, afd: AFDModule | None) -> None:
        self.afd = afd
        self.clear()

    def clear(self) -> None:
        self.in_use = False
        self.dct: Tensor | None = None
        self.stem_only = False
        self.enhance: Enhance | None = None  # None: no drift scores, but the features are kept
        self.afd_micro_batch = 1
        self.drifts: list[Drift] = []
        self.stem_features: Tensor | None = None
        self.enhanced_features: Tensor | None = None
        self.fdm: Tensor | None = None

    @contextmanager
    def filled(self, dct: Tensor | None) -> "Iterator[_ForwardContext]":
        """For one forward pass, after which it is empty again.

        Raises:
            RuntimeError: another forward pass is under way. Its results would mix with this one's.
        """
        if self.in_use:
            raise RuntimeError(
                "this classifier is at work in another thread: give each thread a copy,"
                " copy.deepcopy(classifier)"
            )
        self.in_use = True
        self.dct = dct
        try:
            yield self
        finally:
            self.clear()


class _StemReached(Exception):  # noqa: N818
    """Ends the backbone's forward pass after its stem; caught in `AFDClassifier.stem`."""


class _EnhancedStem(nn.Module):
    """The backbone's stem layer followed by the AFD-Module.

    The AFD-Module is not registered here: as a submodule of the backbone too, its weights would
    stand twice in the state dict.
    """

    def __init__(self, stem: nn.Module, context: _ForwardContext) -> None:
        super().__init__()
        self.stem = stem
        self._context = context

    def forward(self, x: Tensor) -> Tensor:
        context = self._context
        features = self.stem(x)
        if context.enhance is not None:
            return features if context.afd is None else self._scored(features, context.enhance)
        enhanced = features
        if context.afd is not None and context.dct is not None:
            enhanced, context.fdm = context.afd(features, context.dct)
        context.stem_features, context.enhanced_features = features, enhanced
        if context.stem_only:
            raise _StemReached
        return enhanced.clone()  # the layer behind may write its output over its input

    def _scored(self, features: Tensor, enhance: Enhance) -> Tensor:
        """Enhances in micro-batches, and leaves the drift scores in the context."""
        context = self._context
        afd, dct, size = context.afd, context.dct, context.afd_micro_batch
        assert afd is not None
        assert dct is not None
        if features.shape[0] <= size:
            enhanced, scores = enhance(afd, features, dct)
            context.drifts.append(scores)
            return enhanced
        result = torch.empty_like(features)
        parts = zip(features.split(size), dct.split(size), result.split(size), strict=True)
        for features_part, dct_part, out in parts:
            enhanced, scores = enhance(afd, features_part, dct_part, out)
            context.drifts.append(scores)
            if enhanced is not out:
                out.copy_(enhanced)
        return result


class _CorrectedStage(nn.Module):
    """The last layer of a later stage followed by the AFD-Module's correction."""

    def __init__(self, layer: nn.Module, context: _ForwardContext, index: int) -> None:
        super().__init__()
        self.layer = layer
        self._context = context
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer(x)
        context = self._context
        if context.afd is None or context.dct is None:
            return features
        corrected: Tensor = context.afd.stage_corrections[self._index](features)
        return corrected


def _copy_sharing_tensors(module: nn.Module) -> nn.Module:
    """A copy of the module tree that shares the original's parameters and buffers."""
    tensors = chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
