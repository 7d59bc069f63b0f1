"""Where the records of one segment stand and how far each has come, in about 30 octets a record.

It opens no file and holds no record: a backlog of a million calls must fit beside everything else.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Final

from steward.adapters.spool_progress import Mark

NONE: Final = -1
"""No such offset."""


class State(IntEnum):
    """How far a record has come. `OUT`: a taker has it in hand."""

    DONE = 0
    WAITS = 1
    OUT = 2
    BODY_WAITS = 3
    BODY_OUT = 4


_HANDED: Final = {State.WAITS: State.OUT, State.BODY_WAITS: State.BODY_OUT}
_AFTER: Final = {None: State.WAITS, Mark.RECORDED: State.BODY_WAITS, Mark.DONE: State.DONE}


class Index:
    """The records of one segment that are to be settled, in the order in which they were found."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._sizes = array("Q")
        self._times_ms = array("Q")
        self._intents = array("q")
        self._states = bytearray()
        self._also: dict[int, list[int]] = {}
        self._beside: dict[int, int] = {}
        self._first = {State.WAITS: 0, State.BODY_WAITS: 0}
        self._head = 0
        self.waiting_bytes = 0
        """Octets of the records that are not settled."""

    def __len__(self) -> int:
        return len(self._states)

    def add(self, offset: int, size: int, time_ms: int, intent: int = NONE, mark: Mark | None = None) -> int:
        """One record more; its place in the index. `intent`: where its intent stands in the same segment."""
        place = len(self._states)
        state = _AFTER[mark]
        self._offsets.append(offset)
        self._sizes.append(size)
        self._times_ms.append(time_ms)
        self._intents.append(intent)
        self._states.append(state)
        if state is not State.DONE:
            self.waiting_bytes += size
        return place

    def has_beside(self, place: int, size: int) -> None:
        """Octets of the record's bodies in files of their own, as far as they are known by now."""
        if size and self._states[place] != State.DONE:
            self.waiting_bytes += size - self._beside.get(place, 0)
            self._beside[place] = size

    def offset(self, place: int) -> int:
        """Where the record stands in its segment."""
        return self._offsets[place]

    def size(self, place: int) -> int:
        """Octets of the record in its segment."""
        return self._sizes[place]

    def weight(self, place: int) -> int:
        """Octets of the record and of its bodies in files of their own."""
        return self._sizes[place] + self._beside.get(place, 0)

    def intent(self, place: int) -> int:
        """Where the record's intent stands in the same segment; NONE when it does not."""
        return self._intents[place]

    def next(self, state: State) -> int | None:
        """The first place in this state (`WAITS` or `BODY_WAITS`), which stays as it is."""
        place = self._states.find(state, self._first[state])
        self._first[state] = len(self._states) if place < 0 else place
        return None if place < 0 else place

    def time_ms(self, place: int) -> int:
        """When the call was made: milliseconds since 1970, from its id."""
        return self._times_ms[place]

    def hand_out(self, place: int) -> None:
        """A taker has it from now on."""
        self._states[place] = _HANDED[State(self._states[place])]

    def give_back(self, place: int, recorded: bool) -> None:
        """It waits again: for all, or, once its row is in, for its body's store alone."""
        if self._states[place] == State.DONE:
            return
        state = State.BODY_WAITS if recorded or self._states[place] == State.BODY_OUT else State.WAITS
        self._states[place] = state
        self._first[state] = min(self._first[state], place)

    def settle(self, place: int) -> list[int]:
        """Nothing is left to do; the offsets to be marked so. Empty when it was settled before."""
        if self._states[place] == State.DONE:
            return []
        self._states[place] = State.DONE
        self.waiting_bytes -= self._sizes[place] + self._beside.pop(place, 0)
        return [self._offsets[place], *self._also.pop(place, ())]

    def fall_back(self, place: int, size: int) -> bool:
        """The record cannot be read: its intent, `size` octets, waits in its stead. False when it has none here.

        Both are marked once that is settled, so that a crash between changes nothing.
        """
        intent = self._intents[place]
        if intent == NONE:
            return False
        self._also.setdefault(place, []).append(self._offsets[place])
        self.waiting_bytes += size - self._sizes[place] - self._beside.pop(place, 0)
        self._offsets[place], self._sizes[place], self._intents[place] = intent, size, NONE
        self._states[place] = State.OUT
        self.give_back(place, recorded=False)
        return True

    def unsettled(self) -> int:
        """Records that are not settled, whoever has them."""
        return len(self._states) - self._states.count(State.DONE)

    def bodies(self) -> int:
        """Of those, the ones whose row is in."""
        return self._states.count(State.BODY_WAITS) + self._states.count(State.BODY_OUT)

    def oldest_ms(self) -> int | None:
        """When the first unsettled call was made."""
        states, end = self._states, len(self._states)
        while self._head < end and states[self._head] == State.DONE:
            self._head += 1
        return None if self._head == end else self._times_ms[self._head]
