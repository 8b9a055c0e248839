"""A trainer of a miniature backbone on random pictures: what moves, what does not, what is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainers import OPTIONS, OneBatch, RandomPairs, make_trainer, run, weights

from afd_model.backbones import Backbone
from afd_model.training.export import kept_module
from afd_model.training.losses import LossWeights
from afd_model.training.schedule import learning_rate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_overfits_one_batch_and_moves_nothing_but_the_module(
    backbone: Backbone, tmp_path: Path
) -> None:
    frozen = weights(backbone.module)
    options = replace(OPTIONS, max_steps=30, validate_every_steps=30, learning_rate=0.01)
    trainer = make_trainer(backbone, tmp_path, options)
    start = weights(trainer.afd)
    records = [r for r in run(trainer, OneBatch()) if r["kind"] == "step"]
    assert records[-1]["loss"] < 0.6 * records[0]["loss"]
    moved = [k for k, v in weights(trainer.afd).items() if not torch.equal(v, start[k])]
    assert set(moved) == {name for name, _ in trainer.afd.named_parameters()}
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(value, frozen[name]), name


@pytest.mark.parametrize("term", ["kl", "logits", "embedding", "features", "stem_l1"])
def test_every_term_can_be_learned_alone(backbone: Backbone, tmp_path: Path, term: str) -> None:
    options = replace(
        OPTIONS,
        max_steps=12,
        learning_rate=0.01,
        log_every_steps=1,
        validate_every_steps=12,
        losses=LossWeights(**{term: 1.0}),
    )
    records = [
        r for r in run(make_trainer(backbone, tmp_path, options), OneBatch()) if r["kind"] == "step"
    ]
    assert records[-1][term] < 0.95 * records[0][term]
    assert records[-1]["loss"] == pytest.approx(records[-1][term])


def test_mixed_precision_follows_full_precision(backbone: Backbone, tmp_path: Path) -> None:
    losses = {}
    for precision in (torch.float32, torch.bfloat16):
        options = replace(
            OPTIONS, max_steps=6, log_every_steps=1, validate_every_steps=6, precision=precision
        )
        trainer = make_trainer(backbone, tmp_path, options)
        losses[precision] = [r["loss"] for r in run(trainer, OneBatch()) if r["kind"] == "step"]
        assert all(p.dtype == torch.float32 for p in trainer.afd.parameters())
    np.testing.assert_allclose(losses[torch.bfloat16], losses[torch.float32], rtol=0.05)


def test_an_untrained_module_answers_as_the_backbone(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path)
    score = trainer.validate(RandomPairs().held_out())
    assert score["clean_agreement"] == 1
    assert score["compressed_agreement"] == score["direct_agreement"]


def test_the_best_validation_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path)
    first = trainer.validate(RandomPairs().held_out())
    assert trainer.kept is not None
    weights = trainer.kept.weights
    for parameter in trainer.average.module.parameters():
        parameter.normal_()
    worse = trainer.validate(RandomPairs().held_out())
    assert worse["kl"] > first["kl"]
    assert trainer.kept.score == first
    assert trainer.kept.weights is weights


def test_or_the_last_one(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path, replace(OPTIONS, keep="last"))
    trainer.validate(RandomPairs().held_out())
    for parameter in trainer.average.module.parameters():
        parameter.normal_()
    worse = trainer.validate(RandomPairs().held_out())
    assert trainer.kept is not None
    assert trainer.kept.score == worse


def test_of_the_start_is_kept_what_is_asked_for(backbone: Backbone, tmp_path: Path) -> None:
    """Also by a run that goes on: it is made with the same start."""
    trainer = make_trainer(backbone, tmp_path, replace(OPTIONS, start_share=0.25))
    start = {key: value.clone() for key, value in trainer.afd.state_dict().items()}
    run(trainer)
    average = trainer.average.module.state_dict()
    resumed = make_trainer(backbone, tmp_path, replace(OPTIONS, start_share=0.25))
    assert resumed.resume()
    resumed.validate(RandomPairs().held_out())
    for done in (trainer, resumed):
        exported = kept_module(done).state_dict()
        for key, value in exported.items():
            torch.testing.assert_close(value, 0.25 * start[key] + 0.75 * average[key])
    assert any(not torch.equal(start[key], average[key]) for key in start)


@pytest.mark.parametrize("most", [1e-4, 1e4])
def test_a_gradient_is_scaled_down_to_the_greatest_norm(
    backbone: Backbone, tmp_path: Path, most: float
) -> None:
    trainer = make_trainer(backbone, tmp_path, replace(OPTIONS, clip_norm=most))
    norm = trainer.train_step(next(RandomPairs().training(0)))["grad_norm"].item()
    gradients = [p.grad.flatten() for p in trainer.afd.parameters() if p.grad is not None]
    clipped = torch.linalg.vector_norm(torch.cat(gradients)).item()
    assert 1e-3 < norm < 1e3
    assert clipped == pytest.approx(min(norm, most), rel=1e-3)


def test_the_later_terms_begin_without_the_stems_moments(
    backbone: Backbone, tmp_path: Path
) -> None:
    """A first step of AdamW is as large as the learning rate; one with moments is not."""
    options = replace(OPTIONS, stem_steps=3, stem_learning_rate=0.01, optimizer="adamw")
    trainer = make_trainer(backbone, tmp_path, options)
    batches = RandomPairs().training(0)
    for _ in range(3):
        trainer.train_step(next(batches))
    before = weights(trainer.afd.fe_net)
    trainer.train_step(next(batches))
    after = weights(trainer.afd.fe_net)
    moved = [(after[name] - before[name]).abs().max().item() for name in before]
    assert moved == pytest.approx([learning_rate(3, options)] * len(moved), rel=0.02)
