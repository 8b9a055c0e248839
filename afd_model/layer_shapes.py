"""Output shapes of a classifier's top-level layers, found by running it once."""

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn


def layer_output_shapes(backbone: nn.Module, crop: int) -> dict[str, torch.Size]:
    """Dotted path -> (1, C, H, W), in order of execution.

    Covers the top-level layers, and the children of a top-level `nn.Sequential`, whose output has
    four dimensions.

    Args:
        backbone: in eval mode; run once.
        crop: side of the input, pixels.
    """
    shapes: dict[str, torch.Size] = {}

    def record(path: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            shapes[path] = output.shape

    with ExitStack() as stack:
        for path, layer in _top_layers(backbone):
            hook = layer.register_forward_hook(
                lambda _module, _inputs, output, path=path: record(path, output)
            )
            stack.callback(hook.remove)
        run_on_zeros(backbone, crop)
    return shapes


@torch.inference_mode()
def run_on_zeros(module: nn.Module, crop: int) -> None:
    """Runs a classifier on one image of zeros, crop x crop pixels, for the sake of its hooks."""
    parameter = next(module.parameters())
    module(torch.zeros(1, 3, crop, crop, device=parameter.device, dtype=parameter.dtype))


def _top_layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential):
            for inner_name, inner in child.named_children():
                yield f"{name}.{inner_name}", inner
        else:
            yield name, child
