"""The index of a segment: who waits, who is in hand, and what is left."""

from __future__ import annotations

import tracemalloc

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steward.adapters.spool_index import NONE, Index, State
from steward.adapters.spool_progress import Mark


def test_marks_of_an_earlier_life_decide_where_a_record_stands() -> None:
    index = Index()
    index.add(10, 100, 1)
    index.add(20, 200, 2, mark=Mark.RECORDED)
    index.add(30, 300, 3, mark=Mark.DONE)
    assert (index.next(State.WAITS), index.next(State.BODY_WAITS)) == (0, 1)
    assert (index.unsettled(), index.bodies(), index.waiting_bytes, index.oldest_ms()) == (2, 1, 300, 1)


def test_settling_twice_marks_once() -> None:
    index = Index()
    place = index.add(10, 100, 1)
    index.hand_out(place)
    assert index.settle(place) == [10]
    assert index.settle(place) == []
    index.give_back(place, recorded=True)
    assert (index.unsettled(), index.waiting_bytes, index.oldest_ms()) == (0, 0, None)


def test_a_record_that_cannot_be_read_falls_back_on_its_intent_and_both_are_marked() -> None:
    index = Index()
    alone, place = index.add(0, 50, 1), index.add(90, 100, 2, intent=40)
    index.hand_out(alone)
    index.hand_out(place)
    assert not index.fall_back(alone, 30)
    assert index.fall_back(place, 30)
    assert (index.next(State.WAITS), index.offset(place), index.size(place)) == (place, 40, 30)
    assert index.waiting_bytes == 80
    assert not index.fall_back(place, 30)
    assert index.settle(place) == [40, 90]


def test_a_million_records_are_small() -> None:
    tracemalloc.start()
    try:
        index = Index()
        for number in range(100_000):
            index.add(number * 700, 700, number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000 * 60


class AnIndex(RuleBasedStateMachine):
    """The same moves on the index and on a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.states: list[State] = []

    @rule(mark=st.sampled_from([None, *Mark]))
    def add(self, mark: Mark | None) -> None:
        place = self.index.add(len(self.states), 1, len(self.states), NONE, mark)
        assert place == len(self.states)
        self.states.append({None: State.WAITS, Mark.RECORDED: State.BODY_WAITS, Mark.DONE: State.DONE}[mark])

    @rule(state=st.sampled_from([State.WAITS, State.BODY_WAITS]))
    def take(self, state: State) -> None:
        place = self.index.next(state)
        assert place == (self.states.index(state) if state in self.states else None)
        if place is not None:
            self.index.hand_out(place)
            self.states[place] = State.OUT if state is State.WAITS else State.BODY_OUT

    @precondition(lambda self: self.states)
    @rule(data=st.data(), recorded=st.booleans())
    def give_back(self, data: st.DataObject, recorded: bool) -> None:
        place = data.draw(st.integers(0, len(self.states) - 1))
        if self.states[place] in {State.OUT, State.BODY_OUT}:
            self.index.give_back(place, recorded)
            body = recorded or self.states[place] is State.BODY_OUT
            self.states[place] = State.BODY_WAITS if body else State.WAITS

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.states) - 1))
        expected = [] if self.states[place] is State.DONE else [place]
        assert self.index.settle(place) == expected
        self.states[place] = State.DONE

    @invariant()
    def they_agree(self) -> None:
        left = [place for place, state in enumerate(self.states) if state is not State.DONE]
        assert self.index.unsettled() == len(left) == self.index.waiting_bytes
        assert self.index.bodies() == sum(state in {State.BODY_WAITS, State.BODY_OUT} for state in self.states)
        assert self.index.oldest_ms() == (left[0] if left else None)


TestAnIndex = AnIndex.TestCase
