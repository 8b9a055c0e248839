"""The training options, the two phases of training, and the learning rate schedule."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from afd_model.training.losses import LossWeights
from afd_model.training.optimizer import OptimizerKind


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        max_steps: optimizer steps; the learning rate is nearly 0 at the last one.
        max_time_s: stop this run after so many seconds; None: no limit.
        stem_steps: length of the first phase, which trains on the distance of the stem's features
            only. It is five times as fast, because the rest of the backbone does not run, and from
            scratch the later losses do not converge (docs/experiments.md).
        stem_learning_rate: peak learning rate of the first phase.
        learning_rate: peak learning rate of the second phase.
        warmup_steps: of each phase, with a linearly increasing learning rate.
        optimizer, weight_decay: see `ModuleOptimizer`.
        ema_decay: of the exponential moving average of the weights, which is validated and
            exported.
        clip_norm: maximum norm of the gradient.
        precision: of autocast; parameters and optimizer state stay float32.
        num_stages: stages behind the stem in the feature loss.
        start_share: share of the initial weights in the weights that are validated and exported;
            the rest is the moving average (Wortsman et al. 2022, arXiv 2109.01903).
        keep: "best": export the weights of the best validation; "last": of the last one, for
            held-out images that are unlike those to be labelled.
        log_every_steps, save_every_steps, validate_every_steps: intervals.
        losses: weights of the loss terms in the second phase.
    """

    max_steps: int
    max_time_s: float | None
    stem_steps: int
    stem_learning_rate: float
    learning_rate: float
    warmup_steps: int
    optimizer: OptimizerKind
    weight_decay: float
    ema_decay: float
    clip_norm: float
    precision: torch.dtype
    num_stages: int
    start_share: float
    keep: Literal["best", "last"]
    log_every_steps: int
    save_every_steps: int
    validate_every_steps: int
    losses: LossWeights


def stem_steps(options: TrainingOptions) -> int:
    """The length of the first phase: `options.stem_steps`, but at most half of all steps."""
    return min(options.stem_steps, options.max_steps // 2)


def learning_rate(step: int, options: TrainingOptions) -> float:
    """The learning rate of a step, 0 to max_steps - 1: per phase, linear warm-up, cosine to 0."""
    highest, steps = options.stem_learning_rate, stem_steps(options)
    if step >= steps:
        highest, step, steps = options.learning_rate, step - steps, options.max_steps - steps
    warmup = min(options.warmup_steps, steps // 2)
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * done))
