"""The training loop on a miniature backbone: its phases, its records, and what ends it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainers import OPTIONS, OneBatch, RandomPairs, make_trainer, run, weights

from afd_model.backbones import Backbone
from afd_model.checkpoint import load_checkpoint
from afd_model.flip_model import FLIP_FEATURES
from afd_model.training.export import CARD, CHECKPOINT, export, fit_flips
from afd_model.training.loop import train
from afd_model.training.schedule import learning_rate
from afd_model.training.trainer import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_longer_run_does_not_go_back_to_the_stem_alone(
    backbone: Backbone, tmp_path: Path
) -> None:
    """The stem's steps are half of a short run, and would be more of a longer one."""
    short = replace(OPTIONS, stem_steps=1000, max_steps=6, validate_every_steps=6)
    run(make_trainer(backbone, tmp_path, short))
    longer = make_trainer(backbone, tmp_path, replace(short, max_steps=14, log_every_steps=1))
    assert longer.resume()
    records = [r for r in run(longer) if r["kind"] == "step"]
    assert [r["step"] for r in records] == list(range(7, 15))
    assert all("stem" not in r for r in records)


def test_the_first_steps_are_on_the_stem_alone(backbone: Backbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, stem_steps=4, stem_learning_rate=0.01, log_every_steps=3)
    trainer = make_trainer(backbone, tmp_path, options)
    runs: list[int] = []
    trainer.classifier.backbone.layer4.register_forward_hook(lambda *_: runs.append(trainer.step))
    records = [r for r in run(trainer, OneBatch()) if r["kind"] == "step"]
    # A record never mixes the phases' losses.
    assert [(r["step"], "stem" in r, "features" in r) for r in records] == [
        (3, True, False),
        (4, True, False),
        (6, False, True),
        (8, False, True),
    ]
    assert records[1]["loss"] < records[0]["loss"]
    assert min(runs) == 4


def test_time_ends_a_run_with_a_usable_checkpoint(backbone: Backbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, max_steps=10_000, max_time_s=0.0)
    trainer = make_trainer(backbone, tmp_path, options)
    pairs = RandomPairs()
    found: list[str] = []
    reason = train(trainer, pairs, pairs, log=lambda r: None, on_kept=lambda: found.append("kept"))
    assert (reason, trainer.step, found) == ("out of time", 1, ["kept"])
    flip = fit_flips(trainer, backbone, [(pairs, 2)])
    assert flip.means[FLIP_FEATURES.index("quality_missing")] > 0.4  # each once without its quality
    export(trainer, backbone, {"command": "afd train"}, flip)
    module, facts = load_checkpoint(tmp_path / CHECKPOINT, backbone)
    assert not module.is_identity
    assert facts.flip_model == flip
    card = json.loads((tmp_path / CARD).read_text())
    assert card["sha256"] == facts.sha256
    assert card["command"] == facts.training["command"] == "afd train"
    assert card["held_out_scores"] == trainer.kept.score if trainer.kept else False


def test_the_last_step_is_saved_whatever_its_number(backbone: Backbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, save_every_steps=100)
    whole = make_trainer(backbone, tmp_path, options)
    run(whole)
    repeated = make_trainer(backbone, tmp_path, options)
    assert repeated.resume()
    assert repeated.step == OPTIONS.max_steps
    assert repeated.kept is not None
    assert whole.kept is not None
    assert repeated.kept.score == whole.kept.score
    assert run(repeated) == []


def test_a_loss_that_is_no_number_ends_training(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path)
    with torch.no_grad():
        next(trainer.afd.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="no longer a number by step 2"):
        run(trainer)


def test_each_step_is_as_large_as_its_learning_rate(backbone: Backbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, max_steps=4, log_every_steps=1)
    trainer = make_trainer(backbone, tmp_path, options)
    start = weights(trainer.afd)
    trainer.train_step(next(RandomPairs().training(0)))
    moved = max((v - start[k]).abs().max().item() for k, v in weights(trainer.afd).items())
    assert moved == pytest.approx(learning_rate(0, options), rel=0.01)  # AdamW's first step
    rates = [r["learning_rate"] for r in run(trainer) if r["kind"] == "step"]
    assert rates == [learning_rate(step, options) for step in (1, 2, 3)]


def test_weights_that_are_no_numbers_are_not_the_best(backbone: Backbone, tmp_path: Path) -> None:
    """Also where a validation comes before a record of the loss."""
    trainer = make_trainer(backbone, tmp_path, replace(OPTIONS, keep="last", log_every_steps=100))
    pairs = RandomPairs()
    trainer.validate(pairs.held_out())
    kept = trainer.kept
    with torch.no_grad():
        next(trainer.afd.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="no longer a number by step 4"):
        run(trainer, pairs)
    assert trainer.kept is kept
