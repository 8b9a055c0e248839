"""The log of a training run."""

from pathlib import Path

import pytest
from training_runs import records

from jobs.training.log import LOG, TrainingLog


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainingLog(tmp_path, first_step=0)
    for step, loss in ((1, 2.5), (2, 0.5)):
        log({"kind": "step", "step": step, "loss": loss})
    log({"kind": "validation", "step": 2, "kl": 0.25})
    log.close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(found.Tags()["scalars"]) == ["step/loss", "validation/kl"]
    assert [(e.step, e.value) for e in found.Scalars("step/loss")] == [(1, 2.5), (2, 0.5)]


def test_records_of_lost_steps_are_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(
        '{"kind": "step", "step": 3, "loss": 1.0}\n\0\0\n{"kind": "step", "step": 4}\n{"kind": "st'
    )
    log = TrainingLog(tmp_path, first_step=3)
    log({"kind": "step", "step": 4, "loss": 0.5})
    log.close()
    assert [r["step"] for r in records(tmp_path, "step")] == [3, 4]
    assert records(tmp_path, "step")[1]["loss"] == 0.5
