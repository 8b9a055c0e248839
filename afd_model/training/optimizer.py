"""The optimizer of an AFD-Module: AdamW, or Muon for the kernels and AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) orthogonalises the update of
each matrix, so that rare directions get steps as large as the dominant ones.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

OptimizerKind = Literal["adamw", "muon"]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerKind)


class ModuleOptimizer:
    """One learning rate for all parameters; weight decay for weights only, not biases and slopes.

    Args:
        module: already on its device; "muon" keeps views of its parameters.
        kind: "adamw"; "muon": `torch.optim.Muon` for parameters of two dimensions or more, with
            steps as large as AdamW's (`match_rms_adamw`), and AdamW for the rest.
        weight_decay: decoupled.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, module: nn.Module, kind: OptimizerKind, weight_decay: float) -> None:
        if kind not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {kind!r}: one of {', '.join(OPTIMIZERS)}")
        self._parameters = list(module.parameters())
        weights = [p for p in self._parameters if p.ndim >= 2]
        plain = {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0}
        self._matrices: list[tuple[Tensor, Tensor]] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        if kind == "muon":
            # Muon takes matrices only: view each (out, in, 3, 3) kernel as (out, 9 in).
            self._matrices = [(p, p.detach().view(p.shape[0], -1)) for p in weights]
            self._optimizers = [
                torch.optim.Muon(
                    [matrix for _, matrix in self._matrices],
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                ),
                torch.optim.AdamW([plain]),
            ]
        else:
            groups = [{"params": weights, "weight_decay": weight_decay}, plain]
            self._optimizers = [torch.optim.AdamW(groups)]

    def zero_grad(self) -> None:
        """Sets the gradients to None."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        """Updates the parameters."""
        for parameter, matrix in self._matrices:
            matrix.grad = None if parameter.grad is None else parameter.grad.view_as(matrix)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def reset_state(self) -> None:
        """Clears momentum and second moments: the next step is like the first."""
        for optimizer in self._optimizers:
            optimizer.state.clear()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each optimizer."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse of `state_dict`. Raises ValueError for the state of another kind."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)
