"""A training run's result: the best averaged module as an AFD checkpoint, and its card."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone
from afd_model.checkpoint import CheckpointFacts, save_checkpoint
from afd_model.classifier import AFDClassifier
from afd_model.drift import FLIP_FEATURES, FlipModel
from afd_model.training.distributed import gathered, is_first
from afd_model.training.flip_fit import fit_flip_model, flip_samples
from afd_model.training.loop import Pairs, Trainer, TrainingError
from afd_model.whole_file import replacing

CHECKPOINT = "afd.safetensors"
CARD = "afd.json"


def best_module(trainer: Trainer) -> AFDModule:
    """A copy of the module as it was at the best validation. Raises TrainingError before one."""
    if trainer.best is None:
        raise TrainingError("nothing has been validated yet: there is nothing to export")
    module = AFDModule(trainer.afd.config)
    module.load_state_dict(trainer.best.weights)
    return module.eval()


def fit_flips(
    trainer: Trainer, backbone: Backbone, passes: Iterable[tuple[Pairs, int]]
) -> FlipModel:
    """The flip model of the best module, on images compressed at random.

    passes: images, and how often each of them is drawn. Every worker must call it; all get the
    same model.
    """
    classifier = AFDClassifier(backbone, best_module(trainer).to(trainer.device)).eval()
    rows = [torch.empty(0, len(FLIP_FEATURES) + 1, device=trainer.device)]
    for pairs, count in passes:
        for number in range(count):
            batches = pairs.random_pass(number)
            rows += [flip_samples(classifier, batch.to(trainer.device)) for batch in batches]
    samples = gathered(torch.cat(rows)).cpu().numpy().astype(np.float64)
    return fit_flip_model(samples[:, :-1], samples[:, -1])


def export(
    trainer: Trainer,
    backbone: Backbone,
    facts: dict[str, Any],
    flip_model: FlipModel | None = None,
) -> CheckpointFacts | None:
    """Write the best module and its card to the trainer's folder; the first worker's duty.

    facts: JSON types, kept in both: the command, the data, the settings. The card is for people;
    everything in it but the digest stands in the checkpoint too.
    """
    module = best_module(trainer)
    if not is_first() or trainer.best is None:
        return None
    training = {
        **facts,
        "steps": trainer.step,
        "best_step": trainer.best.step,
        "held_out_scores": trainer.best.score,
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
    with replacing(trainer.folder / CARD) as file:
        file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return saved
