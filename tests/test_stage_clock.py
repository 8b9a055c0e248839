"""Each second is counted once."""

import pytest

from pipeline.stage_clock import StageClock


class Time:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_an_inner_stage_stops_the_outer_one(time: Time) -> None:
    clock = StageClock(time.perf_counter)
    with clock.stage("outer"):
        time.now += 1
        with clock.stage("inner"):
            time.now += 10
            with clock.stage("outer"):  # a stage may come again, inside itself too
                time.now += 100
        time.now += 1000
    time.now += 5  # between stages: nobody's
    with clock.stage("inner"):
        time.now += 10_000
    assert clock.seconds == {"outer": 1101, "inner": 10_010}


def test_another_clock_may_be_counted(time: Time) -> None:
    ticks = iter((1.0, 3.0, 10.0, 14.0))
    clock = StageClock(lambda: next(ticks))
    for _ in range(2):
        with clock.stage("dct"):
            time.now += 100
    assert clock.seconds == {"dct": 6}


def fail_after_a_second(time: Time) -> None:
    time.now += 1
    raise KeyError


def test_an_error_ends_its_stage(time: Time) -> None:
    clock = StageClock(time.perf_counter)
    with clock.stage("outer"):
        with pytest.raises(KeyError), clock.stage("inner"):
            fail_after_a_second(time)
        time.now += 10
    assert clock.seconds == {"inner": 1, "outer": 10}


def test_getting_items_is_counted_and_using_them_is_not(time: Time) -> None:
    def items() -> object:
        for item in "ab":
            time.now += 1
            yield item
        time.now += 10  # finding out that there are no more takes time too

    clock = StageClock(time.perf_counter)
    found = []
    for item in clock.iterate("read", items()):  # type: ignore[arg-type]
        with clock.stage("use"):
            time.now += 100
        time.now += 1000
        found.append(item)
    assert found == ["a", "b"]
    assert clock.seconds == {"read": 12, "use": 200}


def test_iterators_inside_iterators_add_up_to_the_wall_time(time: Time) -> None:
    """As decoding, which pulls from reading, in `label_shard`."""

    def read() -> object:
        for item in range(5):
            time.now += 1
            yield item

    def decode(encoded: object) -> object:
        for item in encoded:  # type: ignore[attr-defined]
            time.now += 10
            with clock.stage("dct"):
                time.now += 100
            yield item

    clock, began = StageClock(time.perf_counter), time.now
    for _ in clock.iterate("decode", decode(clock.iterate("read", read()))):  # type: ignore[arg-type]
        with clock.stage("model"):
            time.now += 1000
    assert clock.seconds == {"read": 5, "decode": 50, "dct": 500, "model": 5000}
    assert sum(clock.seconds.values()) == time.now - began
