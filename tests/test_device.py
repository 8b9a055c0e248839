"""Where a model runs, and in which precision."""

import pytest
import torch

from afd_model.inference import device
from afd_model.inference.device import fault_of, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_devices() -> None:
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        resolve_device("gpu")


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"there is no device 'cuda', .*--device cpu"):
        resolve_device("cuda")


def test_a_device_that_fails_whatever_it_is_asked_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of(CPU) is None

    def fail(_: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert fault_of(CPU) is None
    assert fault_of(torch.device("cuda:1")) == (
        "cuda:1 can no longer be used by this process: CUDA error: an illegal memory access"
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    assert fault_of(torch.device("cuda")) is None


def test_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", "cuda") == torch.float16
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "has_native_bf16", lambda native=native: native)
        assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("fp32", "cuda") == torch.float32
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        resolve_precision("fp8", CPU)
    with pytest.raises(ValueError, match="'fp16' needs a CUDA device"):
        resolve_precision("fp16", CPU)
