"""Numbers as people read them."""

import pytest

from jobs.quantities import count, decimal, degrees, duration, finite, percent, size


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50.0 %"),
        (0.12345, "12.3 %"),
        (1e-7, "under 0.1 %"),
        (0.001, "0.1 %"),
        (0.0012, "0.1 %"),
        (0.999, "99.9 %"),
        (0.99999, "over 99.9 %"),
        (None, "–"),
    ],
)
def test_a_share_is_told_from_none_and_from_all(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 45_200_000, 3 * 10**18)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "45.2 MB",
        "3000.0 PB",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.04, "0 s"), (0.25, "0.2 s"), (9.5, "9.5 s"), (9.96, "10 s"), (10.4, "10 s")),
        *((59.6, "1 min"), (61, "1 min 1 s"), (119.9, "2 min"), (3599, "59 min 59 s")),
        *((7200, "2 h"), (7265, "2 h 1 min"), (86_399, "23 h 59 min"), (86_400, "1 d")),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_json_has_no_nan() -> None:
    nan, infinity = float("nan"), float("inf")
    found = finite({"a": [1.5, nan], 2: {"b": (infinity, None)}, "c": "nan"})
    assert found == {"a": [1.5, None], "2": {"b": [None, None]}, "c": "nan"}


def test_numbers() -> None:
    assert count(1_234_567) == "1,234,567"
    assert (decimal(0.125), decimal(0.125, 1), decimal(None)) == ("0.12", "0.1", "–")
    assert (degrees(2.345), degrees(None)) == ("2.35°", "–")
