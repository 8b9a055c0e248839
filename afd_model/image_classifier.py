"""The Python interface: a classifier by name, with its AFD-Module."""

from __future__ import annotations

import torch
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone, load_backbone
from afd_model.checkpoint import CheckpointFacts, resolve_afd
from afd_model.classifier import AFDClassifier, ClassifierOutput
from afd_model.dct import DCT_CHANNELS, block_dct_of_normalized


class ImageClassifier(AFDClassifier):
    """An `AFDClassifier` that computes the DCT itself, and knows its preprocessing and classes.

    Attributes:
        preprocessing: resizing, crop and normalisation of the pixels it expects.
        class_names: one per class, "" for one without; None if they are not known.
        checkpoint: where the AFD-Module's weights come from; None without a module, or if the
            module is untrained (the identity).
    """

    def __init__(
        self, backbone: Backbone, afd: AFDModule | None, checkpoint: CheckpointFacts | None
    ) -> None:
        super().__init__(backbone, afd)
        self.preprocessing = backbone.preprocessing
        self.class_names = backbone.class_names
        self.checkpoint = checkpoint

    def forward(self, pixels: Tensor, dct: Tensor | None = None) -> ClassifierOutput:
        """Classifies a batch and scores its drift.

        Args:
            pixels: (B, 3, H, W) normalised as `preprocessing` says, in the model's dtype.
            dct: (B, 192, H/8, W/8), as `block_dct` gives it for the same images; None: computed
                from the pixels.

        Raises:
            ValueError: a tensor of another shape, or pixels of another dtype.
        """
        self._check(pixels, dct)
        if dct is None and self.afd is not None:
            dct = self.dct_of(pixels)
        return super().forward(pixels, dct)

    def dct_of(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, 192, H/8, W/8) in the pixels' dtype.

        Computed in float32; pixels in half precision have already lost some of the grey levels.
        """
        mean, std = self.preprocessing.mean, self.preprocessing.std
        return block_dct_of_normalized(pixels, mean, std).to(pixels.dtype)

    def _check(self, pixels: Tensor, dct: Tensor | None) -> None:
        """PyTorch's own messages would name a layer inside the backbone, or none at all."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels are (B, 3, H, W), not {tuple(pixels.shape)}")
        dtype = next(self.backbone.parameters()).dtype
        if not pixels.is_floating_point():
            raise ValueError(
                f"pixels are {dtype}, normalised as classifier.preprocessing says,"
                f" not {pixels.dtype}"
            )
        if pixels.dtype != dtype and not torch.is_autocast_enabled(pixels.device.type):
            raise ValueError(
                f"pixels are {pixels.dtype}, but the classifier is {dtype}: use pixels.to({dtype})"
            )
        if self.afd is None or dct is None:
            return
        # A DCT of one image would be broadcast to all of them, one of another grid be resized.
        images, _, height, width = pixels.shape
        expected = (images, DCT_CHANNELS, height // 8, width // 8)
        if tuple(dct.shape) != expected:
            raise ValueError(f"the DCT of these pixels is {expected}, not {tuple(dct.shape)}")


def load_classifier(
    name: str,
    *,
    afd: str = "default",
    weights: str = "default",
    stem_layer: str | None = None,
    class_names: str = "auto",
) -> ImageClassifier:
    """A frozen classifier in eval mode, on the CPU, in float32.

    Args:
        name, weights, stem_layer, class_names: see `load_backbone`.
        afd: "default": the checkpoint that ships for this backbone and these weights, or an
            untrained module (the identity) if none does; "untrained"; "none": no module; or a
            checkpoint file.

    Raises:
        ValueError: an unknown name, weights or layer, or a checkpoint that does not fit. One line.
    """
    backbone = load_backbone(name, weights, stem_layer, class_names)
    module, checkpoint = resolve_afd(afd, backbone)
    return ImageClassifier(backbone, module, checkpoint).eval()
