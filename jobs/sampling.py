"""A sample of a collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of the items, evenly spread over the sequence, in its order."""
    count = min(count, len(items))
    return [items[k * len(items) // count] for k in range(count)]
