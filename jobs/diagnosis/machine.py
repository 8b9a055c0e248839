"""Checks of the machine: interpreter, CPU, memory and GPU. They need no package."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.diagnosis.check import Check
from jobs.machine import (
    NO_DOCSTRINGS,
    cpu_features,
    cpu_name,
    has_docstrings,
    memory_bytes,
    num_cores,
)

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 11), (3, 13)
_SHARED_MEMORY = Path("/dev/shm")
_MIN_SHARED_MEMORY = 2**30  # containers have 64 MiB, and Ray then keeps its objects on disk
_MIN_MEMORY = 4 * 2**30  # for Ray's processes and one worker
_GPU_TIMEOUT_S = 30


def check_python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fits = _OLDEST_PYTHON <= sys.version_info[:2] <= _NEWEST_PYTHON
    if not fits or sys.platform != "linux" or platform.machine() != "x86_64":
        need = f"{found}: needs Linux on x86-64, and Python 3.11 to 3.13"
        return Check(name="Python", state="wrong", found=need, fix="uv venv --python 3.12")
    if not has_docstrings():
        return Check(name="Python", state="wrong", found=f"{found}: {NO_DOCSTRINGS}")
    return Check(name="Python", state="ok", found=found)


def check_cpu() -> Check:
    features = " ".join(cpu_features()) or "no vector instructions known here"
    found = f"{num_cores()} cores, {cpu_name()}: {features}"
    return Check(name="CPU", state="ok", found=found)


def check_memory() -> Check:
    total = memory_bytes()
    found = f"{total / 2**30:.1f} GiB"
    if total < _MIN_MEMORY:
        found += f": a worker and Ray take {_MIN_MEMORY / 2**30:.0f} GiB"
        return Check(name="memory", state="wrong", found=found, required=False)
    return Check(name="memory", state="ok", found=found)


def check_shared_memory(folder: Path = _SHARED_MEMORY) -> Check:
    """Ray keeps its object store in this folder."""
    name = str(folder)
    if not folder.is_dir():
        found = "Ray will keep its objects on disk"
        return Check(name=name, state="missing", found=found, required=False)
    total = shutil.disk_usage(folder).total
    found = f"{total / 2**30:.1f} GiB"
    if total < _MIN_SHARED_MEMORY:
        return Check(
            name=name,
            state="wrong",
            found=f"{found}: Ray will keep its objects on disk",
            required=False,
            fix=f"mount -o remount,size=2g {folder} (in Docker: docker run --shm-size=2g)",
        )
    return Check(name=name, state="ok", found=found)


def check_gpu(torch: Any | None) -> Check:
    """A missing GPU does not stop labelling. torch: the module; None if it cannot be imported."""
    driver, problem = _driver()
    if torch is not None and torch.cuda.is_available():
        return Check(name="GPU", state="ok", found=driver or torch.cuda.get_device_name())
    if problem:
        fix = "nvidia-smi"
        return Check(name="GPU", state="wrong", found=problem, required=False, fix=fix)
    if driver is None:
        found = "no NVIDIA driver: labelling runs on the CPU"
        return Check(name="GPU", state="missing", found=found, required=False)
    if torch is None:
        return Check(name="GPU", state="wrong", found=f"{driver}; no PyTorch", required=False)
    if torch.version.cuda is None:
        found = f"{driver}; this PyTorch is built without CUDA"
        fix = "pip install --force-reinstall torch torchvision"
    else:
        found = f"{driver}; too old for PyTorch's CUDA {torch.version.cuda}, or its devices hidden"
        fix = "unset CUDA_VISIBLE_DEVICES, or install a newer NVIDIA driver"
    return Check(name="GPU", state="wrong", found=found, required=False, fix=fix)


def _driver() -> tuple[str | None, str | None]:
    """(the driver's description of its GPUs, what is wrong with the driver)."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"nvidia-smi does not answer: {error}"
    lines = (answer.stdout or answer.stderr).strip().splitlines() or ["no output"]
    if answer.returncode or not answer.stdout.strip():
        return None, f"nvidia-smi failed: {lines[0]}"
    name, memory, version = [*lines[0].split(", "), "", ""][:3]
    return f"{len(lines)} x {name}, {memory}, driver {version}", None
