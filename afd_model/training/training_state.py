"""The state of a training run on disk, from which it resumes."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afd_model.atomic_file import atomic_write

FORMAT = 1
STATE = "state.pt"


class ExponentialAverage:
    """An exponential moving average (EMA) of a module's parameters.

    The decay grows from 0.1 to its final value, so that early averages are not dominated by the
    initial weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Adds the parameters of `module` after step `step`, counted from 1."""
        decay = min(self._decay, step / (9 + step))
        for mine, theirs in zip(self.module.parameters(), module.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


@dataclass
class Kept:
    """The validation that is to be exported, the best so far or the last, and its weights."""

    score: dict[str, float]
    step: int
    weights: dict[str, Tensor]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state atomically."""
    # Via memory: torch.save to a file raises RuntimeError, not OSError, when the disk is full.
    written = io.BytesIO()
    torch.save({"format": FORMAT, **state}, written)
    with atomic_write(path) as file:
        file.write_bytes(written.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """Reads the state, with tensors on the CPU; None if there is no file. Executes nothing in it.

    Raises:
        ValueError: it is damaged or of another version.
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
