"""`afd train`: images -> an AFD checkpoint. `train_module(TrainSettings(...))` is for Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afd_model.inference.device import resolve_device
from afd_model.training.export import CARD, CHECKPOINT
from afd_model.training.trainer import TrainingError
from afd_model.training.training_state import STATE
from jobs.cluster_address import check_address
from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, SAME_COMMAND_CONTINUES
from jobs.log import say
from jobs.run_job import output_on_disk, run_job
from jobs.run_record import check_job, refuse_other_settings, versions
from jobs.train_settings import TrainSettings
from jobs.training.log import log_followed, share
from jobs.training.worker import card_settings, prepare, record_images, run_worker
from pipeline.output import RUN, DamagedError, OutputError, OutputFolder
from pipeline.pairs.training_data import Rank


def train_module(settings: TrainSettings) -> dict[str, Any]:
    """Train, or continue an earlier run with the same settings; returns the checkpoint's card.

    Raises ValueError, worded for the user, when the run cannot start; TrainingError or
    ClusterError when it cannot go on.
    """
    settings = settings.located()
    folder, output = Path(settings.output), OutputFolder(settings.output)
    if settings.workers:
        check_address(settings.address)
    _open(output, settings)
    if finished := _finished(output, settings):
        say(f"{folder} is complete ({settings.max_steps} steps): nothing to do")
        return finished
    with log_followed(folder, settings.max_steps):
        if settings.workers == 0:
            run_worker(settings, Rank())
        else:
            # Finds a user's mistakes before Ray starts.
            record_images(settings, prepare(settings, resolve_device("cpu")))
            from jobs.training.ray_training import run_on_cluster  # needs Ray

            run_on_cluster(settings)
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def _open(output: OutputFolder, settings: TrainSettings) -> None:
    """Start or continue the run of the output folder.

    Raises OutputError when the output holds another run or is not a folder.
    """
    record = output.read_json(RUN)
    started = (output.path / STATE).exists()
    if not started:
        if record is not None:
            check_job(output, record, "max_steps")
        _write_record(output, {"settings": settings.content_settings, "versions": versions()})
    elif record is not None:
        _reopen(output, record, settings)
    else:
        raise OutputError(f"{str(output.path)!r} holds a run but no {RUN}: choose another --output")


def _reopen(output: OutputFolder, record: dict[str, Any], settings: TrainSettings) -> None:
    """Continue the recorded run with the same settings, or for more steps."""
    now = settings.content_settings
    before = record.get("settings", {})
    steps, wanted = before.get("max_steps", 0), now["max_steps"]
    refuse_other_settings(output, {**before, "max_steps": wanted}, now)
    if wanted < steps:
        raise OutputError(
            f"{str(output.path)!r} holds a run of {steps} steps, more than --max-steps {wanted}:"
            f" use {steps} or more, or another --output"
        )
    if wanted > steps:
        earlier = [*record.get("earlier_max_steps", []), steps]
        _write_record(output, {**record, "settings": now, "earlier_max_steps": earlier})
        say(f"continuing the run in {output.path} for {wanted} steps instead of {steps}")
    elif not _finished(output, settings):
        say(f"continuing the run in {output.path}")


def _finished(output: OutputFolder, settings: TrainSettings) -> dict[str, Any] | None:
    """The card of a run whose steps and flip model are all done; None when something is left."""
    try:
        card = output.read_json(CARD) or {}
    except DamagedError:  # it is written again
        return None
    done = "ended" in card and card["steps"] == settings.max_steps
    same = card.get("settings") == card_settings(settings)
    there = all((output.path / name).is_file() for name in (STATE, CHECKPOINT))
    return card if done and same and there else None


def _write_record(output: OutputFolder, record: dict[str, Any]) -> None:
    with output.first_write():
        output.path.mkdir(parents=True, exist_ok=True)
        output.write_json(RUN, record)


def main(arguments: Sequence[str]) -> int:
    """`afd train`: exit code 0 with a checkpoint, 1 when training failed, 2 for bad usage."""
    settings = parse(TrainSettings, arguments, prog="afd train")
    return run_job(
        "afd train",
        lambda: _run(settings),
        errors=(TrainingError,),
        continued=SAME_COMMAND_CONTINUES,
    )


def _run(settings: TrainSettings) -> int:
    with output_on_disk(settings.output):
        card = train_module(settings)
    score, step = card["held_out_scores"], card["best_step"]
    say(
        f"{Path(settings.output) / CHECKPOINT}: {card['ended']}, weights of step {step};"
        f" held-out images, compressed: {share(score, 'compressed_agreement')} have the clean"
        f" picture's label ({share(score, 'direct_agreement')} without the module)"
    )
    return EXIT_COMPLETE
