"""The log of a training run."""

from pathlib import Path

from training_runs import records

from jobs.training.log import LOG, TrainingLog


def test_records_of_lost_steps_are_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(
        '{"kind": "step", "step": 3, "loss": 1.0}\n\0\0\n{"kind": "step", "step": 4}\n{"kind": "st'
    )
    log = TrainingLog(tmp_path, first_step=3)
    log({"kind": "step", "step": 4, "loss": 0.5})
    log.close()
    assert [r["step"] for r in records(tmp_path, "step")] == [3, 4]
    assert records(tmp_path, "step")[1]["loss"] == 0.5
