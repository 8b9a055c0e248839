"""Finds a classifier's stem: the layer whose output the AFD-Module enhances.

The rule (Peng et al. 2024, Fig. 2: "shallow features"): the output of the first convolution that
lowers the resolution, after its normalisation and activation, before any pooling.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn

from afd_model.layer_shapes import StopForward, output_shape, run_on_zeros

# (library, class) -> dotted path, which is also stored in checkpoints.
STEM_LAYERS: dict[tuple[str, str], str] = {
    ("torchvision", "ResNet"): "relu",  # after conv1 + bn1, before maxpool; ResNeXt, Wide ResNet
    ("torchvision", "MobileNetV2"): "features.0",  # conv + bn + relu6
    ("torchvision", "MobileNetV3"): "features.0",  # conv + bn + hardswish
    ("torchvision", "EfficientNet"): "features.0",  # conv + bn + silu
    ("torchvision", "ConvNeXt"): "features.0",  # 4x4 patches + layer norm, no activation
    ("torchvision", "RegNet"): "stem",  # conv + bn + relu
    ("torchvision", "DenseNet"): "features.relu0",  # after conv0 + norm0, before pool0
    ("torchvision", "MNASNet"): "layers.2",  # conv + bn + relu
    ("torchvision", "ShuffleNetV2"): "conv1",  # conv + bn + relu, before maxpool
    ("torchvision", "SqueezeNet"): "features.1",  # conv + relu, before the first maxpool
    ("torchvision", "GoogLeNet"): "conv1",  # conv + bn + relu, before maxpool1
    ("torchvision", "Inception3"): "Conv2d_1a_3x3",  # conv + bn + relu
    ("timm", "ResNet"): "act1",  # after conv1 (one or three) + bn1, before maxpool
    ("timm", "EfficientNet"): "bn1",  # timm's bn1 holds the activation; Lite, MobileNetV2, MNASNet
    ("timm", "MobileNetV3"): "bn1",
    ("timm", "ByobNet"): "stem",  # RepVGG: the first block
    ("timm", "RegNet"): "stem",
    ("timm", "ConvNeXt"): "stem",
    ("timm", "DenseNet"): "features.norm0",  # timm's norm0 holds the activation
}

# Minimum and maximum of an activation. Where the minimum is no round number, a slightly lower one,
# so that no value is clipped that the activation can give in half precision.
VALUE_RANGES: dict[str, tuple[float | None, float | None]] = {
    "ReLU": (0.0, None),
    "ReLU6": (0.0, 6.0),
    "Hardswish": (-0.375, None),
    "SiLU": (-0.28, None),
    "Swish": (-0.28, None),
    "GELU": (-0.172, None),
    "Sigmoid": (0.0, 1.0),
    "BasicConv2d": (0.0, None),  # GoogLeNet's and Inception's: the ReLU is a function
}
NO_RANGE: tuple[None, None] = (None, None)
STRIDES = (1, 2, 4, 8)  # that an AFD-Module supports
USUAL_STRIDES = (2, 4)  # of a stem
PATCH_SIZES = tuple(range(5, 65))  # of vision transformers, pixels


class Stem(NamedTuple):
    """Dotted path of the stem, and its output's channels, stride and value range."""

    layer: str
    channels: int
    stride: int
    value_range: tuple[float | None, float | None]


def find_stem(
    module: nn.Module, crop: int, layer: str | None = None, family: tuple[str, str] = ("", "")
) -> Stem:
    """Finds the stem, and its output's shape by running the classifier up to there.

    Args:
        module: the classifier, in eval mode.
        crop: side of its input, pixels.
        layer: dotted path to use. None: the first that exists of: `STEM_LAYERS` for the family; a
            child named "stem" of stride 2 or 4; the first layer of such a stride in order of
            execution, up to the norm and activation that follow it; the first layer of a larger
            stride (a vision transformer's patches, where no AFD-Module can work).
        family: (library, class name).

    Raises:
        ValueError: no such layer; no stem was found; or the given layer's output is not
            (B, C, H, W) with a stride of 1, 2, 4 or 8.
    """
    given = layer
    layer = layer or STEM_LAYERS.get(family)
    if layer is None or layer not in dict(module.named_modules()):
        if given:
            raise ValueError(f"stem_layer: no layer {given!r}; the model has {_top_level(module)}")
        layer = _fallback(module, crop)
    shape = output_shape(module, layer, crop)
    stride = round(crop / shape[2]) if len(shape) == 4 and shape[2] else 0
    known = STRIDES if given else (*STRIDES, *PATCH_SIZES)
    if len(shape) != 4 or shape[2] != shape[3] or stride not in known:
        raise ValueError(
            f"stem_layer {layer!r} gives {tuple(shape)} for {crop}x{crop} pixels, not (B, C, H, W) "
            f"at a stride of {', '.join(map(str, STRIDES))}: name another layer with stem_layer"
        )
    return Stem(layer, shape[1], stride, _value_range(module.get_submodule(layer)))


def _top_level(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_children())


def _value_range(stem: nn.Module) -> tuple[float | None, float | None]:
    own = VALUE_RANGES.get(type(stem).__name__)
    last = list(stem.modules())[-1]
    return own or VALUE_RANGES.get(type(last).__name__, NO_RANGE)


def _fallback(module: nn.Module, crop: int) -> str:
    """The stem of a family that is not in `STEM_LAYERS`."""
    if isinstance(getattr(module, "stem", None), nn.Module):
        shape = output_shape(module, "stem", crop)
        if len(shape) == 4 and shape[2] == shape[3] and round(crop / shape[2]) in USUAL_STRIDES:
            return "stem"
    for strides in (USUAL_STRIDES, PATCH_SIZES):
        if found := _first_strided(module, crop, strides):
            return found
    raise ValueError(
        f"{type(module).__name__} has no layer at a stride of 2 or 4: name one with stem_layer"
    )


def _first_strided(module: nn.Module, crop: int, allowed: tuple[int, ...]) -> str | None:
    """The path of the last unit of the first chain whose output has one of the strides.

    A unit is a convolution, or the outermost module without one (timm's norms contain their
    activation). In a chain, each unit's input is the output tensor of the unit before, as in
    convolution, norm, activation.
    """
    chain: list[str] = []
    tail: list[Tensor] = []

    def follow(name: str) -> Callable[..., None]:
        def hook(child: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                return
            follows = chain and inputs and inputs[0] is tail[0] and output.shape == tail[0].shape
            if chain and (isinstance(child, nn.Conv2d) or not follows):
                raise StopForward
            strides = [round(crop / side) if side else 0 for side in output.shape[2:]]
            if chain or (strides[0] == strides[1] and strides[0] in allowed):
                chain.append(name)
                tail[:] = [output]

        return hook

    with ExitStack() as stack:
        for name, unit in _units(module):
            stack.enter_context(unit.register_forward_hook(follow(name)))
        run_on_zeros(module, crop)
    return chain[-1] if chain else None


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        holds_convolution = any(isinstance(m, nn.Conv2d) for m in child.modules())
        if holds_convolution and not isinstance(child, nn.Conv2d):
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child
