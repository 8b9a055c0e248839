"""Some of many, from all over."""

import pytest

from jobs.sampling import evenly


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7])]
)
def test_as_many_as_asked_for_from_all_over(count: int, expected: list[int]) -> None:
    assert evenly(range(10), count) == expected


@pytest.mark.parametrize("count", [10, 99])
def test_all_where_there_are_no_more(count: int) -> None:
    assert evenly(range(10), count) == list(range(10))


def test_none_of_none() -> None:
    assert evenly([], 5) == []
