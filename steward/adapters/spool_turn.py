"""Records that come within one turn of the event loop, kept together for one `write(2)`.

Two system calls a call were a third of what a busy relay did. So the first record of a turn is written at once, for a
call that comes alone waits for nothing; those that come behind it in the same turn wait for its end, and with each of
them the octet that must not go before it: what is sent only once the kernel has the record is promised as before. When
there were others in the last turn, the first waits for them, too. Nothing here waits across turns, for a clock or for a
number of records, and it writes nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from steward.exchange import Exchange, Intent

HELD_BYTES: Final = 256 * 1024
"""What one turn may hold: more is written before its end, so that no turn keeps more memory than one large body."""


Held = tuple[int, Intent | Exchange, asyncio.Future[None]]
"""One record that waits: its kind, what it is made of, and what is done once the kernel has it.

The future raises NotAccepted for an intent that could not be written. Whoever waits for it may have left.
"""


class Turn:
    """The turn that is running, if one is. Without a loop there are none: then every record is the first of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, at_end: Callable[[], None]) -> None:
        self._loop = loop
        self._at_end = at_end
        self._running = False
        self._busy = False
        self.size_bytes = 0
        """Octets of the bodies that are held."""
        self._held: list[Held] = []

    def holds(self) -> bool:
        """Whether the next record is to be held, because one was written in this turn, or others came in the last."""
        if self._busy and not self._running:
            self._begin()
        return self._running

    def written(self) -> None:
        """A record was written at once: what comes until the loop is through with what it has at hand is held."""
        if self._loop is not None and not self._running:
            self._begin()

    def hold(self, kind: int, item: Intent | Exchange, size_bytes: int = 0) -> asyncio.Future[None]:
        """One record more, with so many octets of bodies. Only when it `holds`."""
        assert self._loop is not None
        kept = self._loop.create_future()
        self._held.append((kind, item, kept))
        self.size_bytes += size_bytes
        return kept

    def take(self) -> list[Held]:
        """All that is held, in the order it came."""
        held, self._held, self.size_bytes = self._held, [], 0
        return held

    def _begin(self) -> None:
        assert self._loop is not None
        self._running = True
        self._loop.call_soon(self._end)

    def _end(self) -> None:
        self._running = False
        self._busy = len(self._held) > 1
        self._at_end()
