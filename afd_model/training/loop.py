"""The training loop, independent of Ray and of where batches come from."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from afd_model.training.distributed import any_worker, num_workers, summed
from afd_model.training.pairs import Pairs
from afd_model.training.schedule import TrainingOptions, learning_rate, stem_steps
from afd_model.training.trainer import Trainer, diverged

Log = Callable[[dict[str, Any]], None]


def train(
    trainer: Trainer,
    training: Pairs,
    held_out: Pairs,
    *,
    log: Log,
    on_kept: Callable[[], object] = lambda: None,
) -> str:
    """Trains to the end, from the trainer's current step.

    Args:
        log: called on every worker with each record:
            {"kind": "step" or "validation", "step": ..., numbers}.
        on_kept: called on every worker after each validation whose weights are kept, see
            `TrainingOptions.keep`.

    Returns:
        Why training ended: "out of time" or "all steps".

    Raises:
        TrainingError: the loss is not finite.
    """
    options = trainer.options
    started, meter = time.monotonic(), _Meter()
    out_of_time = False
    with closing(training.training(trainer.step)) as batches:
        while trainer.step < options.max_steps and not out_of_time:
            batch = next(batches)
            meter.add(trainer.train_step(batch), len(batch.quality) * num_workers())
            step = trainer.step
            if options.max_time_s is not None:
                spent = time.monotonic() - started > options.max_time_s
                out_of_time = any_worker(spent, trainer.device)
            last = out_of_time or step == options.max_steps
            # No record spans both phases: their losses differ.
            if step % options.log_every_steps == 0 or last or step == stem_steps(options):
                log({"kind": "step", "step": step, **meter.take(step, options)})
            due = step % options.validate_every_steps == 0 or last
            if due:
                score = trainer.validate(held_out.held_out())
                log({"kind": "validation", "step": step, **score})
                if trainer.kept is not None and trainer.kept.step == step:
                    on_kept()
                meter.restart()
            if due or step % options.save_every_steps == 0:
                trainer.save()
    return "out of time" if out_of_time else "all steps"


class _Meter:
    """Means between two log records, over all steps and workers."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._since = time.monotonic()

    def add(self, numbers: dict[str, Tensor], images: int) -> None:
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._steps += 1
        self._images += images

    def take(self, step: int, options: TrainingOptions) -> dict[str, float]:
        sums = summed(torch.stack(list(self._sums.values())).double()).tolist()
        count = self._steps * num_workers()
        means = {name: total / count for name, total in zip(self._sums, sums, strict=True)}
        if not math.isfinite(means["loss"]) or not math.isfinite(means["grad_norm"]):
            raise diverged(step)
        rate = self._images / max(1e-9, time.monotonic() - self._since)
        self.restart()
        return {
            **means,
            "learning_rate": learning_rate(step - 1, options),
            "images_per_s": rate,
        }
