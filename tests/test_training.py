"""The training loop on a tiny backbone and random pictures: what moves, what does not, resuming."""

import json
import math
import resource
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE
from torch import Tensor, nn

from afd_model.afd_config import AFDConfig
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.checkpoint import load_checkpoint
from afd_model.dct import block_dct
from afd_model.training.export import CARD, CHECKPOINT, best_module, export, fit_flips
from afd_model.training.loop import Trainer, TrainingError, train
from afd_model.training.losses import LossWeights
from afd_model.training.optimizer import OptimizerKind
from afd_model.training.pairs import PairBatch
from afd_model.training.schedule import TrainingOptions, learning_rate
from afd_model.training.training_state import ExponentialAverage

SIDE, BATCH = 32, 4
CPU = torch.device("cpu")
OPTIONS = TrainingOptions(
    max_steps=8,
    stem_steps=0,
    learning_rate=3e-3,
    warmup_steps=2,
    ema_decay=0.9,
    validate_every_steps=4,
    save_every_steps=2,
    log_every_steps=2,
    losses=LossWeights(kl=1, features=1, stem_l1=0.5),
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
            quality,
            torch.arange(BATCH),
        )


class OneBatch(RandomPairs):
    def _batch(self, seed: int) -> PairBatch:
        return super()._batch(0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(MINIATURE, "none")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    none = dict.fromkeys(("kl", "logits", "embedding", "features", "stem_l1"), 0.0)
    losses = LossWeights(**none | {term: 1.0})
    options = replace(
        OPTIONS,
        max_steps=12,
        learning_rate=0.01,
        log_every_steps=1,
        validate_every_steps=12,
        losses=losses,
    )
    records = [
        r for r in run(make_trainer(backbone, tmp_path, options), OneBatch()) if r["kind"] == "step"
    ]
    assert records[-1][term] < 0.95 * records[0][term]
    assert records[-1]["loss"] == pytest.approx(records[-1][term])


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


# Killed where the optimizer's sums have to be kept, and where those of the stem's steps end.
@pytest.mark.parametrize(
    ("stem_steps", "optimizer", "validate_every_steps"), [(0, "muon", 8), (4, "adamw", 4)]
)
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    backbone: Backbone,
    tmp_path: Path,
    stem_steps: int,
    optimizer: OptimizerKind,
    validate_every_steps: int,
) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    options = replace(
        OPTIONS,
        stem_steps=stem_steps,
        optimizer=optimizer,
        validate_every_steps=validate_every_steps,
    )
    whole = make_trainer(backbone, tmp_path / "whole", options)
    run(whole)

    class Killed(RandomPairs):
        def training(self, first_step: int) -> Generator[PairBatch, None, None]:
            for step, batch in enumerate(super().training(first_step), first_step):
                if step == 5:  # after the save at step 4, one step is lost
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(backbone, tmp_path / "broken", options), Killed())
    torch.manual_seed(99)
    resumed = make_trainer(backbone, tmp_path / "broken", options)
    assert resumed.resume()
    assert resumed.step == 4
    run(resumed)
    assert resumed.best is not None
    assert whole.best is not None
    assert (resumed.best.step, resumed.best.score) == (whole.best.step, whole.best.score)
    pairs = [
        (resumed.afd.state_dict(), whole.afd.state_dict()),
        (resumed.average.module.state_dict(), whole.average.module.state_dict()),
        (resumed.best.weights, whole.best.weights),
    ]
    for mine, theirs in pairs:
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=0, atol=0)


def test_a_run_does_not_go_on_with_other_weights_of_the_backbone(
    backbone: Backbone, tmp_path: Path
) -> None:
    make_trainer(backbone, tmp_path).save()
    other = make_trainer(replace(backbone, weights_sha256="ab" * 32), tmp_path)
    with pytest.raises(ValueError, match="a run on other weights of the backbone"):
        other.resume()
    assert make_trainer(backbone, tmp_path).resume()


def test_a_damaged_state_is_refused_and_nothing_in_it_is_run(
    backbone: Backbone, tmp_path: Path
) -> None:
    trainer = make_trainer(backbone, tmp_path)
    assert not trainer.resume()
    trainer.save()
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot be read .*remove it to begin anew"):
        trainer.resume()
    trainer.save()
    whole = torch.load(state)
    for changed in ({"average": {}}, {"optimizer": None}, {"best": 3}):
        torch.save(whole | changed, state)
        with pytest.raises(ValueError, match="is not of this run's module") as caught:
            trainer.resume()
        assert "\n" not in str(caught.value)
    torch.save({"format": 1, "step": Path("x")}, state)  # a pickle of an unknown class
    with pytest.raises(ValueError, match="cannot be read"):
        trainer.resume()


def test_a_state_that_finds_no_room_is_a_disks_error_and_leaves_the_last_one(
    backbone: Backbone, tmp_path: Path
) -> None:
    trainer = make_trainer(backbone, tmp_path)
    trainer.save()
    before = (tmp_path / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert (tmp_path / "state.pt").read_bytes() == before


def test_time_ends_a_run_with_a_usable_checkpoint(backbone: Backbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, max_steps=10_000, max_time_s=0.0)
    trainer = make_trainer(backbone, tmp_path, options)
    pairs = RandomPairs()
    found: list[str] = []
    reason = train(trainer, pairs, pairs, log=lambda r: None, on_best=lambda: found.append("best"))
    assert (reason, trainer.step, found) == ("out of time", 1, ["best"])
    flip = fit_flips(trainer, backbone, [(pairs, 2)])
    export(trainer, backbone, {"command": "afd train"}, flip)
    module, facts = load_checkpoint(tmp_path / CHECKPOINT, backbone)
    assert not module.is_identity
    assert facts.flip_model == flip
    card = json.loads((tmp_path / CARD).read_text())
    assert card["sha256"] == facts.sha256
    assert card["command"] == facts.training["command"] == "afd train"
    assert card["held_out_scores"] == trainer.best.score if trainer.best else False


def test_the_best_validation_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path)
    first = trainer.validate(RandomPairs().held_out())
    assert trainer.best is not None
    kept = trainer.best.weights
    for parameter in trainer.average.module.parameters():
        parameter.normal_()
    worse = trainer.validate(RandomPairs().held_out())
    assert worse["kl"] > first["kl"]
    assert trainer.best.score == first
    assert trainer.best.weights is kept


def test_or_the_last_one(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path, replace(OPTIONS, keep="last"))
    trainer.validate(RandomPairs().held_out())
    for parameter in trainer.average.module.parameters():
        parameter.normal_()
    worse = trainer.validate(RandomPairs().held_out())
    assert trainer.best is not None
    assert trainer.best.score == worse


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
        exported = best_module(done).state_dict()
        for key, value in exported.items():
            torch.testing.assert_close(value, 0.25 * start[key] + 0.75 * average[key])
    assert any(not torch.equal(start[key], average[key]) for key in start)


def test_a_loss_that_is_no_number_ends_training(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path)
    with torch.no_grad():
        next(trainer.afd.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="no longer a number by step 2"):
        run(trainer)


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
    best = trainer.best
    with torch.no_grad():
        next(trainer.afd.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="no longer a number by step 4"):
        run(trainer, pairs)
    assert trainer.best is best


def test_the_average_follows_as_slowly_as_it_is_told(backbone: Backbone, tmp_path: Path) -> None:
    trainer = make_trainer(backbone, tmp_path, replace(OPTIONS, ema_decay=0.08))
    start = weights(trainer.afd)
    trainer.train_step(next(RandomPairs().training(0)))
    average, now = weights(trainer.average.module), weights(trainer.afd)
    for key, value in average.items():
        torch.testing.assert_close(value, 0.08 * start[key] + 0.92 * now[key])


def test_the_average_follows_fast_then_slowly() -> None:
    module = nn.Linear(1, 1)
    nn.init.zeros_(module.weight)
    average = ExponentialAverage(module, 0.99)
    nn.init.ones_(module.weight)
    average.follow(module, 1)
    assert average.module.weight.item() == pytest.approx(0.9)
    nn.init.zeros_(module.weight)
    average.follow(module, 100_000)
    assert average.module.weight.item() == pytest.approx(0.9 * 0.99)
