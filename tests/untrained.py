"""Classifiers with random weights, each made once: they are only read."""

from functools import cache

import torch

from afd_model.backbones import Backbone, load_backbone


@cache
def backbone(name: str) -> Backbone:
    """The same weights in every run."""
    torch.manual_seed(0)
    return load_backbone(name, "none")
