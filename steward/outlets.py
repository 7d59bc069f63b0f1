"""One outlet for each store that bodies go to: its own thread, pauses and patience, so that no store holds up another.

It puts nothing itself and knows no queue. What waits for a store that is away is kept here by its id alone, in bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from steward.backoff import Backoff
from steward.in_hand import Call
from steward.ports import Handed, Place
from steward.putting import Putting

MOST = 256
"""Outlets at a time: each has a thread."""
_KEPT_IDLE = 16


@dataclass(slots=True, eq=False)
class Outlet:
    """One store, and how it is doing."""

    place: Place
    putting: Putting[Call]
    away: Backoff
    refused_since: float | None = None
    took_at: float | None = None
    busy: int = 0
    """Calls that it has in hand."""
    parked: deque[Handed] = field(default_factory=deque)
    """Bodies that wait for it, taken from the queue and not given back: there they would be in the way of others."""

    @property
    def idle(self) -> bool:
        """Nothing depends on it."""
        return not self.busy and not self.parked


class Outlets:
    """All that are in use, made when first needed."""

    def __init__(self, make: Callable[[Place], Outlet]) -> None:
        self._make = make
        self._open: dict[Place, Outlet] = {}

    def of(self, place: Place) -> Outlet | None:
        """The outlet of a place; None when there are too many already."""
        outlet = self._open.get(place)
        if outlet is None:
            self._close_idle(MOST - 1)
            if len(self._open) >= MOST:
                return None
            outlet = self._open[place] = self._make(place)
        return outlet

    def __iter__(self) -> Iterator[Outlet]:
        return iter(tuple(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def parked(self) -> int:
        """Bodies that wait in all of them."""
        return sum(len(outlet.parked) for outlet in self._open.values())

    def tidy(self) -> None:
        """Gives back those that nobody uses, beyond a few."""
        self._close_idle(_KEPT_IDLE)

    def close(self) -> None:
        """All of them."""
        for outlet in self._open.values():
            outlet.putting.close()

    def _close_idle(self, most: int) -> None:
        for place, outlet in tuple(self._open.items()):
            if len(self._open) <= most:
                return
            if outlet.idle:
                outlet.putting.close()
                del self._open[place]
