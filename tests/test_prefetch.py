"""Made by a thread before they are asked for: in order, not too many, errors in their place."""

import itertools
from collections.abc import Iterator

import pytest

from pipeline.prefetch import prefetch


def test_prefetch_keeps_order_raises_in_place_and_ends() -> None:
    made = []

    def items() -> Iterator[int]:
        for k in range(100):
            made.append(k)
            if k == 50:
                raise OSError("at 50")
            yield k

    ahead = prefetch(items(), 2)
    assert list(itertools.islice(ahead, 10)) == list(range(10))
    ahead.close()
    assert len(made) <= 14
    ahead = prefetch(items(), 3)
    assert list(itertools.islice(ahead, 50)) == list(range(50))
    with pytest.raises(OSError, match="at 50"):
        next(ahead)
    assert list(prefetch(iter(range(5)), 1)) == list(range(5))
