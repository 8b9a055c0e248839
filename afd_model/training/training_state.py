"""What a training run is between two steps, on disk: written whole, read without executing it."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afd_model.whole_file import replacing

FORMAT = 1
STATE = "state.pt"


class ExponentialAverage:
    """A copy of a module whose parameters follow the original's slowly.

    The decay grows from 0.1 to its final value, so that the average is of use from the start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def follow(self, module: nn.Module, step: int) -> None:
        """Move towards `module` after its step `step`, counted from 1."""
        decay = min(self._decay, step / (9 + step))
        for mine, theirs in zip(self.module.parameters(), module.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


@dataclass
class Best:
    """The best validation so far and the averaged weights that it was made with."""

    score: dict[str, float]
    step: int
    weights: dict[str, Tensor]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state, whole or not at all; what was there stays until the new one is complete."""
    # By way of memory: PyTorch's own writer answers a full disk with a RuntimeError.
    written = io.BytesIO()
    torch.save({"format": FORMAT, **state}, written)
    with replacing(path) as file:
        file.write_bytes(written.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """The state, tensors on the CPU, or None where there is none.

    Raises:
        ValueError: it is damaged or of another version; nothing in the file is executed.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises six unrelated types for a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise ValueError(
            f"the training state {str(path)!r} cannot be read ({reason}): remove it to begin anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} is not a training state of this version ({FORMAT})")
    return state
