"""Device and precision of a model."""

from collections.abc import Mapping
from typing import Any

import torch

PRECISIONS: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


def resolve_device(requested: str) -> torch.device:
    """The device to run on.

    Args:
        requested: "auto" (CUDA if available, else the CPU), "cuda", "cuda:N" or "cpu".

    Raises:
        ValueError: an unknown name, or no such CUDA device.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "cpu"):
        raise ValueError(f"unknown device {requested!r}: auto, cuda or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"there is no device {requested!r}, PyTorch sees {count} CUDA devices: check"
            " nvidia-smi, or use --device cpu"
        )
    return device


def fault_of(device: torch.device) -> str | None:
    """One line that says why this process can no longer use the device; None: it can.

    After an illegal access, an uncorrectable memory error or a reset, every CUDA call fails until
    the process ends.
    """
    if device.type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return f"{device} can no longer be used by this process: {str(error).splitlines()[0]}"
    return None


def resolve_precision(requested: str, device: torch.device | str) -> torch.dtype:
    """The dtype of the model's arithmetic.

    Args:
        requested: "auto" (CUDA: fp16; CPUs with native bf16: bf16; others: fp32), "fp16", "bf16" or
            "fp32".

    Raises:
        ValueError: an unknown name, or fp16 on a CPU, where it is slow.
    """
    kind = torch.device(device).type
    if requested == "auto":
        if kind == "cuda":
            return torch.float16
        return torch.bfloat16 if has_native_bf16() else torch.float32
    if requested not in PRECISIONS:
        raise ValueError(f"unknown precision {requested!r}: auto, {', '.join(PRECISIONS)}")
    if requested == "fp16" and kind == "cpu":
        raise ValueError("precision 'fp16' needs a CUDA device: use bf16 or fp32 on a CPU")
    return PRECISIONS[requested]


def device_name(device: torch.device) -> str:
    """The GPU's model name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def dtype_name(dtype: torch.dtype) -> str:
    """The name without "torch.": "float16"."""
    return str(dtype).removeprefix("torch.")


def has_native_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16, AMX, or Arm's BF16)."""
    read = getattr(torch.cpu, "get_capabilities", None)
    capabilities: Mapping[str, Any] = read() if read else {}
    names = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")
    if capabilities:
        return any(capabilities.get(name, False) for name in names)
    # PyTorch releases without get_capabilities.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
