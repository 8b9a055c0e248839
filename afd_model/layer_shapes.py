"""Output shapes of a classifier's layers, found by running it once."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class StopForward(Exception):  # noqa: N818 - control flow, not an error
    """Raised by a hook, it ends `run_on_zeros`."""


@torch.inference_mode()
def run_on_zeros(module: nn.Module, crop: int) -> None:
    """Runs a classifier on one image of zeros, crop x crop pixels, for the sake of its hooks."""
    parameter = next(module.parameters())
    with suppress(StopForward):
        module(torch.zeros(1, 3, crop, crop, device=parameter.device, dtype=parameter.dtype))


def output_shape(module: nn.Module, layer: str, crop: int) -> torch.Size:
    """The output shape of a layer for one image of crop x crop pixels; stops the run there.

    Raises:
        ValueError: the forward pass does not use the layer.
    """
    shapes: list[torch.Size] = []

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        shapes.append(output.shape if isinstance(output, Tensor) else torch.Size())
        raise StopForward

    with module.get_submodule(layer).register_forward_hook(stop):
        run_on_zeros(module, crop)
    if not shapes:
        raise ValueError(f"stem_layer {layer!r} is not used in the model's forward pass")
    return shapes[0]


def shapes_behind(module: nn.Module, stem_layer: str, crop: int) -> dict[str, torch.Size]:
    """Dotted path -> (1, C, H, W) of the layers behind the stem, in order of execution.

    Covers the top-level layers, and the children of a top-level `nn.Sequential`, whose output has
    four dimensions and a smaller grid than the stem's: the stem's features represent those of its
    own resolution.

    Args:
        module: the classifier, in eval mode.
        stem_layer: dotted path of its stem.
        crop: side of the input, pixels.
    """
    shapes: dict[str, torch.Size] = {}

    def record(path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            shapes[path] = output.shape

    stem_size = output_shape(module, stem_layer, crop)[2]
    with ExitStack() as stack:
        for path, layer in _top_layers(module):
            stack.enter_context(layer.register_forward_hook(partial(record, path)))
        run_on_zeros(module, crop)
    return {path: shape for path, shape in shapes.items() if shape[2] < stem_size}


def _top_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            for inner_name, inner in child.named_children():
                yield f"{name}.{inner_name}", inner
        else:
            yield name, child
