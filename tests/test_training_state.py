"""What a run is between two steps: continued, refused where it is not this run's, whole."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from disks import room_for
from torch import nn
from trainers import OPTIONS, RandomPairs, make_trainer, run, weights

from afd_model.backbones import Backbone
from afd_model.training.optimizer import OptimizerKind
from afd_model.training.pairs import PairBatch
from afd_model.training.training_state import ExponentialAverage

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert resumed.kept is not None
    assert whole.kept is not None
    assert (resumed.kept.step, resumed.kept.score) == (whole.kept.step, whole.kept.score)
    pairs = [
        (resumed.afd.state_dict(), whole.afd.state_dict()),
        (resumed.average.module.state_dict(), whole.average.module.state_dict()),
        (resumed.kept.weights, whole.kept.weights),
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
    with room_for(len(before) // 2), pytest.raises(OSError, match="File too large"):
        trainer.save()
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert (tmp_path / "state.pt").read_bytes() == before


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
    average.update(module, 1)
    assert average.module.weight.item() == pytest.approx(0.9)
    nn.init.zeros_(module.weight)
    average.update(module, 100_000)
    assert average.module.weight.item() == pytest.approx(0.9 * 0.99)
