"""The training loop. It knows no Ray and no files of images: batches of pairs come in.

The backbone is frozen; only the AFD-Module's parameters move. Several processes may run it side by
side under torch.distributed, each on its share of every batch: they stay equal because they apply
the same averaged gradients.
"""

import copy
import math
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone
from afd_model.classifier import AFDClassifier
from afd_model.inference.folding import fold_batch_norms
from afd_model.inference.same_padding import inline_same_padding
from afd_model.stages import EmbeddingTap, StageTaps, find_stages
from afd_model.training.agreement import Agreement
from afd_model.training.distributed import (
    any_worker,
    average_gradients,
    is_first,
    num_workers,
    summed,
)
from afd_model.training.frozen_depthwise import FrozenDepthwise
from afd_model.training.losses import Watched, feature_distance, training_loss
from afd_model.training.optimizer import ModuleOptimizer
from afd_model.training.pairs import PairBatch
from afd_model.training.schedule import TrainingOptions, learning_rate, stem_steps
from afd_model.training.training_state import (
    STATE,
    Best,
    ExponentialAverage,
    load_state,
    save_state,
)

Log = Callable[[dict[str, Any]], None]


class TrainingError(RuntimeError):
    """Training cannot go on; one line for the user."""


class Pairs(Protocol):
    """Where pairs come from; see `pipeline.pairs.training_data.PairLoader`."""

    def training(self, first_step: int) -> Generator[PairBatch, None, None]: ...
    def held_out(self) -> Iterable[PairBatch]: ...
    def random_pass(self, number: int) -> Iterable[PairBatch]: ...


class Trainer:
    """A module in training: one step at a time, saved to and resumed from `folder`.

    Args:
        afd: trained in place; made for the backbone.
        device: of the backbone and the module, which are moved there.
    """

    def __init__(
        self,
        backbone: Backbone,
        afd: AFDModule,
        options: TrainingOptions,
        *,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.options, self.device = options, device
        self.step = 0
        self.best: Best | None = None
        self.folder = folder
        self._state_path = folder / STATE
        self._backbone_sha256 = backbone.weights_sha256
        backbone.module.to(device).to(memory_format=torch.channels_last)
        self.afd = afd.to(device)
        self.average = ExponentialAverage(self.afd, options.ema_decay)
        self._start = copy.deepcopy(self.afd).requires_grad_(requires_grad=False)
        self._candidate = copy.deepcopy(self._start).eval()
        self.classifier = AFDClassifier(backbone, self.afd).train()
        self.averaged_classifier = AFDClassifier(backbone, self._candidate).eval()
        for classifier in (self.classifier, self.averaged_classifier):
            fold_batch_norms(classifier.backbone)  # frozen: half as many images/s again on a CPU
            if device.type == "cpu":
                inline_same_padding(classifier.backbone)
        crop = backbone.preprocessing.crop
        stages = find_stages(self.classifier, crop, options.num_stages)
        self._taps = StageTaps(self.classifier, stages if options.losses.features else ())
        embedded = options.losses.embedding > 0
        self._embedding = EmbeddingTap(self.classifier) if embedded else None
        self._optimizer = ModuleOptimizer(self.afd, options.optimizer, options.weight_decay)

    def train_step(self, batch: PairBatch) -> dict[str, Tensor]:
        """One step of the optimizer; returns the loss's terms and the gradient's norm, scalars.

        batch: this worker's share.
        """
        batch = batch.to(self.device)
        if self.step == stem_steps(self.options):
            self._optimizer.forget()  # its sums are of another loss's gradients
        with self._autocast():
            loss, terms = self._loss(batch)
        self._optimizer.zero_grad()
        loss.backward()
        parameters = list(self.afd.parameters())
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)
        self._optimizer.step(learning_rate(self.step, self.options))
        self.step += 1
        self.average.follow(self.afd, self.step)
        return {"loss": loss.detach(), **terms, "grad_norm": norm}

    @torch.no_grad()
    def validate(self, batches: Iterable[PairBatch]) -> dict[str, float]:
        """What would be exported, on held-out pairs; kept when it is the best so far.

        That is the averaged module, mixed with the one that training started from (`start_share`).
        Returns `Agreement.score`.
        """
        self._mix_candidate()
        counted = Agreement(self.device)
        for raw in batches:
            batch = raw.to(self.device)
            with self._autocast():
                clean = self.averaged_classifier.bare(batch.clean).logits
                direct = self.averaged_classifier.bare(batch.degraded).logits
                found = self.averaged_classifier.features(batch.degraded, batch.dct).logits
            counted.add(found, direct, clean, batch.condition != 0)
        score = counted.score()
        if not score:
            raise TrainingError("none of the held-out images can be decoded: hold out others")
        if not math.isfinite(score["kl"]):
            raise _diverged(self.step)
        last = self.options.keep == "last"
        if self.best is None or last or _is_better(score, self.best.score):
            weights = {k: v.cpu().clone() for k, v in self._candidate.state_dict().items()}
            self.best = Best(score, self.step, weights)
        return score

    def save(self) -> None:
        """Write what the next step depends on; the first worker's duty."""
        if not is_first():
            return
        state = {
            "step": self.step,
            "backbone_sha256": self._backbone_sha256,
            "stem_steps": stem_steps(self.options),
            "afd": self.afd.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "best": None if self.best is None else asdict(self.best),
        }
        save_state(self._state_path, state)

    def resume(self) -> bool:
        """Go on from the saved state; False where there is none.

        Raises ValueError if it is damaged or another module's, or if the backbone's weights are no
        longer those that the run began with: what it has learnt is theirs.
        """
        state = load_state(self._state_path)
        if state is None:
            return False
        began, now = state.get("backbone_sha256", self._backbone_sha256), self._backbone_sha256
        if began != now:
            raise ValueError(
                f"{str(self.folder)!r} holds a run on other weights of the backbone (SHA-256"
                f" {began}, not {now}): use the same, or another --output"
            )
        try:
            self._restore(state)
        except (KeyError, RuntimeError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"{str(self._state_path)!r} is not of this run's module ({reason}): remove it to"
                " begin anew"
            ) from error
        return True

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        boundary = state.get("stem_steps", self.step + 1)
        if self.step >= boundary:  # a longer run would move it, and go back to the stem alone
            self.options = replace(self.options, stem_steps=boundary)
        self.afd.load_state_dict(state["afd"])
        self.average.module.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.best = None if state["best"] is None else Best(**state["best"])

    def _loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.step < stem_steps(self.options):
            with torch.no_grad():
                clean_stem, _ = self.classifier.stem(batch.clean)
            _, enhanced = self.classifier.stem(batch.degraded, batch.dct)
            loss = self.options.losses.mean_distance(feature_distance(enhanced, clean_stem))
            return loss, {"stem": loss.detach()}
        with torch.no_grad():
            clean = self._watch(self.classifier.bare(batch.clean))
        # In float32 PyTorch's own gradients are as fast.
        bf16 = self.options.precision == torch.bfloat16
        with FrozenDepthwise() if bf16 else nullcontext():
            features = self.classifier.features(batch.degraded, batch.dct)
        found = self._watch(features)
        return training_loss(found, clean, self.options.losses)

    def _watch(self, features: Any) -> Watched:
        embedding = self._embedding.take() if self._embedding else None
        return Watched(features.logits, features.after, self._taps.take(), embedding)

    def _mix_candidate(self) -> None:
        modules = (self._candidate, self.average.module, self._start)
        for mixed, average, start in zip(*(m.parameters() for m in modules), strict=True):
            mixed.copy_(torch.lerp(average, start, self.options.start_share))

    def _autocast(self) -> torch.autocast:
        half = self.options.precision != torch.float32
        return torch.autocast(self.device.type, self.options.precision, enabled=half)


def _is_better(score: dict[str, float], best: dict[str, float]) -> bool:
    """By the divergence: it weighs every image, where agreement counts the few that turn."""
    return score["kl"] < best["kl"]


def train(
    trainer: Trainer,
    training: Pairs,
    held_out: Pairs,
    *,
    log: Log,
    on_best: Callable[[], object] = lambda: None,
) -> str:
    """Train from where the trainer stands to the end; returns why it ended, in two words.

    log: called with each record: {"kind": "step" or "validation", "step": ..., numbers}, on every
    worker. on_best: called, on every worker, after a validation that was the best so far.
    Raises TrainingError when the loss is no longer a number.
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
            # A record is of one phase: their losses are not the same.
            if step % options.log_every_steps == 0 or last or step == stem_steps(options):
                log({"kind": "step", "step": step, **meter.take(step, options)})
            due = step % options.validate_every_steps == 0 or last
            if due:
                score = trainer.validate(held_out.held_out())
                log({"kind": "validation", "step": step, **score})
                if trainer.best is not None and trainer.best.step == step:
                    on_best()
                meter.restart()
            if due or step % options.save_every_steps == 0:
                trainer.save()
    return "out of time" if out_of_time else "all steps"


def _diverged(step: int) -> TrainingError:
    return TrainingError(
        f"the loss is no longer a number by step {step}: use a smaller learning rate"
    )


class _Meter:
    """Means of the steps' numbers between two log records, over all workers."""

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
            raise _diverged(step)
        rate = self._images / max(1e-9, time.monotonic() - self._since)
        self.restart()
        return {
            **means,
            "learning_rate": learning_rate(step - 1, options),
            "images_per_s": rate,
        }
