"""The result of a training run: the module as an AFD checkpoint, and its model card."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from afd_model.afd_module import AFDModule
from afd_model.atomic_file import atomic_write
from afd_model.backbones import Backbone
from afd_model.checkpoint import CheckpointFacts, save_checkpoint
from afd_model.classifier import AFDClassifier
from afd_model.flip_model import FLIP_FEATURES, FlipModel
from afd_model.training.distributed import gathered, is_first
from afd_model.training.flip_fit import also_without_quality, fit_flip_model, flip_samples
from afd_model.training.pairs import Pairs
from afd_model.training.trainer import Trainer, TrainingError
from afd_model.training.training_state import Kept

CHECKPOINT = "afd.safetensors"
CARD = "afd.json"


def kept_module(trainer: Trainer) -> AFDModule:
    """The module with the weights to export. Raises TrainingError before the first validation."""
    module = AFDModule(trainer.afd.config)
    module.load_state_dict(_kept(trainer).weights)
    return module.eval()


def _kept(trainer: Trainer) -> Kept:
    if trainer.kept is None:
        raise TrainingError("nothing has been validated yet: there is nothing to export")
    return trainer.kept


def fit_flips(
    trainer: Trainer, backbone: Backbone, passes: Iterable[tuple[Pairs, int]]
) -> FlipModel:
    """Fits the flip model of the kept module, on randomly compressed images.

    A collective call; all workers get the same model.

    Args:
        passes: pairs, and how many times each of their images is compressed.
    """
    classifier = AFDClassifier(backbone, kept_module(trainer).to(trainer.device)).eval()
    rows = [torch.empty(0, len(FLIP_FEATURES) + 1, device=trainer.device)]
    for pairs, count in passes:
        for number in range(count):
            batches = pairs.random_pass(number)
            rows += [flip_samples(classifier, batch.to(trainer.device)) for batch in batches]
    samples = gathered(torch.cat(rows)).cpu().numpy().astype(np.float64)
    return fit_flip_model(*also_without_quality(samples[:, :-1], samples[:, -1]))


def export(
    trainer: Trainer,
    backbone: Backbone,
    facts: dict[str, Any],
    flip_model: FlipModel | None = None,
) -> CheckpointFacts | None:
    """Writes the kept module and its card to the trainer's folder; only the first worker does.

    The card is for people; except for the digest, the checkpoint has everything in it too.

    Args:
        facts: command, data and settings, to be stored in both; JSON types.
    """
    kept, module = _kept(trainer), kept_module(trainer)
    if not is_first():
        return None
    training = {
        **facts,
        "steps": trainer.step,
        "best_step": kept.step,
        "held_out_scores": kept.score,
    }
    path = trainer.folder / CHECKPOINT
    saved = save_checkpoint(path, module, backbone, training=training, flip_model=flip_model)
    card = {
        "backbone": saved.backbone,
        "backbone_sha256": saved.backbone_sha256,
        "stem_layer": saved.stem_layer,
        "sha256": saved.sha256,
        "has_flip_model": flip_model is not None,
        **training,
    }
    with atomic_write(trainer.folder / CARD) as file:
        file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return saved
