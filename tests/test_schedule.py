"""The learning rate of each step, in each phase."""

from dataclasses import replace

import pytest
import trainers

from afd_model.training.schedule import learning_rate, stem_steps

OPTIONS = replace(
    trainers.OPTIONS,
    max_steps=150,
    stem_steps=50,
    stem_learning_rate=8.0,
    learning_rate=2.0,
    warmup_steps=10,
)


@pytest.mark.parametrize(("first", "end", "highest"), [(0, 50, 8.0), (50, 150, 2.0)])
def test_the_rate_rises_and_falls_to_zero_in_each_phase(
    first: int, end: int, highest: float
) -> None:
    rates = [learning_rate(step, OPTIONS) for step in range(first, end)]
    assert rates[0] == pytest.approx(highest / 10)
    assert max(rates) == rates[10] == pytest.approx(highest)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < highest * 2e-3


def test_the_cosine_is_at_half_its_height_half_way() -> None:
    assert learning_rate(105, OPTIONS) == pytest.approx(1.0, abs=0.02)


def test_a_short_run_keeps_half_for_the_second_phase() -> None:
    assert stem_steps(OPTIONS) == 50
    assert stem_steps(replace(OPTIONS, max_steps=20, stem_steps=1000)) == 10
    assert stem_steps(replace(OPTIONS, max_steps=1, stem_steps=1000)) == 0
