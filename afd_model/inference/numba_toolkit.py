"""What the files of Numba kernels share: how one is compiled, and the storage types of tensors.

After a change here, delete their caches, because Numba checks a kernel's own file only. All of them
are without type annotations, which Numba ignores. bfloat16 tensors come as their uint16 bits.
"""

# mypy: disable-error-code="no-untyped-def"

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numba
import numpy as np
from numba.core import config
from numba.core.caching import FunctionCache
from numba.extending import overload

# Numba would take settings from a file in the current folder, which may be a downloaded collection,
# and run what lies in the cache that these name.
config._config_fname = os.devnull
config.reload_config()

_BFLOAT16_NAN = np.uint32(0x7FC0)

# Lets LLVM reorder sums, which vectorising needs. Without "nnan" and "ninf": NaN must stay NaN.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

# For the functions that a kernel calls. If LLVM does not inline them, the loops are not vectorised.
part_of_kernel = numba.njit(fastmath=_FASTMATH, error_model="numpy", inline="always")


class _Cache(FunctionCache):
    """Does without a file of the cache that is damaged or has no room: Numba would raise.

    `except Exception`, because a damaged pickle raises whatever it likes.
    """

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception:
            with suppress(OSError):
                self.flush()  # the index may be what is damaged


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compiles a function at its first call, and caches the result on disk for other processes."""
    make = partial(numba.njit, nogil=True, fastmath=_FASTMATH, error_model="numpy")
    made: Any = make()(function)
    # RuntimeError: no writable cache folder, neither beside this file nor the user's.
    with suppress(RuntimeError):
        made._cache = _Cache(function)  # what cache=True does
    compiled: Callable[..., None] = made
    return compiled


# Overloads for the two storage types of features: float32, and bfloat16 as uint16 bits.


def widened(x):
    """A stored value as float32."""
    raise NotImplementedError


def stored(x, like):
    """A float32 in the storage type of `like`, rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(widened, inline="always")
def _widened_form(x):
    if x == numba.types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(stored, inline="always")
def _stored_form(x, like):
    def as_bfloat16(x, like):
        bits = np.float32(x).view(np.uint32)
        tie = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + tie) >> np.uint32(16)
        # Rounding a NaN whose bits are all set would overflow to 0.
        return np.uint16(_BFLOAT16_NAN if x != x else rounded)

    return as_bfloat16 if like == numba.types.uint16 else lambda x, like: x


@part_of_kernel
def polynomial(coefficients, x):
    """Horner's scheme; the coefficient of the highest power comes first."""
    value = np.float32(0)
    for coefficient in coefficients:
        value = value * x + np.float32(coefficient)
    return value
