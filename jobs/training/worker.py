"""One worker of a training run, from settings to the exported checkpoint. Does not use Ray."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from afd_model.afd_module import AFDModule, reconfigured
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone
from afd_model.checkpoint import CheckpointFacts, resolve_afd
from afd_model.inference.device import device_name, dtype_name, resolve_device
from afd_model.training.distributed import is_first
from afd_model.training.export import export, fit_flips
from afd_model.training.loop import train
from afd_model.training.schedule import TrainingOptions
from afd_model.training.trainer import Trainer
from jobs.checked_settings import flag_of
from jobs.log import say
from jobs.model import backbone_of
from jobs.run_record import versions
from jobs.sampling import evenly
from jobs.train_settings import TrainSettings
from jobs.training.log import TrainingLog
from jobs.training.options import training_options
from jobs.training.originals import advice
from pipeline.decode import DecodeOptions
from pipeline.output import RUN, OutputFolder
from pipeline.own_files import list_images_outside
from pipeline.pairs.pair_plan import DegradationMix
from pipeline.pairs.training_data import PairLoader, Rank, split_held_out
from pipeline.pixels.geometry import Geometry
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits

_HELD_OUT_IMAGES = 264


@dataclass(frozen=True)
class Prepared:
    """Everything that can fail because of a user's mistake; made before training starts.

    start: facts about the checkpoint that `afd` was loaded from; None for an untrained module.
    geometry: of the training windows. preset: of labelling, and so of the held-out images.
    """

    backbone: Backbone
    afd: AFDModule
    start: CheckpointFacts | None
    options: TrainingOptions
    geometry: Geometry
    preset: Geometry
    training: list[ImageRef]
    held_out: list[ImageRef]


def prepare(settings: TrainSettings, device: torch.device) -> Prepared:
    """The model, the options and the lists of images. Raises ValueError, worded for the user."""
    backbone = backbone_of(settings)
    geometry = preset = Geometry.of_preset(backbone.preprocessing, in_blocks=True)
    if settings.crop != "auto":
        # So that the window covers the same share of the picture as in the preset.
        resize = geometry.resize and max(
            settings.crop, round(settings.crop * geometry.resize / geometry.crop)
        )
        geometry = replace(geometry, crop=settings.crop, resize=resize)
        geometry.check_blocks()
    torch.manual_seed(settings.seed)
    afd, start = _initial_module(settings, backbone)
    # Without the run's own files: a resumed run would find them, and draw other pairs.
    refs = list_images_outside(settings.input, OutputFolder(settings.output))
    auto = max(1, min(_HELD_OUT_IMAGES, len(refs) // 5))
    wanted = settings.held_out_images
    training, held_out = split_held_out(refs, auto if isinstance(wanted, str) else wanted)
    options = training_options(settings, backbone, device)
    return Prepared(backbone, afd, start, options, geometry, preset, training, held_out)


def _initial_module(
    settings: TrainSettings, backbone: Backbone
) -> tuple[AFDModule, CheckpointFacts | None]:
    """The module to train, and the checkpoint its weights come from. Raises ValueError."""
    changes: dict[str, Any] = {
        name: value
        for name, value in (("fdm", settings.fdm), ("dct_input", settings.dct_input))
        if value != "auto"
    }
    if settings.corrected_stages != "auto":
        changes["corrected_stages"] = settings.corrected_stages
    if settings.afd == "untrained":
        return AFDModule(config_for(backbone, settings.afd_size, **changes)), None
    afd, start = resolve_afd(settings.afd, backbone)
    if afd is None or start is None:
        raise ValueError(
            f"--afd {settings.afd}: no weights to start from; use untrained, or a checkpoint file"
        )
    found = afd.config
    if settings.afd_size == found.size:
        changes["depth"] = found.depth
    if settings.corrected_stages in ("auto", len(found.stages)):
        # The stages' corrections are kept as they are. `config_for` sizes the stem's part as if
        # there were none, because counting them would make it narrower.
        changes["corrected_stages"] = 0
        config = config_for(backbone, settings.afd_size, **changes)
        config = replace(config, stages=found.stages, stage_width=found.stage_width)
    else:
        config = config_for(backbone, settings.afd_size, **changes)
    try:
        return reconfigured(afd, config), start
    except ValueError:
        raise ValueError(
            f"--afd {settings.afd} has another architecture than these settings: use --afd-size"
            f" {found.size} --fdm {found.fdm} --dct-input {found.dct_input} --corrected-stages"
            f" {len(found.stages)}"
        ) from None


def run_worker(settings: TrainSettings, rank: Rank, device: torch.device | None = None) -> None:
    """Train as one of the workers, from the start or from the saved state.

    rank: this worker's number and the number of workers. device: None: as the settings say.
    All workers read the same output folder; only the first one writes to it.
    """
    torch.set_num_threads(settings.cpus_per_worker)
    device = device or resolve_device(settings.device)
    ready = prepare(settings, device)
    if settings.workers == 0:
        record_images(settings, ready)
    counts = f"{len(ready.training)} images to train on, {len(ready.held_out)} held out"
    if len(ready.held_out) > len(ready.training):
        counts += " (most of them: --held-out-images sets how many)"
    say(counts)
    folder = Path(settings.output)
    trainer = Trainer(ready.backbone, ready.afd, ready.options, device=device, folder=folder)
    trainer.resume()
    if not (rank.index or trainer.step or settings.reduced_share):
        _advise(settings, ready)
    loader = partial(_loader, settings=settings, rank=rank, device=device)
    training = loader(ready.training, ready.geometry, settings.mix())
    held_out = loader(ready.held_out, ready.preset, settings.flip_mix())
    facts = {**_facts(settings, ready, device), **_earlier_max_steps(folder)}
    log = TrainingLog(folder, trainer.step) if is_first() else None
    reason = train(
        trainer,
        training,
        held_out,
        log=log or (lambda record: None),
        on_kept=lambda: export(trainer, ready.backbone, facts),
    )
    some = evenly(ready.training, settings.flip_images)
    flip_images = loader(some, ready.preset, settings.flip_mix())
    passes = [(held_out, settings.flip_passes), (flip_images, 1)]
    flips = fit_flips(trainer, ready.backbone, passes)
    export(trainer, ready.backbone, {**facts, "ended": reason}, flips)


def _advise(settings: TrainSettings, ready: Prepared) -> None:
    limits = Limits(settings.max_pixels)
    if told := advice(ready.training, ready.geometry.crop, limits, settings.read_threads):
        say(told)


def record_images(settings: TrainSettings, ready: Prepared) -> None:
    """Record in run.json which images a run uses; warn when they have changed since it started.

    Another choice of held-out images may include some that were already trained on.
    """
    output = OutputFolder(settings.output)
    record = output.read_json(RUN) or {}
    uris = sorted(ref.uri for ref in (*ready.training, *ready.held_out))
    digest = hashlib.sha256("\n".join(uris).encode("utf-8", "surrogateescape")).hexdigest()
    now = {"count": len(uris), "sha256": digest}
    before = record.get("images", now)
    if before != now:
        say(
            f"the collection has changed since the run started ({before['count']} images, now"
            f" {len(uris)}): some held-out images may have been trained on"
        )
    output.write_json(RUN, {**record, "images": now})


def _loader(
    refs: list[ImageRef],
    geometry: Geometry,
    mix: DegradationMix,
    *,
    settings: TrainSettings,
    rank: Rank,
    device: torch.device,
) -> PairLoader:
    options = DecodeOptions(
        device=device,
        batch_size=settings.batch_size // rank.count,
        num_threads=settings.cpus_per_worker,
        prefetch_batches=settings.prefetch_batches,
    )
    return PairLoader(
        refs,
        geometry,
        options,
        mix,
        limits=Limits(settings.max_pixels),
        seed=settings.seed,
        rank=rank,
        read_threads=settings.read_threads,
    )


def _facts(settings: TrainSettings, ready: Prepared, device: torch.device) -> dict[str, Any]:
    """What the checkpoint's card says about its training; files by name, without their folders."""
    recorded, start = card_settings(settings), ready.start
    return {
        "command": f"afd train {recorded['input']} {_changed_flags(recorded)} --output DIR",
        **({"started_from": {"sha256": start.sha256, **start.training}} if start else {}),
        "data": {
            "collection": Path(settings.input).name,
            "training_images": len(ready.training),
            "held_out_images": len(ready.held_out),
        },
        "settings": recorded,
        "workers": max(1, settings.workers),
        "device": device_name(device),
        "precision": dtype_name(ready.options.precision),
        "versions": versions(),
    }


def card_settings(settings: TrainSettings) -> dict[str, Any]:
    """The settings that the weights and the flip model depend on; files without their folders."""
    flips = {name: getattr(settings, name) for name in ("flip_passes", "flip_images")}
    files = {name: Path(getattr(settings, name)).name for name in ("input", "afd", "weights")}
    return {**settings.content_settings, **flips, **files}


def _earlier_max_steps(folder: Path) -> dict[str, Any]:
    """The earlier values of --max-steps when the run was continued for more steps; else empty."""
    name = "earlier_max_steps"
    record = OutputFolder(str(folder)).read_json(RUN) or {}
    return {name: record[name]} if name in record else {}


def _changed_flags(recorded: dict[str, Any]) -> str:
    """The flags that differ from their defaults. recorded: `card_settings`."""
    fields = TrainSettings.__dataclass_fields__
    return " ".join(
        f"{flag_of(name)} {json.dumps(value).strip(chr(34))}"
        for name, value in recorded.items()
        if name != "input" and value != fields[name].default
    )
