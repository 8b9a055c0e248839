"""Pretrained classifiers by name, and the layer whose output the AFD-Module enhances."""

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torchvision
from timm.data import ImageNetInfo
from torch import nn
from torchvision.models import get_model_builder, get_model_weights, list_models

from afd_model.stem import find_stem
from afd_model.weight_files import (
    IMAGENET_CLASSES,
    has_packaged_lite0,
    head_classes,
    load_packaged_lite0,
    load_state,
    read_weights,
    tensors_sha256,
    without_prefix,
)

TIMM_PREFIX = "timm:"
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".tar")
# timm's name for the model whose ImageNet weights a package on the index carries.
PACKAGED = "timm:tf_efficientnet_lite0"


@dataclass(frozen=True)
class Preprocessing:
    """The input a backbone was evaluated with.

    Attributes:
        resize: pixels of the shorter side after resizing; None: no resizing.
        crop: pixels of the square centre crop.
        interpolation: antialiased.
        mean, std: R, G, B on the 0..1 scale.
    """

    resize: int | None
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A classifier in eval mode, frozen, with what is needed to feed and to enhance it.

    Attributes:
        name: as `load_backbone` takes it.
        module: pixels (B, 3, crop, crop) normalised -> logits (B, K).
        stem_layer: dotted path of the module whose output is enhanced.
        stem_channels, stem_stride: that output's channels, and input pixels per position.
        stem_range: the least and greatest value of the activation that the stem ends in.
        class_names: one per class, or None where they are not known.
        class_ids: WordNet ids, or None unless the classes are ImageNet-1k's.
        weights: what was asked for, resolved: a weights name, "none", or a file.
        weights_sha256: digest of the weights' tensors (not of the file around them); None for
            random weights.
    """

    name: str
    module: nn.Module
    stem_layer: str
    stem_channels: int
    stem_stride: int
    stem_range: tuple[float | None, float | None]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    class_ids: tuple[str, ...] | None
    weights: str
    weights_sha256: str | None


def load_backbone(
    name: str,
    weights: str = "default",
    stem_layer: str | None = None,
    class_names: str = "auto",
) -> Backbone:
    """Builds a classifier, loads its weights and finds its stem.

    Args:
        name: a torchvision classification model ("resnet50"), or "timm:" and a timm model.
        weights: "default"; a torchvision weights name ("IMAGENET1K_V1"); a local .pth, .pt or
            .safetensors file; or "none": random, the same in every process.
        stem_layer: dotted path of the module to enhance; None: known by family, see
            `afd_model.stem`.
        class_names: a text file with one name per class; "auto": ImageNet-1k's where the
            classifier has 1000 classes and the weights are not random; "none".

    Raises:
        ValueError: an unknown name, weights or layer; a file that is missing, damaged or another
            model's; a download that failed. One line, with the way out.
    """
    check_name(name)
    preprocessing = preprocessing_of(name, weights)
    kind = _weights_kind(name, weights)
    module, resolved = _with_weights(name, kind, weights)
    module = module.eval().requires_grad_(requires_grad=False)
    stem = find_stem(module, preprocessing.crop, stem_layer, family=_family(name, module))
    if class_names == "auto":
        names, ids = _classes(name, kind, resolved, module)
    elif class_names == "none":
        names, ids = None, None
    else:
        names, ids = read_class_names(class_names, class_count(module)), None
    return Backbone(
        name=name,
        module=module,
        stem_layer=stem.layer,
        stem_channels=stem.channels,
        stem_stride=stem.stride,
        stem_range=stem.value_range,
        preprocessing=preprocessing,
        class_names=names,
        class_ids=ids,
        weights=resolved,
        weights_sha256=None if kind == "none" else tensors_sha256(module.state_dict()),
    )


def check_name(name: str) -> None:
    """Refuses a backbone that does not exist, without building it.

    Raises:
        ValueError: names the nearest one that does.
    """
    if name.startswith(TIMM_PREFIX):
        plain = name.removeprefix(TIMM_PREFIX)
        if timm.is_model(plain.partition(".")[0]):
            return
        near = [TIMM_PREFIX + n for n in difflib.get_close_matches(plain, timm.list_models(), n=1)]
    else:
        known = list_models(module=torchvision.models)
        if name in known:
            return
        candidates = known + [TIMM_PREFIX + n for n in timm.list_models()]
        near = difflib.get_close_matches(name, candidates, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see torchvision.models and timm.list_models()"
    raise ValueError(f"unknown backbone {name!r}: {hint}")


def preprocessing_of(name: str, weights: str = "default") -> Preprocessing:
    """The preset that the weights were evaluated with, without building the model.

    Random weights and local files take the default weights' preset; a local file that bears the
    name torchvision publishes it under takes its own.

    Raises:
        ValueError: an unknown backbone or weights name.
    """
    check_name(name)
    if name.startswith(TIMM_PREFIX):
        return _timm_preprocessing(name.removeprefix(TIMM_PREFIX))
    kind = _weights_kind(name, weights)
    choices = list(get_model_weights(name))
    preset = get_model_weights(name).DEFAULT
    if kind == "enum":
        preset = get_model_weights(name)[weights]
    elif kind == "file":
        same = [w for w in choices if w.url.rsplit("/", 1)[-1] == Path(weights).name]
        preset = same[0] if same else preset
    transform = preset.transforms()
    return Preprocessing(
        resize=int(transform.resize_size[0]),
        crop=int(transform.crop_size[0]),
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _timm_preprocessing(name: str) -> Preprocessing:
    pretrained = timm.get_pretrained_cfg(name)
    fields = pretrained.to_dict() if pretrained is not None else {}
    config = timm.data.resolve_data_config(pretrained_cfg=fields)
    crop = int(config["input_size"][-1])
    return Preprocessing(
        resize=math.floor(crop / config["crop_pct"]),
        crop=crop,
        # The resizing filters on offer are these two; a preset of Lanczos is nearer to bicubic.
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _weights_kind(name: str, weights: str) -> str:
    """One of "default", "none", "enum", "file"."""
    if weights in ("default", "none"):
        return weights
    choices = [] if name.startswith(TIMM_PREFIX) else [w.name for w in get_model_weights(name)]
    if weights in choices:
        return "enum"
    if Path(weights).suffix in WEIGHT_SUFFIXES or Path(weights).is_file():
        return "file"
    near = difflib.get_close_matches(weights, ["default", "none", *choices], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(["default", "none", *choices])
    raise ValueError(f"unknown weights {weights!r} for {name} ({known}, or a file){hint}")


def _build(name: str, classes: int = IMAGENET_CLASSES) -> nn.Module:
    if name.startswith(TIMM_PREFIX):
        return timm.create_model(name.removeprefix(TIMM_PREFIX), num_classes=classes)
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # The published weights expect this input transform; off, they mislabel.
        extra = {"transform_input": True, "init_weights": True}
    return get_model_builder(name)(weights=None, num_classes=classes, **extra)


def _with_weights(name: str, kind: str, weights: str) -> tuple[nn.Module, str]:
    """The model with its weights, and what those are: a name, "none", or a file.

    kind: see `_weights_kind`.
    """
    if kind == "none":
        return _random(name), weights
    if kind == "file":
        return _from_file(name, weights), weights
    return _pretrained(name, weights)


def _from_file(name: str, path: str) -> nn.Module:
    """The model with as many classes as the file's weights are for."""
    with torch.device("meta"):
        skeleton = _build(name)
    state = without_prefix(read_weights(path), skeleton)
    module = _build(name, head_classes(state, skeleton))
    load_state(module, state, name, path)
    return module


def _random(name: str) -> nn.Module:
    """Every worker of a job must hold the same model, whatever it drew before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _build(name)


def _pretrained(name: str, weights: str) -> tuple[nn.Module, str]:
    """The model with published weights, and the name of those."""
    if name == PACKAGED and has_packaged_lite0():
        module = _build(name)
        return module, load_packaged_lite0(module)
    try:
        if name.startswith(TIMM_PREFIX):
            return timm.create_model(name.removeprefix(TIMM_PREFIX), pretrained=True), weights
        choices = get_model_weights(name)
        chosen = choices.DEFAULT if weights == "default" else choices[weights]
        return get_model_builder(name)(weights=chosen), chosen.name
    except (OSError, RuntimeError) as error:
        # Both hubs wrap a dead network in many types; all of them are one of these two.
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        reason = (str(root).strip().splitlines() or [type(root).__name__])[0][:160]
        raise ValueError(
            f"cannot get the weights of {name} ({weights}) from the model hub: {reason}; "
            "give a local file with --weights FILE, or --weights none for random ones"
        ) from error


def _family(name: str, module: nn.Module) -> tuple[str, str]:
    library = "timm" if name.startswith(TIMM_PREFIX) else "torchvision"
    return library, type(module).__name__


def _classes(
    name: str, kind: str, weights: str, module: nn.Module
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Class names and WordNet ids; None where the weights do not say what the classes are."""
    if kind == "none" or class_count(module) != IMAGENET_CLASSES:
        return None, None
    info = ImageNetInfo()
    ids = tuple(info.index_to_label_name(k) for k in range(IMAGENET_CLASSES))
    if kind != "file" and not name.startswith(TIMM_PREFIX):
        return tuple(get_model_weights(name)[weights].meta["categories"]), ids
    return tuple(info.index_to_description(k) for k in range(IMAGENET_CLASSES)), ids


def read_class_names(path: str, count: int) -> tuple[str, ...]:
    """The lines of a text file, in UTF-8, each the name of the class of its number.

    Raises:
        ValueError: no such file, no text, or not `count` lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise ValueError(f"cannot read the class names in {path!r}: {reason}") from error
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if len(names) != count:
        raise ValueError(
            f"{path!r} names {len(names)} classes, but the classifier has {count}: it takes one"
            " line for each, in the order of its outputs"
        )
    return names


def class_count(module: nn.Module) -> int:
    """The classes of a classifier: the rows of its last weight matrix."""
    return [p.shape[0] for p in module.parameters() if p.ndim >= 2][-1]
