"""What a classifier says about a batch."""

from dataclasses import dataclass

import numpy as np


class NotFiniteError(ValueError):
    """Probabilities that are not numbers; the message is one line for the user."""


@dataclass(frozen=True)
class Predictions:
    """The predictions for one batch, on the host.

    Attributes:
        labels: (B,) int32, top-1.
        confidences: (B,) float32, its softmax probability.
        top_labels: (B, k) int32, most probable first.
        top_confidences: (B, k) float32.
        drift_angle_deg, drift_energy: (B,) float32; None without a trained AFD-Module.
        flip_probability: (B,) float32; None without a flip model.
    """

    labels: np.ndarray
    confidences: np.ndarray
    top_labels: np.ndarray
    top_confidences: np.ndarray
    drift_angle_deg: np.ndarray | None
    drift_energy: np.ndarray | None
    flip_probability: np.ndarray | None
