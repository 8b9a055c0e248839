"""What a classifier computes for one image: labels, drift angles, features and FDM, for figures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from afd_model.classifier import AFDClassifier
from afd_model.drift import drift_angle_deg


@dataclass(frozen=True)
class Label:
    """A top-1 class and its softmax probability."""

    index: int
    confidence: float


@dataclass(frozen=True)
class Explanation:
    """The results for one image; features and FDM are float32 on the CPU.

    Attributes:
        direct: by the backbone alone.
        afd: with the AFD-Module; None without one.
        clean: of the clean image, by the backbone alone; None without a clean image.
        degraded, enhanced, clean_features: (C, H, W), the stem's features.
        fdm: (c, h, w), each of which may be 1, see `FDENet`; None without a module.
        drift_angle_deg: between degraded and enhanced; None without a trained module.
        true_angle_deg: between degraded and clean; None without a clean image.
        remaining_angle_deg: between enhanced and clean; None without either.
    """

    direct: Label
    afd: Label | None
    clean: Label | None
    degraded: Tensor
    enhanced: Tensor | None
    clean_features: Tensor | None
    fdm: Tensor | None
    drift_angle_deg: float | None
    true_angle_deg: float | None
    remaining_angle_deg: float | None


@torch.inference_mode()
def explain(
    classifier: AFDClassifier, pixels: Tensor, dct: Tensor, clean_pixels: Tensor | None = None
) -> Explanation:
    """Classifies one image with and without the AFD-Module.

    Args:
        classifier: in eval mode, on the tensors' device.
        pixels: (1, 3, crop, crop) normalised, in the classifier's dtype.
        dct: (1, 192, crop/8, crop/8) as `block_dct` gives it, any floating dtype.
        clean_pixels: as `pixels`, of the image before compression.
    """
    bare = classifier.bare(pixels)
    clean = None if clean_pixels is None else classifier.bare(clean_pixels)
    afd = None if classifier.afd is None else classifier.features(pixels, dct)
    return Explanation(
        direct=_label(bare.logits),
        afd=None if afd is None else _label(afd.logits),
        clean=None if clean is None else _label(clean.logits),
        degraded=_one(bare.stem_features),
        enhanced=None if afd is None else _one(afd.enhanced_features),
        clean_features=None if clean is None else _one(clean.stem_features),
        fdm=None if afd is None or afd.fdm is None else _one(afd.fdm),
        drift_angle_deg=_angle(bare.stem_features, afd.enhanced_features)
        if afd is not None and classifier.has_trained_module
        else None,
        true_angle_deg=None if clean is None else _angle(bare.stem_features, clean.stem_features),
        remaining_angle_deg=None
        if afd is None or clean is None
        else _angle(afd.enhanced_features, clean.stem_features),
    )


def _label(logits: Tensor) -> Label:
    confidence, index = torch.softmax(logits[0].float(), dim=0).max(0)
    return Label(int(index), float(confidence))


def _one(tensor: Tensor) -> Tensor:
    return tensor[0].float().cpu()


def _angle(features: Tensor, reference: Tensor) -> float:
    return float(drift_angle_deg(features, reference))
