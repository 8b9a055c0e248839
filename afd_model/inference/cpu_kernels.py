"""Operations fused into one pass over memory for CPUs, compiled by Numba.

The last steps of the AFD-Module and the drift scores: PyTorch's operators for resizing the FDM,
gating, adding, clamping and the sums of the drift make about twenty passes over tensors larger than
any cache, and take half as long as a light backbone. Also FDE-Net's logarithm and first layer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.drift import Drift
from afd_model.fde_net import FDENet, log_magnitude
from afd_model.inference import enhance_kernels, fde_kernels
from afd_model.inference.kernels import DTYPES, as_array, in_threads

MAX_FUSED_HIDDEN = 8
MAX_FUSED_WIDTH = 4  # wider, oneDNN's convolution is faster


def enhance_and_score(
    module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Drift]:
    """`afd_model.classifier.enhance_and_score` with the FDM and the sums in float32; no gradients.

    Args:
        module: on the CPU.
        features: (B, C, H, W) bfloat16 or float32, the stem's output; fastest in channels_last.
        dct: (B, 192, h, w) as `block_dct` gives it, any floating dtype.
        out: where to write the enhanced features, in channels_last; None: a new tensor.

    Returns:
        The enhanced features, (B, C, H, W) of the features' dtype in channels_last; their drift.

    Raises:
        ValueError: another dtype.
    """
    if features.dtype not in DTYPES:
        raise ValueError(f"features are bfloat16 or float32 here, not {features.dtype}")
    features = features.contiguous(memory_format=torch.channels_last)
    enhanced = torch.empty_like(features) if out is None else out
    before, after = _rows(features), _rows(enhanced)
    add = _adds_decoded(module, features, dct) or _adds_gated(module, features, dct)
    limits = _limits(module.config.output_min, module.config.output_max)
    scores = torch.empty(2, features.shape[0])

    def of_images(part: slice) -> None:
        add(part, before[part], limits, after[part], *scores[:, part].numpy())

    in_threads(of_images, features.shape[0])
    return enhanced, Drift(torch.rad2deg(scores[0]), scores[1])


def _adds_decoded(module: AFDModule, features: Tensor, dct: Tensor) -> Callable[..., None] | None:
    """`_adds_gated` for a narrow FE-Net: its last layer is in the same pass; None for others."""
    config = module.config
    if config.fdm_on != "bottleneck" or config.width > MAX_FUSED_WIDTH:
        return None
    narrow = _rows(module.fe_net.encode(features))
    gates = _gates(module.fde_net.gate(dct), config.width)
    exit_layer = module.fe_net.exit
    assert isinstance(exit_layer, torch.nn.ConvTranspose2d)
    weight = exit_layer.weight.float().permute(2, 0, 3, 1).flatten(2).contiguous().numpy()
    sizes = tuple((0,) * size for size in (features.shape[1], *weight.shape[1:]))

    def add(part: slice, before: np.ndarray, *others: Any) -> None:
        enhance_kernels.add_decoded(before, narrow[part], gates[part], weight, sizes, *others)

    return add


def _adds_gated(module: AFDModule, features: Tensor, dct: Tensor) -> Callable[..., None]:
    """Adds FE-Net's correction to a part of the batch: `enhance_kernels.add_gated`."""
    correction, gate = _correction(module, features, dct)
    steps = _rows(correction)
    gates = None if gate is None else _gates(gate, features.shape[1])

    def add(part: slice, before: np.ndarray, *others: Any) -> None:
        gate_of_part = None if gates is None else gates[part]
        enhance_kernels.add_gated(before, steps[part], gate_of_part, *others)

    return add


def _correction(module: AFDModule, features: Tensor, dct: Tensor) -> tuple[Tensor, Tensor | None]:
    """FE-Net's output (B, C, H, W), and the FDM from `FDENet.gate` that it is to be multiplied by.

    None: the FDM has been applied already, to the input of FE-Net's last layer.
    """
    if module.config.fdm_on == "output":
        return module.fe_net(features), module.fde_net.gate(dct)
    narrow = module.fe_net.encode(features).contiguous(memory_format=torch.channels_last)
    gates = _gates(module.fde_net.gate(dct), narrow.shape[1])
    gated = torch.empty_like(narrow)
    before, after = _rows(narrow), _rows(gated)
    in_threads(
        lambda part: enhance_kernels.apply_gate(before[part], gates[part], after[part]), len(before)
    )
    return module.fe_net.decode(gated, (features.shape[2], features.shape[3])), None


def _gates(gate: Tensor, channels: int) -> np.ndarray:
    """(B, channels or 1, h, w) -> (B, h, w, channels) float32."""
    return _rows(gate.float().expand(-1, channels, -1, -1))


def _limits(low: float | None, high: float | None) -> tuple[np.float32, np.float32]:
    return np.float32(-np.inf if low is None else low), np.float32(np.inf if high is None else high)


def log_magnitude_in_one_pass(dct: Tensor, dtype: torch.dtype) -> Tensor:
    """`fde_net.log_magnitude` to bfloat16 by a polynomial; other dtypes are passed on to it.

    PyTorch's logarithm is exact to float32, more than bfloat16 can hold, and three times as slow.
    """
    if dtype != torch.bfloat16 or dct.dtype != torch.float32:
        return log_magnitude(dct, dtype)
    dct = dct.contiguous()
    logs = torch.empty(dct.shape, dtype=torch.bfloat16)
    found = logs.view(torch.uint16)

    def of_images(part: slice) -> None:
        fde_kernels.take_logarithms(dct[part].flatten().numpy(), found[part].flatten().numpy())

    in_threads(of_images, dct.shape[0])
    return logs


def fuses_gate(fde_net: FDENet) -> bool:
    """Whether `fused_gate` can replace `FDENet.gate`, and is faster.

    Up to `MAX_FUSED_HIDDEN` hidden channels it takes hardly longer than the logarithms alone; with
    more, products of matrices are faster.
    """
    local, pooled = fde_net.local, fde_net.pooled
    return (
        fde_net.dct_input == "log"
        and fde_net.hidden.out_channels <= MAX_FUSED_HIDDEN
        and local is not None
        and (pooled is None or pooled.out_channels == local.out_channels)
    )


def fused_gate(fde_net: FDENet, dct: Tensor) -> Tensor:
    """`FDENet.gate` in one pass, except for the sigmoid; computed and returned in float32."""
    assert fde_net.local is not None
    dct = dct.float().contiguous()
    hidden = _weights(*fde_net.standardised_hidden())
    local = _weights(fde_net.local.weight, fde_net.local.bias)
    pooled = None
    if fde_net.pooled is not None:
        pooled = _weights(fde_net.pooled.weight, fde_net.pooled.bias)
    found = torch.empty(dct.shape[0], fde_net.local.out_channels, *dct.shape[2:])
    coefficients, gates = dct.flatten(2).numpy(), found.flatten(2).numpy()
    channels = (0,) * fde_net.hidden.out_channels

    def of_images(part: slice) -> None:
        fde_kernels.take_gate(coefficients[part], hidden, local, pooled, channels, gates[part])

    in_threads(of_images, dct.shape[0])
    return found.sigmoid_()


def _weights(weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Of a 1x1 convolution: (out, in, 1, 1) -> (out, in) float32; (out,) float32."""
    assert bias is not None
    return weight.float().flatten(1).numpy(), bias.float().numpy()


def _rows(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C), see `as_array`."""
    return as_array(x.permute(0, 2, 3, 1).contiguous())
