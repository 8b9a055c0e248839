"""The import of `cpu_kernels`, which PyTorch's and DALI's operators replace where Numba is missing.

The package requires Numba, but Numba supports a new Python only months later. The operators are
there in any case, because CUDA uses them; on a CPU they take several times as long.
"""

from types import ModuleType


def cpu_kernels() -> ModuleType | None:
    """The module `afd_model.inference.cpu_kernels`, or None if Numba is not installed."""
    try:
        from afd_model.inference import cpu_kernels as kernels
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    return kernels
