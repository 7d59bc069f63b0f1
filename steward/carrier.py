"""What carries messages from relays to whoever settles: the seam that SQS and Pub/Sub stand behind, and their twin.

It knows texts and receipts, never what a message says. Every method is sync, for threads that may wait, and raises
QueueUnavailable or QueueRefused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID, uuid4


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message, as the queue hands it out. It is hidden from others for a while."""

    receipt: str
    """What the queue knows this handing out by."""
    message_id: str
    """The queue's own name for it."""
    text: str = field(repr=False)


class Carrier(Protocol):
    """One queue, and the dead-letter queue behind it."""

    def send(self, text: str, request_id: UUID) -> None:
        """Returns when the queue has it. The id goes along for people to look at; nobody relies on it."""

    def receive(self, most: int, wait_s: float, hidden_s: int) -> list[Delivery]:
        """At most so many, in no promised order, hidden for so long; waits so long, at most, for the first."""

    def done(self, receipts: Sequence[str]) -> None:
        """They are never handed out again, unless the queue handed them out twice already."""

    def hide(self, receipts: Sequence[str], hidden_s: int) -> None:
        """Hidden for so long from now; 0: handed out again at once. One that is gone already is no error."""

    def depth(self) -> int | None:
        """About how many messages it holds, hidden ones too; None where the queue does not tell."""

    def dead(self) -> Carrier | None:
        """The dead-letter queue; None when there is none."""

    def close(self) -> None:
        """Gives connections back. Safe to call twice."""


@dataclass(slots=True)
class _Kept:
    message_id: str
    text: str
    receipt: str = ""
    visible_at: float = 0.0
    received: int = 0


class MemoryCarrier(Carrier):
    """The twin: a queue in memory, for tests and for trying things out."""

    def __init__(self, max_receives: int = 3, dead: MemoryCarrier | None = None) -> None:
        """`max_receives`: handed out more often than that, a message goes to `dead`."""
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []
        self._max_receives = max_receives
        self._dead = dead
        self.now: Callable[[], float] = time.monotonic
        self.fault: Exception | None = None
        """Raised by everything until it is None again."""

    def send(self, text: str, request_id: UUID) -> None:
        self._fail()
        with self._lock:
            self._kept.append(_Kept(str(uuid4()), text))

    def receive(self, most: int, wait_s: float, hidden_s: int) -> list[Delivery]:
        self._fail()
        now = self.now()
        with self._lock:
            for kept in [each for each in self._kept if each.visible_at <= now]:
                if self._dead is not None and kept.received >= self._max_receives:
                    self._kept.remove(kept)
                    self._dead.send(kept.text, uuid4())
            out = [kept for kept in self._kept if kept.visible_at <= now][:most]
            for kept in out:
                kept.receipt, kept.visible_at, kept.received = str(uuid4()), now + hidden_s, kept.received + 1
            return [Delivery(kept.receipt, kept.message_id, kept.text) for kept in out]

    def done(self, receipts: Sequence[str]) -> None:
        self._fail()
        with self._lock:
            self._kept = [kept for kept in self._kept if kept.receipt not in receipts]

    def hide(self, receipts: Sequence[str], hidden_s: int) -> None:
        self._fail()
        with self._lock:
            for kept in self._kept:
                if kept.receipt in receipts:
                    kept.visible_at = self.now() + hidden_s

    def depth(self) -> int | None:
        self._fail()
        return len(self._kept)

    def dead(self) -> MemoryCarrier | None:
        self._fail()
        return self._dead

    def close(self) -> None:
        """Nothing is held open."""

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault
