"""Warnings are quiet inside and as they were afterwards, whoever leaves last."""

import threading
import warnings

import pytest

from pipeline.screening.pillow_warnings import silenced


def test_they_are_silent_inside_and_heard_afterwards() -> None:
    with warnings.catch_warnings(action="error"):
        with silenced():
            warnings.warn("of damage", stacklevel=1)
            with silenced():
                warnings.warn("of more damage", stacklevel=1)
        with pytest.raises(UserWarning, match="of size"):
            warnings.warn("of size", stacklevel=1)


def test_threads_that_overlap_leave_the_filters_as_they_were() -> None:
    """The first to enter leaves first: saved and restored by each, the filter would stay."""
    entered, left = threading.Event(), threading.Event()
    silent: list[bool] = []

    def second() -> None:
        with silenced():
            entered.set()
            assert left.wait(10)
            warnings.warn("raised, were it not silenced", stacklevel=1)
            silent.append(True)

    with warnings.catch_warnings(action="error"):
        before = list(warnings.filters)
        thread = threading.Thread(target=second)
        with silenced():
            thread.start()
            assert entered.wait(10)
        left.set()
        thread.join()
        assert silent == [True]
        assert list(warnings.filters) == before
