"""A classifier by name with its AFD-Module, used from Python: pixels in, logits and drift out."""

from __future__ import annotations

import torch
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone, load_backbone
from afd_model.checkpoint import CheckpointFacts, resolve_afd
from afd_model.classifier import AFDClassifier, ClassifierOutput
from afd_model.dct import block_dct


class ImageClassifier(AFDClassifier):
    """An `AFDClassifier` that needs the pixels alone, and knows what goes in and what comes out.

    Attributes:
        preprocessing: the resizing, crop and normalisation that the pixels are to have.
        class_names: one a class, or None where they are not known.
        checkpoint: of the AFD-Module; None where it is untrained (the identity) or left out.
    """

    def __init__(
        self, backbone: Backbone, afd: AFDModule | None, checkpoint: CheckpointFacts | None
    ) -> None:
        super().__init__(backbone, afd)
        self.preprocessing = backbone.preprocessing
        self.class_names = backbone.class_names
        self.checkpoint = checkpoint

    def forward(self, pixels: Tensor, dct: Tensor | None = None) -> ClassifierOutput:
        """Labels a batch.

        Args:
            pixels: (B, 3, H, W) normalised as `preprocessing` says, in the model's dtype.
            dct: (B, 192, H/8, W/8) as `block_dct` gives it of the same pixels; None: computed here.
        """
        return super().forward(pixels, self.dct_of(pixels) if dct is None else dct)

    def dct_of(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, 192, H/8, W/8) of the pixels' dtype.

        The grey levels are recovered in float32: pixels in half precision have lost some already.
        """
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.preprocessing.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.preprocessing.std, device=pixels.device).view(shape)
        return block_dct(255 * (pixels.float() * std + mean)).to(pixels.dtype)


def load_classifier(
    name: str,
    *,
    afd: str = "default",
    weights: str = "default",
    stem_layer: str | None = None,
    class_names: str = "auto",
) -> ImageClassifier:
    """A frozen classifier in eval mode, on the CPU, in float32; `.to(...)` moves it.

    Args:
        name, weights, stem_layer, class_names: see `load_backbone`.
        afd: "default": the checkpoint that ships for this backbone and these weights, or the
            identity where none does; "none"; or a checkpoint file, see `resolve_afd`.

    Raises:
        ValueError: an unknown name, weights or layer, or a checkpoint that does not fit. One line.
    """
    backbone = load_backbone(name, weights, stem_layer, class_names)
    module, checkpoint = resolve_afd(afd, backbone)
    return ImageClassifier(backbone, module, checkpoint).eval()
