"""Evaluates a batch with and without the AFD-Module, against the uncompressed images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afd_model.classifier import AFDClassifier
from afd_model.drift import drift, drift_angle_deg
from afd_model.flip_model import FlipModel, flip_features
from afd_model.inference.predictor import Predictor

TOP_K = 5


@dataclass(frozen=True)
class Outcome:
    """The results of N images under one condition. "direct" is the backbone without the module.

    Attributes:
        direct_top, afd_top: (N, k) int64, the k most probable classes, k at most `TOP_K`.
        direct_confidence, afd_confidence: (N,) float32, of the first.
        drift_angle_deg: (N,) float32; 0 without a module.
        true_angle_deg: (N,) float32, between the stem's features of the compressed and the clean
            image.
        flip_probability: (N,) float32; NaN without a flip model.
    """

    direct_top: np.ndarray
    afd_top: np.ndarray
    direct_confidence: np.ndarray
    afd_confidence: np.ndarray
    drift_angle_deg: np.ndarray
    true_angle_deg: np.ndarray
    flip_probability: np.ndarray

    @staticmethod
    def joined(parts: list["Outcome"]) -> "Outcome":
        """Concatenates outcomes of the same condition."""
        return Outcome(*map(np.concatenate, zip(*(part.arrays for part in parts), strict=True)))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(getattr(self, field.name) for field in fields(Outcome))


class OutcomeTable:
    """Collects the outcomes of at most `num_images` images, under any number of conditions.

    In arrays that are made once: a batch's own small arrays, if they were kept, would lie between
    its large tensors, and the heap could not be used again. That costs a megabyte per image and
    condition.
    """

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._arrays: dict[Any, tuple[np.ndarray, ...]] = {}
        self._count = 0

    def add(self, outcomes: Mapping[Any, Outcome]) -> None:
        """Copies the outcomes of a batch: of the same images under each condition."""
        stop = self._count
        for condition, outcome in outcomes.items():
            if condition not in self._arrays:
                self._arrays[condition] = tuple(
                    np.empty((self._num_images, *array.shape[1:]), array.dtype)
                    for array in outcome.arrays
                )
            stop = self._count + len(outcome.direct_top)
            for kept, array in zip(self._arrays[condition], outcome.arrays, strict=True):
                kept[self._count : stop] = array
        self._count = stop

    def outcomes(self) -> dict[Any, Outcome]:
        """Of all added images, in order, by condition."""
        return {
            condition: Outcome(*(array[: self._count] for array in arrays))
            for condition, arrays in self._arrays.items()
        }


class Evaluator:
    """Runs a classifier as `Predictor` does (fused, same precision), and gives its features."""

    def __init__(
        self,
        classifier: AFDClassifier,
        *,
        device: torch.device,
        precision: torch.dtype,
        flip_model: FlipModel | None = None,
    ) -> None:
        self._predictor = Predictor(
            classifier, device=device, precision=precision, flip_model=flip_model
        )
        self.has_trained_module = classifier.has_trained_module

    @torch.inference_mode()
    def clean_stem(self, pixels: Tensor) -> Tensor:
        """The stem's features of the clean images: (B, 3, H, W) -> (B, C, h, w) on the device."""
        return self._predictor.model.stem(self._predictor.placed_pixels(pixels))[0]

    @torch.inference_mode()
    def measure(
        self, pixels: Tensor, dct: Tensor, clean_stem: Tensor, file_facts: Tensor
    ) -> Outcome:
        """Evaluates a batch with and without the module.

        Args:
            pixels, dct: as `AFDClassifier.forward` takes them, any floating dtype and device.
            clean_stem: of the same images, from `clean_stem`.
            file_facts: (B, 2) float32, see `flip_features`.
        """
        pixels = self._predictor.placed_pixels(pixels)
        dct = self._predictor.placed_dct(dct)
        model = self._predictor.model
        direct = model.bare(pixels)
        direct_top, direct_confidence, _ = _top(direct.logits)
        angle = torch.zeros(len(pixels), device=pixels.device)
        flip = torch.full_like(angle, math.nan)
        afd_top, afd_confidence = direct_top, direct_confidence
        if self.has_trained_module:
            found = model.features(pixels, dct)
            afd_top, afd_confidence, probabilities = _top(found.logits)
            angle = drift(found.stem_features, found.enhanced_features).angle_deg
            if self._predictor.flip_scorer is not None:
                features = flip_features(angle, probabilities, dct, file_facts.to(angle.device))
                flip = self._predictor.flip_scorer(features)
        truth = drift_angle_deg(direct.stem_features, clean_stem)
        tensors = (direct_top, afd_top, direct_confidence, afd_confidence, angle, truth, flip)
        return Outcome(*(tensor.cpu().numpy() for tensor in tensors))

    @torch.inference_mode()
    def stems(self, pixels: Tensor, dct: Tensor) -> tuple[Tensor, Tensor | None]:
        """The stem's features and the enhanced ones; None for the latter without a trained module.

        (B, 3, H, W) and (B, 192, H/8, W/8) -> (B, C, h, w) each, on the device.
        """
        pixels = self._predictor.placed_pixels(pixels)
        dct = self._predictor.placed_dct(dct)
        if not self.has_trained_module:
            return self._predictor.model.stem(pixels)[0], None
        return self._predictor.model.stem(pixels, dct)


def _top(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Classes (B, k), confidence of the first (B,) and all probabilities (B, K) float32."""
    probabilities = torch.softmax(logits.float(), dim=1)
    best = probabilities.topk(min(TOP_K, probabilities.shape[1]), dim=1)
    return best.indices, best.values[:, 0], probabilities
