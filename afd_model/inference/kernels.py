"""The optional import of `cpu_kernels`: without Numba, PyTorch's own operators do the same."""

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
