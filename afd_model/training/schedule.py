"""How long and how fast to train: the options, the two phases, the learning rate of each step."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from afd_model.training.losses import LossWeights
from afd_model.training.optimizer import OptimizerKind


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        max_steps: of the optimizer; the cosine ends there.
        max_time_s: end earlier after so many seconds of this run; None: do not.
        stem_steps: of those, the first ones: on the stem's features alone, the backbone behind
            it not run, which is five times as fast. From scratch the later losses find no way to
            the clean features (docs/experiments.md).
        stem_learning_rate: `learning_rate` of the stem steps.
        learning_rate: after `warmup_steps`; it falls to 0 along a cosine. Each phase has its own.
        optimizer: "adamw" | "muon", see `ModuleOptimizer`.
        weight_decay: of weights (not of biases and slopes).
        ema_decay: of the averaged weights, which are what is validated and exported.
        clip_norm: greatest norm of the gradient.
        precision: of the arithmetic (autocast); parameters and sums stay float32.
        num_stages: stages behind the stem that the feature term looks at.
        start_share: of the weights to start from in those that are validated and exported; the
            rest is the average's (Wortsman et al. 2022, arXiv 2109.01903).
        keep: which averaged weights count as the best: those of the best validation, or of the
            last one, where the held-out pictures are not like those that will be labelled.
    """

    max_steps: int = 5000
    max_time_s: float | None = None
    stem_steps: int = 1000
    stem_learning_rate: float = 2e-3
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    optimizer: OptimizerKind = "adamw"
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    clip_norm: float = 1.0
    precision: torch.dtype = torch.float32
    num_stages: int = 4
    start_share: float = 0.0
    keep: Literal["best", "last"] = "best"
    log_every_steps: int = 10
    save_every_steps: int = 100
    validate_every_steps: int = 250
    losses: LossWeights = field(default_factory=LossWeights)


def stem_steps(options: TrainingOptions) -> int:
    """How many steps are on the stem's features alone: never more than half of a short run."""
    return min(options.stem_steps, options.max_steps // 2)


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Of step `step`, counted from 0: in each phase a linear rise, then half a cosine to 0."""
    highest, steps = options.stem_learning_rate, stem_steps(options)
    if step >= steps:
        highest, step, steps = options.learning_rate, step - steps, options.max_steps - steps
    warmup = min(options.warmup_steps, steps // 2)
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
