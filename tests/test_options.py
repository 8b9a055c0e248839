"""What a training run's settings become when they are left to it."""

from dataclasses import replace

import torch
from checkpoints import MINIATURE
from torch import nn

from afd_model.backbones import load_backbone
from jobs.train_settings import TrainSettings
from jobs.training.options import training_options

DEFAULTS = TrainSettings(input="x", output="x", backbone=MINIATURE, weights="none")
CPU = torch.device("cpu")


def test_each_optimizer_has_its_learning_rates() -> None:
    backbone = load_backbone(MINIATURE, "none")
    muon = training_options(DEFAULTS, backbone, CPU)
    adamw = training_options(replace(DEFAULTS, optimizer="adamw"), backbone, CPU)
    assert (muon.stem_learning_rate, muon.learning_rate) == (0.01, 0.0015)
    assert (adamw.stem_learning_rate, adamw.learning_rate) == (0.002, 0.0003)
    given = replace(DEFAULTS, learning_rate=0.5, stem_learning_rate=0.25)
    options = training_options(given, backbone, CPU)
    assert (options.stem_learning_rate, options.learning_rate) == (0.25, 0.5)


def test_an_embedding_is_compared_where_there_is_one() -> None:
    backbone = load_backbone(MINIATURE, "none")
    assert training_options(DEFAULTS, backbone, CPU).losses.embedding == 1
    backbone.module.set_submodule("fc", nn.Identity())  # as in a classifier that ends in a conv
    assert training_options(DEFAULTS, backbone, CPU).losses.embedding == 0
