"""How far quantization turns a block's features, against how far it turns its DCT coefficients.

Peng et al. 2024, Fig. 4: for each 8x8 block the Feature Response Angle between the compressed and
the clean image against the angle between their DCT coefficients. Their correlation is why the
module can estimate the drift from the DCT.

The angle is between all 192 coefficients, the input of FDE-Net. Without the DC terms the rank
correlation on 40 ImageNet photographs falls from 0.75 to -0.2: a block of low contrast loses all
its AC coefficients, which is a large angle between coefficients and a small one between features.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from afd_model.backbones import Backbone
from afd_model.dct import block_dct_of_normalized
from afd_model.drift import drift_angle_deg
from afd_model.evaluation.evaluator import Evaluator

BLOCK_PIXELS = 8


class BlockAngles(NamedTuple):
    """Angles between a compressed image's blocks and the clean image's, in degrees, 0 to 180.

    Attributes:
        dct_deg: (B, rows, columns) float32, of the DCT coefficients.
        direct_deg: likewise, of the stem's features.
        enhanced_deg: likewise, of the enhanced features; None without a trained module.
    """

    dct_deg: np.ndarray
    direct_deg: np.ndarray
    enhanced_deg: np.ndarray | None


def block_angles_deg(features: Tensor, reference: Tensor, positions: int) -> Tensor:
    """`drift_angle_deg` of every block of a grid.

    Args:
        features, reference: (B, C, H, W). The reference's norms are the weights.
        positions: side of a block. Rows and columns beyond the last whole block are ignored.

    Returns:
        (B, H // positions, W // positions) degrees.
    """
    rows, columns = features.shape[2] // positions, features.shape[3] // positions
    blocks = (_blocks(x, positions, rows, columns) for x in (features, reference))
    return drift_angle_deg(*blocks).unflatten(0, (features.shape[0], rows, columns))


def _blocks(x: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) -> (B * rows * columns, C, side, side)."""
    whole = x[:, :, : rows * side, : columns * side]
    parted = whole.unflatten(3, (columns, side)).unflatten(2, (rows, side))
    return parted.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


class CleanPicture(NamedTuple):
    """features: (B, C, H, W) of the stem. dct: (B, 192, h, w)."""

    features: Tensor
    dct: Tensor


class AngleMeter:
    """Measures block angles where `Evaluator` measures labels.

    Like `Evaluator`, it implements `pipeline.pairs.evaluate_images.Model`.

    Args:
        evaluator: runs the classifier.
        backbone: the classifier's, with a stem of stride 8 or less.
    """

    def __init__(self, evaluator: Evaluator, backbone: Backbone) -> None:
        self._evaluator = evaluator
        self._preprocessing = backbone.preprocessing
        self._positions = BLOCK_PIXELS // backbone.stem_stride

    @torch.inference_mode()
    def clean_stem(self, pixels: Tensor) -> CleanPicture:
        """(B, 3, H, W) normalised -> the reference for the same images compressed."""
        dct = block_dct_of_normalized(pixels, self._preprocessing.mean, self._preprocessing.std)
        return CleanPicture(self._evaluator.clean_stem(pixels), dct)

    @torch.inference_mode()
    def measure(
        self, pixels: Tensor, dct: Tensor, clean_stem: CleanPicture, file_facts: Tensor
    ) -> BlockAngles:
        """The angles of a batch of compressed images.

        Args:
            pixels, dct: as `AFDClassifier.forward` takes them, any floating dtype and device.
            clean_stem: of the same images.
            file_facts: unused; the interface has it.
        """
        del file_facts
        before, after = self._evaluator.stems(pixels, dct)
        turned = block_angles_deg(dct.float(), clean_stem.dct.to(dct.device), 1)
        direct = self._angles(before, clean_stem.features)
        rows, columns = (min(a, b) for a, b in zip(turned.shape[1:], direct.shape[1:], strict=True))
        enhanced = None if after is None else self._angles(after, clean_stem.features)
        return BlockAngles(
            _host(turned, rows, columns),
            _host(direct, rows, columns),
            None if enhanced is None else _host(enhanced, rows, columns),
        )

    def _angles(self, features: Tensor, reference: Tensor) -> Tensor:
        return block_angles_deg(features, reference, self._positions)


def _host(angles: Tensor, rows: int, columns: int) -> np.ndarray:
    return angles[:, :rows, :columns].cpu().numpy()
