"""Settings -> a decoder and a classifier ready to run, and the facts about them for the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch

from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone, Preprocessing, load_backbone
from afd_model.checkpoint import CheckpointFacts, resolve_afd, shipped_checkpoint
from afd_model.classifier import AFDClassifier
from afd_model.dct import DCT_CHANNELS
from afd_model.inference.device import device_name, dtype_name, resolve_device, resolve_precision
from afd_model.inference.predictor import Engine, Predictor
from jobs.settings import BackboneSettings, ClassNamesSettings, LabelSettings
from pipeline.decode import DecodeOptions, Decoder
from pipeline.error_text import one_line
from pipeline.pixels.geometry import Geometry

_CPU_BATCH_SIZE = 32
_MOST_ON_GPU = 256  # images in a batch; larger batches are no faster
# GPU memory of four workers together: for each image of one batch, decoded and in ResNet-50, and
# what does not depend on the batch.
_GPU_BYTES_PER_IMAGE, _GPU_BYTES_FIXED = 80 << 20, 4 << 30
# A device's fastest engine, and from how many images per worker on it saves more time than its
# longer start costs (Inductor some 15 s, OpenVINO 3).
_FASTEST: dict[str, tuple[Engine, int]] = {
    "cuda": ("inductor", 25_000),
    "cpu": ("openvino", 10_000),
}
_ENGINE_NAMES = {"inductor": "Inductor", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Model:
    """What a worker holds: see `pipeline.label_shard`.

    facts: the weights' names and digests: these must not change between a run and its continuation.
    host: the device, the precision and the engine that this worker chose.
    """

    decoder: Decoder
    predictor: Predictor
    class_names: tuple[str, ...] | None
    facts: dict[str, Any]
    host: dict[str, str]


def backbone_of(settings: BackboneSettings) -> Backbone:
    """The classifier that a job's settings name. Raises ValueError, worded for the user."""
    layer = None if settings.stem_layer == "auto" else settings.stem_layer
    names = settings.class_names if isinstance(settings, ClassNamesSettings) else "auto"
    return load_backbone(settings.backbone, settings.weights, layer, names)


def decoding_on(device: torch.device) -> DecodeOptions:
    """Of a decoder whose tensors go to a model on this device."""
    return DecodeOptions(
        device="cuda" if device.type == "cuda" else "cpu", device_id=device.index or 0
    )


def load_model(
    settings: LabelSettings, *, num_threads: int, images_to_label: int | None = None
) -> Model:
    """The decoder and the classifier on this process's device.

    num_threads: of the model and of the decoder, each. images_to_label: by this process, about, if
    it is known.
    Raises ValueError, worded for the user.
    """
    torch.set_num_threads(num_threads)
    backbone, afd, checkpoint = _load(settings)
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    geometry = _geometry(settings, backbone.preprocessing, in_blocks=afd is not None)
    batch_size = settings.batch_size
    if batch_size == "auto":
        batch_size = _fitting_batch_size(device)
    make = partial(
        Predictor,
        AFDClassifier(backbone, afd),
        device=device,
        precision=precision,
        top_k=settings.top_k,
        flip_model=checkpoint.flip_model if checkpoint else None,
        crop=geometry.crop,
        num_images=batch_size,
    )
    fitting = _fitting_engine(device, images_to_label)
    predictor, engine = _predictor(make, settings.engine, fitting=fitting)
    if precision != torch.float32:
        _check_precision(predictor, backbone.name, geometry.crop)
    options = replace(
        decoding_on(device),
        batch_size=batch_size,
        num_threads=num_threads,
        prefetch_batches=settings.prefetch_batches,
        dtype=predictor.pixels_dtype,
        hw_decoder_load=settings.hw_decoder_load,
        dct=afd is not None,
    )
    host = {
        "device": device_name(device),
        "precision": dtype_name(precision),
        "engine": engine,
    }
    facts = model_facts(backbone, checkpoint, settings.afd)
    return Model(_decoder(geometry, options), predictor, backbone.class_names, facts, host)


def _decoder(geometry: Geometry, options: DecodeOptions) -> Decoder:
    try:
        return Decoder(geometry, options)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ValueError(
            f"--batch-size {options.batch_size} does not fit into memory ({one_line(error)}): use"
            " a smaller one"
        ) from error


def _fitting_batch_size(device: torch.device) -> int:
    """In images; on CUDA a power of two that lets four workers share a GPU's memory."""
    if device.type == "cpu":
        return _CPU_BATCH_SIZE
    memory = torch.cuda.get_device_properties(device).total_memory
    most = max(1, (memory - _GPU_BYTES_FIXED) // _GPU_BYTES_PER_IMAGE)
    return min(_MOST_ON_GPU, 1 << (most.bit_length() - 1))


def _fitting_engine(device: torch.device, images_to_label: int | None) -> Engine:
    engine, from_images = _FASTEST[device.type]
    if (images_to_label or 0) < from_images:
        return "torch"
    if engine == "openvino" and find_spec("openvino") is None:  # an extra
        return "torch"
    return engine


def _predictor(
    make: Callable[..., Predictor], requested: Engine | Literal["auto"], *, fitting: Engine
) -> tuple[Predictor, Engine]:
    """The predictor, and what runs it: `fitting`, where "auto" is asked for and it can."""
    if requested != "auto":
        return make(engine=requested), requested
    if fitting == "torch":
        return make(engine="torch"), "torch"
    try:
        return make(engine=fitting), fitting
    except (ValueError, torch.OutOfMemoryError) as error:
        reason = str(error)
    # Not in the except block: there the traceback keeps the failed predictor's memory alive.
    predictor = make(engine="torch")
    predictor.notice = f"labelling without {_ENGINE_NAMES[fitting]}, more slowly: {reason}"
    return predictor, "torch"


def _check_precision(predictor: Predictor, name: str, crop: int) -> None:
    """Raise ValueError where the model mixes dtypes, or the first shard would fail three times."""
    blank = torch.zeros(1, 3, crop, crop), torch.zeros(1, DCT_CHANNELS, crop // 8, crop // 8)
    try:
        predictor(*blank)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # the device's, whatever the dtype
        raise
    except RuntimeError as error:
        precision = dtype_name(predictor.precision)
        raise ValueError(
            f"{name} does not run in {precision} ({one_line(error)}): use --precision fp32"
        ) from error


def _load(settings: LabelSettings) -> tuple[Backbone, AFDModule | None, CheckpointFacts | None]:
    backbone = backbone_of(settings)
    if settings.afd == "default" and shipped_checkpoint(backbone) is None:
        # An untrained one is the identity, which would cost a small backbone a third of its time.
        return backbone, None, None
    return backbone, *resolve_afd(settings.afd, backbone)


def _geometry(settings: LabelSettings, preset: Preprocessing, *, in_blocks: bool) -> Geometry:
    changes: dict[str, Any] = {}
    if settings.resize != "auto":
        changes["resize"] = None if settings.resize == "none" else settings.resize
    if settings.crop != "auto":
        changes["crop"] = settings.crop
    geometry = replace(Geometry.of_preset(preset, in_blocks=in_blocks), **changes)
    if in_blocks:
        geometry.check_blocks()
    return geometry


def model_facts(backbone: Backbone, checkpoint: CheckpointFacts | None, afd: str) -> dict[str, Any]:
    """What the weights are, for a record. afd: the module that was asked for."""
    untrained = "none" if afd == "none" else "untrained"
    return {
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "stem_layer": backbone.stem_layer,
        "afd": checkpoint.path if checkpoint else untrained,
        "afd_sha256": checkpoint.sha256 if checkpoint else None,
    }
