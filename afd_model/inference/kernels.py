"""Where Numba is installed, what it compiles for CPUs; PyTorch's own steps do without."""

from types import ModuleType


def cpu_kernels() -> ModuleType | None:
    """`afd_model.inference.cpu_kernels`, or None without Numba."""
    try:
        from afd_model.inference import cpu_kernels as kernels
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    return kernels
