"""Pillow's warnings of damage and of size, kept quiet by any number of threads at once.

Python has one list of warning filters for all threads: where each thread saved and restored it for
itself, the last one to leave could restore what another had set, for good.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def silenced() -> Iterator[None]:
    """The first thread to enter changes the filters, the last to leave restores them."""
    global _inside, _filters
    with _lock:
        if _inside == 0:
            _filters = warnings.catch_warnings(action="ignore")
            _filters.__enter__()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
