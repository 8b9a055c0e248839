"""The log of a training run."""

import shutil
from pathlib import Path

import pytest
from training_runs import records

from afd_model.training.losses import LOSS_TERMS
from jobs.training.log import LOG, TrainingLog, log_followed


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainingLog(tmp_path, first_step=0)
    for step, loss in ((1, 2.5), (2, 0.5)):
        log({"kind": "step", "step": step, "loss": loss})
    log({"kind": "validation", "step": 2, "kl": 0.25})
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(found.Tags()["scalars"]) == ["step/loss", "validation/kl"]
    assert [(e.step, e.value) for e in found.Scalars("step/loss")] == [(1, 2.5), (2, 0.5)]
    log = TrainingLog(tmp_path, first_step=1)  # the state of step 2 was lost
    log({"kind": "step", "step": 2, "loss": 0.75})
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("step/loss")] == [(1, 2.5), (2, 0.75)]


@pytest.mark.parametrize("written", [0, 1])
def test_a_disk_that_takes_no_tensorboard_log_does_not_end_the_run(
    written: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard")
    lines: list[str] = []
    monkeypatch.setattr("jobs.training.log.say", lines.append)
    records_to_come = [{"kind": "step", "step": step, "loss": 0.5} for step in range(1, 4)]
    if written:
        log = TrainingLog(tmp_path, first_step=0)
        log(records_to_come.pop(0))
        shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    if not written:
        log = TrainingLog(tmp_path, first_step=0)
    for record in records_to_come:
        log(record)
    assert lines == ["TensorBoard's log ends here: File exists; log.jsonl goes on"]
    assert len(records(tmp_path, "step")) == 3
    assert "Traceback" not in capfd.readouterr().err


def test_records_of_lost_steps_are_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(
        '{"kind": "step", "step": 3, "loss": 1.0}\n\0\0\n{"kind": "step", "step": 4}\n{"kind": "st'
    )
    log = TrainingLog(tmp_path, first_step=3)
    log({"kind": "step", "step": 4, "loss": 0.5})
    assert [r["step"] for r in records(tmp_path, "step")] == [3, 4]
    assert records(tmp_path, "step")[1]["loss"] == 0.5


def test_a_line_has_every_term_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("jobs.training.log.say", lines.append)
    terms = dict.fromkeys(LOSS_TERMS, 0.25)
    log = TrainingLog(tmp_path, first_step=0)
    with log_followed(tmp_path, max_steps=9):
        log({"kind": "step", "step": 1, "loss": 1.5, **terms, "images_per_s": 2.0})
    (said,) = lines
    assert "step 1/9  loss 1.5000" in said
    assert all(f"  {term} 0.2500  " in said for term in ("root_kl", "logits", *LOSS_TERMS))
