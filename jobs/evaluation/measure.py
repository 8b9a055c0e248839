"""Runs the model over every image under every condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from afd_model.backbones import Backbone
from afd_model.checkpoint import resolve_afd
from afd_model.classifier import AFDClassifier
from afd_model.evaluation.evaluator import Evaluator, Outcome, OutcomeTable
from afd_model.evaluation.response_angles import BLOCK_PIXELS
from afd_model.inference.device import dtype_name, resolve_device, resolve_precision
from jobs.evaluate_settings import EvaluateSettings
from jobs.evaluation.angles import AngleStudy, measure_angles
from jobs.evaluation.folder_classes import FolderClasses
from jobs.log import say, with_progress
from jobs.model import backbone_of, model_facts
from jobs.sampling import evenly
from pipeline.decode import DecodeOptions
from pipeline.degrade import PROTOCOLS
from pipeline.inputs.image_names import collection_root, relative_name
from pipeline.output import OutputFolder
from pipeline.own_files import list_images_outside
from pipeline.pairs.evaluate_images import CLEAN, Condition, ImageEvaluator, MeasuredChunk
from pipeline.pixels.geometry import Geometry
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits


@dataclass(frozen=True)
class Evaluation:
    """The results of every image.

    names: of the N images, within their collection. truth: (N,) class by folder; -1: not known.
    outcomes: per condition, of the N images in the same order. left_out: (uri, reason).
    model: names and digests of the evaluated weights. seed: of the random qualities.
    angles: for the figure; None without --figures.
    """

    names: list[str]
    truth: np.ndarray
    outcomes: dict[Condition, Outcome]
    left_out: list[tuple[str, str]]
    model: dict[str, Any]
    seed: int
    angles: AngleStudy | None


def conditions(settings: EvaluateSettings) -> list[Condition]:
    """Clean, then each protocol's qualities and random compressions."""
    found = [CLEAN]
    for name in settings.protocol:
        found += [Condition(PROTOCOLS[name], quality=q) for q in settings.quality]
        found += [Condition(PROTOCOLS[name], times=n) for n in range(1, settings.times + 1)]
    return found


def measure(settings: EvaluateSettings) -> Evaluation:
    """Run the model over the collection. Raises ValueError, worded for the user."""
    torch.set_num_threads(settings.threads)
    backbone, model, facts = _load(settings)
    if settings.figures and backbone.stem_stride > BLOCK_PIXELS:
        raise ValueError(
            f"--figures compares 8x8 blocks, and {backbone.name} begins with patches of"
            f" {backbone.stem_stride} pixels: leave it out"
        )
    refs, names = _collection(settings)
    table = OutcomeTable(len(refs))
    kept: list[int] = []
    left_out: list[tuple[str, str]] = []
    for chunk in _measured(settings, backbone, model, refs, names):
        table.add(chunk.outcomes)
        kept += chunk.indices
        left_out += [(refs[index].uri, why) for index, why in chunk.left_out]
    if not kept:
        uri, why = left_out[0]
        raise ValueError(f"none of the {len(refs)} images can be evaluated; {uri}: {why}")
    kept_names = [names[index] for index in kept]
    classes = FolderClasses(backbone.class_ids, backbone.class_names)
    angles = None
    if settings.figures:
        say("measuring response angles for the figure")
        angles = measure_angles(
            model,
            backbone,
            [refs[index] for index in kept],
            kept_names,
            options=_decode_options(settings),
            limits=Limits(settings.max_pixels),
        )
    return Evaluation(
        names=kept_names,
        truth=np.array([classes.of(name) for name in kept_names]),
        outcomes=table.outcomes(),
        left_out=left_out,
        model=facts,
        seed=settings.seed,
        angles=angles,
    )


def _measured(
    settings: EvaluateSettings,
    backbone: Backbone,
    model: Evaluator,
    refs: list[ImageRef],
    names: list[str],
) -> Iterator[MeasuredChunk]:
    """Every image under every condition, in chunks of one batch of images."""
    images = ImageEvaluator(
        model,
        Geometry.of_preset(backbone.preprocessing, in_blocks=model.has_trained_module),
        replace(_decode_options(settings), dct=model.has_trained_module),
        conditions=conditions(settings),
        seed=settings.seed,
        limits=Limits(settings.max_pixels),
    )
    return with_progress(
        images.measure(refs, names), lambda c: len(c.indices) + len(c.left_out), len(refs)
    )


def _load(settings: EvaluateSettings) -> tuple[Backbone, Evaluator, dict[str, Any]]:
    """The backbone, the loaded classifier, and the facts about it for the report."""
    backbone = backbone_of(settings)
    afd, checkpoint = resolve_afd(settings.afd, backbone)
    if checkpoint is not None and checkpoint.notice is not None:
        say(checkpoint.notice)
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    model = Evaluator(
        AFDClassifier(backbone, afd),
        device=device,
        precision=precision,
        flip_model=checkpoint.flip_model if checkpoint else None,
    )
    facts = {
        **model_facts(backbone, afd, checkpoint),
        "has_trained_module": model.has_trained_module,
        "device": device.type,
        "precision": dtype_name(precision),
    }
    return backbone, model, facts


def _decode_options(settings: EvaluateSettings) -> DecodeOptions:
    return DecodeOptions(
        device=resolve_device(settings.device),
        batch_size=settings.batch_size,
        num_threads=settings.threads,
    )


def _collection(settings: EvaluateSettings) -> tuple[list[ImageRef], list[str]]:
    refs = list_images_outside(settings.input, OutputFolder(settings.output))
    root = collection_root(settings.input, refs)
    if isinstance(settings.num_images, int):
        refs = evenly(refs, settings.num_images)
    return refs, [relative_name(ref, root) for ref in refs]
