"""Settings -> a loaded decoder and classifier, and facts about them for run.json and the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
from afd_model.inference.predictions import NotFiniteError
from afd_model.inference.predictor import Engine, Predictor
from afd_model.inference.rounding import pink_noise
from jobs.settings import BackboneSettings, ClassNamesSettings, LabelSettings
from pipeline.decode import DecodeOptions, Decoder
from pipeline.error_text import one_line
from pipeline.pixels.geometry import Geometry

_CPU_BATCH_SIZE = 32
_MAX_GPU_BATCH_SIZE = 256  # images; larger batches are no faster
# GPU memory of four workers together, with ResNet-50: per image of a batch, and the rest.
_GPU_BYTES_PER_IMAGE, _GPU_BYTES_FIXED = 80 << 20, 4 << 30
# The fastest engine of each device, and from how many images per worker it saves more time than
# its longer start costs (Inductor about 15 s, OpenVINO 3 s).
_FASTEST: dict[str, tuple[Engine, int]] = {
    "cuda": ("inductor", 25_000),
    "cpu": ("openvino", 10_000),
}
_ENGINE_NAMES = {"inductor": "Inductor", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Model:
    """What a worker needs to label shards, see `pipeline.label_shard`.

    facts: names and digests of the weights, which must be the same when a run is continued.
    host: the device, precision and engine that this worker chose.
    """

    decoder: Decoder
    predictor: Predictor
    class_names: tuple[str, ...] | None
    facts: dict[str, Any]
    host: dict[str, str]


def backbone_of(settings: BackboneSettings) -> Backbone:
    """The classifier that the settings name. Raises ValueError, worded for the user."""
    layer = None if settings.stem_layer == "auto" else settings.stem_layer
    names = settings.class_names if isinstance(settings, ClassNamesSettings) else "auto"
    return load_backbone(settings.backbone, settings.weights, layer, names)


def load_model(
    settings: LabelSettings, *, num_threads: int, images_to_label: int | None = None
) -> Model:
    """The decoder and the classifier on this process's device.

    num_threads: of the model, and again of the decoder.
    images_to_label: about how many images this process will label, if known; chooses the engine.
    Raises ValueError, worded for the user.
    """
    torch.set_num_threads(num_threads)
    backbone, afd, checkpoint = _load(settings)
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    geometry = _geometry(settings, backbone.preprocessing, in_blocks=afd is not None)
    batch_size = settings.batch_size
    if batch_size == "auto":
        batch_size = _default_batch_size(device)
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
    preferred = _preferred_engine(device, images_to_label)
    predictor = _predictor(make, settings.engine, preferred=preferred)
    _check_precision(predictor, backbone.name, geometry.crop)
    if checkpoint is not None and checkpoint.notice is not None:
        predictor.notice = "; ".join(filter(None, (predictor.notice, checkpoint.notice)))
    options = DecodeOptions(
        device=device,
        batch_size=batch_size,
        num_threads=num_threads,
        prefetch_batches=settings.prefetch_batches,
        dtype=precision,
        hw_decoder_load=settings.hw_decoder_load,
        dct=afd is not None,
    )
    host = {
        "device": device_name(device),
        "precision": dtype_name(precision),
        "engine": predictor.engine,
    }
    facts = model_facts(backbone, afd, checkpoint)
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


def _default_batch_size(device: torch.device) -> int:
    """In images; on CUDA a power of two with which four workers fit into a GPU's memory."""
    if device.type == "cpu":
        return _CPU_BATCH_SIZE
    memory = torch.cuda.get_device_properties(device).total_memory
    most = max(1, (memory - _GPU_BYTES_FIXED) // _GPU_BYTES_PER_IMAGE)
    return min(_MAX_GPU_BATCH_SIZE, 1 << (most.bit_length() - 1))


def _preferred_engine(device: torch.device, images_to_label: int | None) -> Engine:
    engine, min_images = _FASTEST[device.type]
    if (images_to_label or 0) < min_images:
        return "torch"
    if engine == "openvino" and find_spec("openvino") is None:  # an extra
        return "torch"
    return engine


def _predictor(
    make: Callable[..., Predictor], requested: Engine | Literal["auto"], *, preferred: Engine
) -> Predictor:
    """The predictor. With "auto", PyTorch replaces a preferred engine that fails."""
    engine = preferred if requested == "auto" else requested
    if requested != "auto" or engine == "torch":
        return make(engine=engine)
    try:
        return make(engine=engine)
    except (ValueError, torch.OutOfMemoryError) as error:
        reason = str(error)
    # Not in the except block, where the traceback keeps the failed predictor's memory allocated.
    predictor = make(engine="torch")
    predictor.notice = f"labelling without {_ENGINE_NAMES[engine]}, more slowly: {reason}"
    return predictor


def _check_precision(predictor: Predictor, name: str, crop: int) -> None:
    """Raise ValueError when the model cannot run in its precision, or gives no numbers in it.

    Otherwise every attempt at every shard would fail.
    """
    dct = torch.zeros(1, DCT_CHANNELS, crop // 8, crop // 8)
    try:
        predictor(pink_noise(crop)[:1], dct)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # not because of the precision
        raise
    except NotFiniteError as error:
        raise ValueError(f"{name}: {error}") from error
    except RuntimeError as error:
        # cuBLAS and cuDNN on a GPU whose memory other processes have taken.
        if any(fault in str(error) for fault in ("ALLOC_FAILED", "NOT_INITIALIZED")):
            raise
        precision = dtype_name(predictor.precision)
        raise ValueError(
            f"{name} does not run in {precision} ({one_line(error)}): use --precision fp32"
        ) from error


def _load(settings: LabelSettings) -> tuple[Backbone, AFDModule | None, CheckpointFacts | None]:
    backbone = backbone_of(settings)
    if settings.afd == "default" and shipped_checkpoint(backbone) is None:
        # An untrained module changes nothing, and would cost a small backbone a third of its time.
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


def model_facts(
    backbone: Backbone, afd: AFDModule | None, checkpoint: CheckpointFacts | None
) -> dict[str, Any]:
    """Names and digests of what decides the rows: `MODEL_FACTS`, or some of them."""
    unnamed = "none" if afd is None else "untrained"
    facts = {
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "stem_layer": backbone.stem_layer,
        "afd": checkpoint.path if checkpoint else unnamed,
        "afd_sha256": checkpoint.sha256 if checkpoint else None,
        "class_names_sha256": _names_sha256(backbone.class_names),
    }
    if checkpoint is not None and checkpoint.has_other_flip_model:
        facts["flip_model"] = "not run"  # though the release that began the run may have run it
    return facts


def _names_sha256(names: Sequence[str] | None) -> str | None:
    """A digest of the class names; None without names."""
    return None if names is None else hashlib.sha256("\n".join(names).encode()).hexdigest()
