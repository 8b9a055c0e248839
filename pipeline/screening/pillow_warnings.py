"""Silences Pillow's warnings about damaged and large images, in many threads at once.

Python's warning filters are global. If each thread saved and restored them on its own, the last
one to leave could restore the filters that another had set, and leave them so for good.
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
    """Ignore warnings inside: the first thread sets the filters, the last one restores them."""
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
