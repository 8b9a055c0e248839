"""The train job: images -> an AFD checkpoint. `train_module(TrainSettings(...))` is `afd train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afd_model.inference.device import resolve_device
from afd_model.training.export import CARD, CHECKPOINT
from afd_model.training.loop import TrainingError
from afd_model.training.training_state import STATE
from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE
from jobs.log import say
from jobs.pool import CONTINUES
from jobs.run_job import run_job
from jobs.run_record import check_job, refuse_other_settings, versions
from jobs.train_settings import TrainSettings
from jobs.training.log import share, shown_live
from jobs.training.worker import note_images, prepare, run_worker
from pipeline.output import RUN, OutputError, OutputFolder
from pipeline.pairs.training_data import Rank


def train_module(settings: TrainSettings) -> dict[str, Any]:
    """Train, or go on where an earlier run with the same settings ended; returns the card.

    Raises ValueError, worded for the user, when the run cannot start; TrainingError or
    ClusterError when it cannot go on.
    """
    settings = settings.located()
    _open(OutputFolder(settings.output), settings)
    folder = Path(settings.output)
    with shown_live(folder, settings.max_steps):
        if settings.workers == 0:
            run_worker(settings, Rank())
        else:
            # A user's mistakes come out here, worded.
            note_images(settings, prepare(settings, resolve_device("cpu")))
            from jobs.training.ray_training import (
                run_on_cluster,  # only here: one process does without Ray
            )

            run_on_cluster(settings)
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def _open(output: OutputFolder, settings: TrainSettings) -> None:
    """Begin or continue. Raises OutputError when the folder holds another run, or is no folder."""
    record = output.read_json(RUN)
    started = (output.path / STATE).exists()
    now = json.loads(json.dumps(settings.model_settings))
    if not started:
        if record is not None:
            check_job(output, record, "max_steps")
        _write_record(output, {"settings": now, "versions": versions()})
    elif record is not None:
        _reopen(output, record, now)
    else:
        raise OutputError(f"{str(output.path)!r} holds a run but no {RUN}: choose another --output")


def _reopen(output: OutputFolder, record: dict[str, Any], now: dict[str, Any]) -> None:
    """Go on with the run of `record`: with the same settings, or for more steps."""
    before = record.get("settings", {})
    steps, wanted = before.get("max_steps", 0), now["max_steps"]
    refuse_other_settings(output, {**before, "max_steps": wanted}, now)
    if wanted < steps:
        raise OutputError(
            f"{str(output.path)!r} holds a run of {steps} steps, more than --max-steps {wanted}:"
            " use as many or more, or another --output"
        )
    if wanted > steps:
        earlier = [*record.get("earlier_max_steps", []), steps]
        _write_record(output, {**record, "settings": now, "earlier_max_steps": earlier})
        say(f"continuing the run in {output.path} for {wanted} steps instead of {steps}")
    else:
        say(f"continuing the run in {output.path}")


def _write_record(output: OutputFolder, record: dict[str, Any]) -> None:
    with output.first_write():
        output.write_json(RUN, record)


def main(arguments: Sequence[str]) -> int:
    """`afd train`: exit code 0 with a checkpoint, 1 when training failed, 2 for bad usage."""
    settings = parse(TrainSettings, arguments, prog="afd train", positional=["input"])
    return run_job(
        "afd train",
        lambda: _run(settings),
        errors=(TrainingError,),
        continued=CONTINUES,
    )


def _run(settings: TrainSettings) -> int:
    card = train_module(settings)
    score = card["held_out_scores"]
    say(
        f"{Path(settings.output) / CHECKPOINT}: {card['ended']}, best at step {card['best_step']};"
        f" held out, compressed: {share(score, 'compressed_agreement')} of the labels are the clean"
        f" picture's ({share(score, 'direct_agreement')} without the module)"
    )
    return EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
