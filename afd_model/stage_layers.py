"""The layers at a classifier's top level, and the sizes of the maps that they give."""

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn


def layer_maps(backbone: nn.Module, crop: int) -> dict[str, torch.Size]:
    """Dotted path -> (1, C, H, W), in order of execution.

    Of the top-level layers (`nn.Sequential`s among them opened) whose output is a map.

    Args:
        backbone: in its own dtype and on its device; run once on an empty picture.
        crop: side of that picture, pixels.
    """
    shapes: dict[str, torch.Size] = {}

    def note(path: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            shapes[path] = output.shape

    with ExitStack() as stack:
        for path, layer in _top_layers(backbone):
            hook = layer.register_forward_hook(
                lambda _module, _inputs, output, path=path: note(path, output)
            )
            stack.callback(hook.remove)
        blank_run(backbone, crop)
    return shapes


@torch.inference_mode()
def blank_run(module: nn.Module, crop: int) -> None:
    """Runs a classifier once, for what its hooks see, on an empty picture of crop x crop pixels."""
    parameter = next(module.parameters())
    module(torch.zeros(1, 3, crop, crop, device=parameter.device, dtype=parameter.dtype))


def _top_layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential):
            for inner_name, inner in child.named_children():
                yield f"{name}.{inner_name}", inner
        else:
            yield name, child
