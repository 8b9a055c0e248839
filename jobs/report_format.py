"""Numbers as the report writes them."""

from __future__ import annotations

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
UNKNOWN = "–"


def count(number: int) -> str:
    return f"{number:,}"


def percent(share: float | None) -> str:
    """A share of 0 to 1, with as many digits as tell it from none and from all."""
    if share is None:
        return UNKNOWN
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1:
        return "under 0.1 %"
    if value > 99.9:
        return "over 99.9 %"
    return f"{value:.1f} %"


def decimal(value: float | None, digits: int = 2) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def degrees(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}°"


def size(num_bytes: int | None) -> str:
    """In powers of a thousand."""
    if num_bytes is None:
        return UNKNOWN
    value = float(num_bytes)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
