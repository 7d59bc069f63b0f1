"""Pauses that double, are drawn at random, stay below their bound, and end with the first success."""

from __future__ import annotations

import itertools

from steward.backoff import Backoff


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_each_failure_doubles_the_bound_up_to_the_longest() -> None:
    clock = Clock()
    backoff = Backoff(0.5, 60.0, clock, lambda: 1.0)
    pauses = []
    for _ in range(10):
        backoff.failed()
        pauses.append(backoff.waits())
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_is_drawn_from_the_whole_range() -> None:
    chances = itertools.cycle((0.0, 0.25, 1.0))
    backoff = Backoff(1.0, 1.0, Clock(), lambda: next(chances))
    drawn = []
    for _ in range(3):
        backoff.failed()
        drawn.append(backoff.waits())
    assert drawn == [0.0, 0.25, 1.0]


def test_the_pause_passes_and_the_failure_stays() -> None:
    clock = Clock()
    backoff = Backoff(2.0, 60.0, clock, lambda: 1.0)
    assert (backoff.failing, backoff.waits()) == (False, 0.0)
    backoff.failed()
    clock.at += 1.5
    assert backoff.waits() == 0.5
    clock.at += 10
    assert (backoff.failing, backoff.waits()) == (True, 0.0)


def test_a_success_begins_anew() -> None:
    backoff = Backoff(0.5, 60.0, Clock(), lambda: 1.0)
    for _ in range(2000):
        backoff.failed()
    assert backoff.waits() == 60.0
    backoff.worked()
    assert (backoff.failing, backoff.waits()) == (False, 0.0)
    backoff.failed()
    assert backoff.waits() == 0.5


def test_a_pause_may_be_cut_short() -> None:
    """The next failure's is as long as it would have been."""
    backoff = Backoff(1.0, 60.0, Clock(), lambda: 1.0)
    backoff.failed()
    backoff.hurry()
    assert (backoff.failing, backoff.waits()) == (True, 0.0)
    backoff.failed()
    assert backoff.waits() == 2.0
