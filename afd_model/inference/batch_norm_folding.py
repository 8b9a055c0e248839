"""Folds batch norms into the convolutions before them."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Folding changes float32 rounding only. A larger difference means that a pair was wrong.
RELATIVE_TOLERANCE = 1e-4
_SIDE = 64  # of the image that finds and checks the pairs, pixels


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> int:
    """Folds every batch norm that directly follows a convolution, in place.

    Pairs are found by running the model on a random image: the batch norm's input is the
    convolution's output tensor itself, and both are called once. This cannot see whether another
    layer reads the convolution's output too, so the outputs before and after are compared; if they
    differ, all folding is undone.

    Args:
        model: in eval mode, float32.

    Returns:
        The number of batch norms folded.
    """
    generator = torch.Generator().manual_seed(0)
    parameter = next(model.parameters())
    image = torch.randn(2, 3, _SIDE, _SIDE, generator=generator).to(parameter)
    # With TF32, cuDNN's rounding would exceed the tolerance, and nothing would be folded.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        try:
            expected, pairs = _run(model, image)
        except (RuntimeError, AssertionError, ValueError):
            return 0  # the model takes only another input size
        undo = [_fold(model, conv, norm) for conv, norm in pairs]
        found = model(image)
    if (found - expected).abs().max() <= RELATIVE_TOLERANCE * expected.abs().max():
        return len(pairs)
    for (conv_path, norm_path), (conv, norm) in zip(reversed(pairs), reversed(undo), strict=True):
        model.set_submodule(conv_path, conv)
        model.set_submodule(norm_path, norm)
    return 0


def _run(model: nn.Module, image: Tensor) -> tuple[Tensor, list[tuple[str, str]]]:
    calls: dict[str, int] = {}
    made_by: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []

    def hook(name: str) -> Any:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                # Kept with its tensor: the id of a freed tensor could be reused.
                made_by[id(output)] = (name, output)
            elif id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])][0], name))

        return record

    with ExitStack() as stack:
        for name, child in model.named_modules():
            if _is_convolution(child) or _is_batch_norm(child):
                stack.enter_context(child.register_forward_hook(hook(name)))
        output = model(image)
    once = [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]
    return output, once


def _is_convolution(module: nn.Module) -> bool:
    """torch's, or timm's with TensorFlow's padding; other subclasses may compute their weight."""
    return type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame"


def _is_batch_norm(module: nn.Module) -> bool:
    """torch's, or timm's that includes the activation."""
    if type(module) is nn.BatchNorm2d:
        return module.running_mean is not None
    return type(module).__name__ == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d)


def _fold(model: nn.Module, conv_path: str, norm_path: str) -> tuple[nn.Module, nn.Module]:
    """Replaces both modules; returns the original ones."""
    conv, norm = model.get_submodule(conv_path), model.get_submodule(norm_path)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    folded = copy.deepcopy(conv)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    folded.weight, folded.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    folded.requires_grad_(requires_grad=False)
    model.set_submodule(conv_path, folded)
    activation = getattr(norm, "act", None)
    model.set_submodule(norm_path, activation if activation is not None else nn.Identity())
    return conv, norm
