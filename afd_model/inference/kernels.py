"""What the compiled kernels for CPUs need around them: Numba, threads, and tensors as arrays.

The package requires Numba, but Numba supports a new Python only months later. Where it is missing,
PyTorch's and DALI's operators replace the kernels. They are there in any case, because CUDA uses
them; on a CPU they take several times as long. So whatever imports Numba, also a file of kernels,
is itself imported only where `has_numba` says yes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float32)  # which the kernels read and write


def has_numba() -> bool:
    """Whether Numba is installed."""
    return find_spec("numba") is not None


def as_array(x: Tensor) -> np.ndarray:
    """A tensor on the CPU; bfloat16, which NumPy does not have, as uint16 bits."""
    array: np.ndarray = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    return array


def in_threads(work: Callable[[slice], None], count: int) -> None:
    """Calls `work` on slices of range(count), in as many threads as PyTorch uses."""
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
