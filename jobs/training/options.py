"""A training run's settings -> the options of the training loop."""

from __future__ import annotations

from typing import Literal

import torch

from afd_model.backbones import Backbone
from afd_model.feature_taps import head_path
from afd_model.inference.device import resolve_precision
from afd_model.training.losses import LossWeights
from afd_model.training.schedule import TrainingOptions
from jobs.train_settings import TrainSettings

# The best of those that were tried (docs/experiments.md), of the stem steps and of the later ones.
_LEARNING_RATES = {"muon": (1e-2, 1.5e-3), "adamw": (2e-3, 3e-4)}


def training_options(
    settings: TrainSettings, backbone: Backbone, device: torch.device
) -> TrainingOptions:
    """The options of the training loop. Raises ValueError when the backbone does not allow them."""
    stem_rate, rate = _LEARNING_RATES[settings.optimizer]
    requested = settings.precision
    if requested == "auto" and device.type == "cuda":
        requested = "bf16"  # has the range of fp32, so the loss needs no scaling
    return TrainingOptions(
        max_steps=settings.max_steps,
        max_time_s=None if isinstance(settings.max_time_s, str) else settings.max_time_s,
        stem_steps=settings.stem_steps,
        stem_learning_rate=_given(settings.stem_learning_rate, stem_rate),
        learning_rate=_given(settings.learning_rate, rate),
        warmup_steps=settings.warmup_steps,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        ema_decay=settings.ema_decay,
        start_share=settings.start_share,
        clip_norm=settings.clip_norm,
        precision=resolve_precision(requested, device),
        num_stages=settings.feature_stages,
        keep=settings.keep,
        log_every_steps=settings.log_every_steps,
        save_every_steps=settings.save_every_steps,
        validate_every_steps=settings.validate_every_steps,
        losses=LossWeights(
            kl=settings.kl_weight,
            root_kl=settings.root_kl_weight,
            logits=settings.logit_weight,
            embedding=_embedding_weight(settings, backbone),
            features=settings.feature_weight,
            stem_l1=settings.stem_l1_weight,
            temperature=settings.kl_temperature,
            distance=settings.distance,
        ),
    )


def _given(value: float | Literal["auto"], auto: float) -> float:
    return auto if value == "auto" else value


def _embedding_weight(settings: TrainSettings, backbone: Backbone) -> float:
    has_embedding = head_path(backbone.module) is not None
    weight = _given(settings.embedding_weight, float(has_embedding))
    if weight and not has_embedding:
        raise ValueError(
            f"{settings.backbone} has no linear layer to take an embedding from: use"
            " --embedding-weight 0"
        )
    return weight
