"""Some images of a collection, where all of them are not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` of the items, or all where there are fewer, spread over the whole sequence."""
    count = min(count, len(items))
    return [items[k * len(items) // count] for k in range(count)]
