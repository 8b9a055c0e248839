"""The CPUs and memory that this process may use, and how it uses them; how Python was started.

Needs only the standard library.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
# A container's limits. Bytes, or "max".
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Microseconds of CPU time per period, or "max"; and the period in microseconds.
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
# Instruction sets for which the model and the decoder have their own kernels, as Linux names them.
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")

NO_DOCSTRINGS = "DALI needs docstrings: unset PYTHONOPTIMIZE, and run Python without -OO"


def has_docstrings() -> bool:
    """DALI cannot be imported by a Python that discards them."""
    return sys.flags.optimize < 2


def num_cores() -> int:
    """The cores that this process may use, within its container's limit."""
    allowed = len(os.sched_getaffinity(0))
    quota, period, *_ = [*_read(_CPU_LIMIT).split(), "", ""]
    if not quota.isdecimal() or not period.isdecimal():
        return allowed
    return min(allowed, max(1, math.ceil(int(quota) / int(period))))


def cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """The CPU's vector instruction sets, as far as they matter here."""
    flags = set((_cpu_info("flags") or _cpu_info("Features")).split())
    return tuple(name for name in _FEATURES if name in flags)


def memory_bytes() -> int:
    """The machine's memory, or the container's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(_MEMORY_LIMIT).strip()
    return min(total, int(limit)) if limit.isdecimal() else total


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def release_free_memory() -> None:
    """Return memory that was freed, but that the C library still holds, to the system; 20 to 40 ms.

    Allocating and freeing pictures of all sizes leaves gaps in the heap. Called after every 1,000
    pictures, this lowered a worker's memory from 1,362 to 1,105 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it and needs it
    if trim is not None:
        trim(0)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For slow imports: it would take a seventh of their time, and find nothing to free."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Together they make every object one of the oldest generation, unseen. The next collections
        # of the younger ones would each look at all that was imported.
        gc.freeze()
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _cpu_info(key: str) -> str:
    """The value for the first CPU; empty when the kernel does not list it."""
    for line in _read(_CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
