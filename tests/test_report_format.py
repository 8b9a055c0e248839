"""Numbers as people read them."""

import pytest

from jobs.report_format import count, decimal, degrees, duration, percent, size


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50.0 %"),
        (0.12345, "12.3 %"),
        (1e-7, "under 0.1 %"),
        (0.99999, "over 99.9 %"),
        (None, "–"),
    ],
)
def test_a_share_is_told_from_none_and_from_all(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_sizes_and_times() -> None:
    assert [size(n) for n in (0, 999, 1000, 45_200_000, 3 * 10**18, None)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "45.2 MB",
        "3000.0 PB",
        "–",
    ]
    assert [duration(s) for s in (0.04, 119.9, 120, 7200)] == [
        "0.0 s",
        "119.9 s",
        "2.0 min",
        "2.0 h",
    ]


def test_numbers() -> None:
    assert count(1_234_567) == "1,234,567"
    assert (decimal(0.125), decimal(0.125, 1), decimal(None)) == ("0.12", "0.1", "–")
    assert (degrees(2.345), degrees(None)) == ("2.35°", "–")
