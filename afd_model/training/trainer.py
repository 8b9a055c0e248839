"""Trains an AFD-Module step by step, and validates, saves and restores it.

Only the AFD-Module is trained; the backbone is frozen. With torch.distributed it is data-parallel:
each worker takes its share of a batch, and gradients are averaged.
"""

import copy
import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone
from afd_model.classifier import AFDClassifier
from afd_model.feature_taps import EmbeddingTap, StageTap, stages_after_stem
from afd_model.inference.batch_norm_folding import fold_batch_norms
from afd_model.inference.conv2d_same import replace_conv2d_same
from afd_model.training.agreement import Agreement
from afd_model.training.depthwise_backward import FastDepthwiseBackward
from afd_model.training.distributed import average_gradients, is_first
from afd_model.training.losses import LossInputs, feature_distance, training_loss
from afd_model.training.optimizer import ModuleOptimizer
from afd_model.training.pairs import PairBatch
from afd_model.training.schedule import TrainingOptions, learning_rate, stem_steps
from afd_model.training.training_state import (
    STATE,
    ExponentialAverage,
    Kept,
    load_state,
    save_state,
)


class TrainingError(RuntimeError):
    """Training cannot continue; the message is one line for the user."""


class Trainer:
    """Trains a module step by step; saves to and resumes from `folder`.

    Args:
        backbone: moved to `device`.
        afd: made for the backbone; trained in place, moved to `device`.
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
        self.kept: Kept | None = None
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
            fold_batch_norms(classifier.backbone)  # 1.5 times the images/s on a CPU
            if device.type == "cpu":
                replace_conv2d_same(classifier.backbone)
        crop = backbone.preprocessing.crop
        stages = stages_after_stem(self.classifier, crop, options.num_stages)
        self._taps = StageTap(self.classifier, stages if options.losses.features else ())
        embedded = options.losses.embedding > 0
        self._embedding = EmbeddingTap(self.classifier) if embedded else None
        self._optimizer = ModuleOptimizer(self.afd, options.optimizer, options.weight_decay)

    def train_step(self, batch: PairBatch) -> dict[str, Tensor]:
        """One optimizer step on this worker's share of a batch.

        Returns:
            The loss, its terms and the gradient's norm; scalars.
        """
        batch = batch.to(self.device)
        if self.step == stem_steps(self.options):
            self._optimizer.reset_state()  # its moments are of another loss
        with self._autocast():
            loss, terms = self._loss(batch)
        self._optimizer.zero_grad()
        loss.backward()
        parameters = list(self.afd.parameters())
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)
        self._optimizer.step(learning_rate(self.step, self.options))
        self.step += 1
        self.average.update(self.afd, self.step)
        return {"loss": loss.detach(), **terms, "grad_norm": norm}

    @torch.no_grad()
    def validate(self, batches: Iterable[PairBatch]) -> dict[str, float]:
        """Validates the weights that would be exported on held-out pairs; keeps the best or last.

        Those are the moving average, mixed with the initial weights (`start_share`).

        Returns:
            `Agreement.compute`.
        """
        self._mix_candidate()
        counted = Agreement(self.device)
        for raw in batches:
            batch = raw.to(self.device)
            with self._autocast():
                clean = self.averaged_classifier.bare(batch.clean).logits
                direct = self.averaged_classifier.bare(batch.degraded).logits
                found = self.averaged_classifier.features(batch.degraded, batch.dct).logits
            counted.update(found, direct, clean, batch.compressed)
        score = counted.compute()
        if not score:
            raise TrainingError("none of the held-out images can be decoded: hold out others")
        if not math.isfinite(score["kl"]):
            raise diverged(self.step)
        last = self.options.keep == "last"
        if self.kept is None or last or _is_better(score, self.kept.score):
            weights = {k: v.cpu().clone() for k, v in self._candidate.state_dict().items()}
            self.kept = Kept(score, self.step, weights)
        return score

    def save(self) -> None:
        """Writes the training state; only the first worker does."""
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
            "best": None if self.kept is None else asdict(self.kept),
        }
        save_state(self._state_path, state)

    def resume(self) -> bool:
        """Continues from the saved state; False if there is none.

        Raises:
            ValueError: the state is damaged or of another module, or the run began with other
                weights of the backbone.
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
        # With a larger max_steps the first phase would be longer, and training would return to it.
        if self.step >= boundary:
            self.options = replace(self.options, stem_steps=boundary)
        self.afd.load_state_dict(state["afd"])
        self.average.module.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.kept = None if state["best"] is None else Kept(**state["best"])

    def _loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.step < stem_steps(self.options):
            with torch.no_grad():
                clean_stem, _ = self.classifier.stem(batch.clean)
            _, enhanced = self.classifier.stem(batch.degraded, batch.dct)
            loss = self.options.losses.mean_distance(feature_distance(enhanced, clean_stem))
            return loss, {"stem": loss.detach()}
        with torch.no_grad():
            clean = self._loss_inputs(self.classifier.bare(batch.clean))
        # In float32, PyTorch's own backward pass is as fast.
        bf16 = self.options.precision == torch.bfloat16
        with FastDepthwiseBackward() if bf16 else nullcontext():
            features = self.classifier.features(batch.degraded, batch.dct)
        found = self._loss_inputs(features)
        return training_loss(found, clean, self.options.losses)

    def _loss_inputs(self, features: Any) -> LossInputs:
        embedding = self._embedding.take() if self._embedding else None
        return LossInputs(features.logits, features.enhanced_features, self._taps.take(), embedding)

    def _mix_candidate(self) -> None:
        modules = (self._candidate, self.average.module, self._start)
        for mixed, average, start in zip(*(m.parameters() for m in modules), strict=True):
            mixed.copy_(torch.lerp(average, start, self.options.start_share))

    def _autocast(self) -> torch.autocast:
        half = self.options.precision != torch.float32
        return torch.autocast(self.device.type, self.options.precision, enabled=half)


def _is_better(score: dict[str, float], best: dict[str, float]) -> bool:
    """By KL divergence: less noisy than agreement, which depends on the few labels that change."""
    return score["kl"] < best["kl"]


def diverged(step: int) -> TrainingError:
    """The error of a loss or of weights that are no longer finite numbers, found at `step`."""
    return TrainingError(
        f"the loss is no longer a number by step {step}: use a smaller learning rate"
    )
