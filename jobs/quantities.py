"""Formats numbers for people; `finite` makes them fit for JSON."""

from __future__ import annotations

import math
from typing import Any

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
UNKNOWN = "–"


def count(number: int) -> str:
    return f"{number:,}"


def percent(share: float | None) -> str:
    """A share from 0 to 1; 0 % and 100 % stand only for exactly none and all."""
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


def size(num_bytes: float) -> str:
    """In units of powers of 1000."""
    value = num_bytes
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """In its largest unit and the next, unless that is 0; with tenths below ten seconds."""
    if seconds < 10:
        return f"{round(seconds, 1):g} s"
    parts, left = [], round(seconds)
    for unit, unit_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, unit_s)
        parts.append((amount, unit))
    first = next(k for k, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount)


def finite(value: Any) -> Any:
    """The same value with None in place of NaN and infinities, at any depth: JSON has neither."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
