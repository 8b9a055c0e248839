"""Trainers of a miniature backbone on random pairs."""

import math
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afd_model.afd_config import AFDConfig
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone
from afd_model.dct import block_dct
from afd_model.training.loop import train
from afd_model.training.losses import LossWeights
from afd_model.training.pairs import PairBatch
from afd_model.training.schedule import TrainingOptions
from afd_model.training.trainer import Trainer

SIDE, BATCH = 32, 4
CPU = torch.device("cpu")
OPTIONS = TrainingOptions(
    max_steps=8,
    max_time_s=None,
    stem_steps=0,
    stem_learning_rate=2e-3,
    learning_rate=3e-3,
    warmup_steps=2,
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.9,
    clip_norm=1.0,
    precision=torch.float32,
    num_stages=4,
    start_share=0.0,
    keep="best",
    log_every_steps=2,
    save_every_steps=2,
    validate_every_steps=4,
    losses=LossWeights(kl=1, logits=0.2, features=1, stem_l1=0.5),
)


class RandomPairs:
    """Smooth random pictures and their coarsened twins; the same for the same step."""

    def training(self, first_step: int) -> Generator[PairBatch, None, None]:
        step = first_step
        while True:
            yield self._batch(step)
            step += 1

    def held_out(self) -> Iterator[PairBatch]:
        yield self._batch(1000)
        yield self._batch(1001)

    def random_pass(self, number: int) -> Iterator[PairBatch]:
        yield self._batch(2000 + number)

    def _batch(self, seed: int) -> PairBatch:
        generator = torch.Generator().manual_seed(seed)
        small = torch.rand(BATCH, 3, 16, 16, generator=generator)
        clean = nn.functional.interpolate(small, size=SIDE, mode="bilinear")
        coarse = nn.functional.avg_pool2d(clean, 4)
        degraded = nn.functional.interpolate(coarse, size=SIDE, mode="nearest")
        degraded[0] = clean[0]
        quality = torch.tensor([math.nan, 10.0, 20.0, 30.0])
        return PairBatch(
            clean * 4 - 2,
            degraded * 4 - 2,
            block_dct(degraded * 255),
            torch.stack([quality, torch.zeros(BATCH)], dim=1),
            compressed=torch.arange(BATCH) > 0,
        )


class OneBatch(RandomPairs):
    def _batch(self, seed: int) -> PairBatch:
        return super()._batch(0)


@cache
def light(backbone: Backbone) -> AFDConfig:
    return config_for(backbone, "light")


def make_trainer(backbone: Backbone, folder: Path, options: TrainingOptions = OPTIONS) -> Trainer:
    config = light(backbone)  # to find it draws random numbers, the first time
    torch.manual_seed(0)
    afd = AFDModule(config)
    return Trainer(backbone, afd, options, device=CPU, folder=folder)


def run(trainer: Trainer, pairs: RandomPairs | None = None) -> list[dict[str, Any]]:
    pairs = pairs or RandomPairs()
    records: list[dict[str, Any]] = []
    train(trainer, pairs, pairs, log=records.append)
    return records


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
