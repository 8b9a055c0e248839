"""What the kernels of `afd_model.cpu_kernels` are made of: Numba's settings, bfloat16, threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

# Sums may be reordered, as vectors need it; a NaN stays a NaN.
_REORDERED = {"reassoc", "contract", "nsz", "arcp"}

# For what a kernel calls. Left to LLVM it stays a call, and the loops around it go without vectors.
part_of_kernel = numba.njit(fastmath=_REORDERED, error_model="numpy", inline="always")


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """The function compiled at its first call, for this machine, and kept for the next process."""
    make = partial(numba.njit, nogil=True, fastmath=_REORDERED, error_model="numpy")
    made: Callable[..., None]
    try:
        made = make(cache=True)(function)
    except RuntimeError:  # no folder to keep it in: neither beside this file nor of the user's
        made = make()(function)
    return made


def rows_of(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C), bfloat16 as its bits (NumPy has none)."""
    rows = x.permute(0, 2, 3, 1).contiguous()
    return (rows.view(torch.uint16) if x.dtype == torch.bfloat16 else rows).numpy()


def in_threads(work: Callable[[slice], None], count: int) -> None:
    """Does `work` for slices of range(count), in as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(slice(0, count))
        return
    bounds = [count * number // threads for number in range(threads + 1)]
    for _ in _pool(threads).map(work, map(slice, bounds, bounds[1:])):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "kernels")


# Numba wants these without annotations: a form for each type that features are stored in.


def widened(x):  # type: ignore[no-untyped-def]
    """A stored number as float32."""
    raise NotImplementedError


def stored(x, like):  # type: ignore[no-untyped-def]
    """A float32 as `like` is stored, rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(widened, inline="always")
def _widened_form(x):  # type: ignore[no-untyped-def]
    if x == numba.types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(stored, inline="always")
def _stored_form(x, like):  # type: ignore[no-untyped-def]
    def as_bfloat16(x, like):  # type: ignore[no-untyped-def]
        bits = np.float32(x).view(np.uint32)
        tie = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16((bits + np.uint32(0x7FFF) + tie) >> np.uint32(16))

    return as_bfloat16 if like == numba.types.uint16 else lambda x, like: x
