"""A call between the queue that handed it out and what becomes of it there, and how the queue is told.

It decides nothing. What the queue cannot be told now (its disk is full), it is told again later: until then the call
stays handed out, and is handed out anew should the process end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from steward import log
from steward.backoff import Backoff
from steward.exchange import Exchange, Intent, Record
from steward.ports import Handed, Place, Settled
from steward.settle import Settling

_CALL_BYTES = 8 << 10
"""About what a call weighs without its bodies."""
_FILE_BYTES = 256 << 10
"""What an open file counts for: fewer of them may be open than octets be held."""


class End(Enum):
    """What becomes of a call in its queue."""

    DONE = auto()
    BODY_WAITS = auto()
    NOT_NOW = auto()
    """Given back, without a row."""
    SET_ASIDE = auto()
    KEEP_BODY = auto()


@dataclass(slots=True, eq=False)
class Call:
    """One call in hand."""

    handed: Handed
    settling: Settling | None
    """None: the process that relayed it died, and there is no body."""
    intended: Record | None
    """The row of a call without an end."""
    since: float
    """When it was taken, by the clock of whoever took it."""
    recorded: bool = False
    """The ledger has a row of it."""
    end: End = End.DONE
    code: str = ""
    held_bytes: int = 0
    """What it counted for when it went to the store."""
    place: Place | None = None
    """Whose turn it takes with the store."""

    @property
    def record(self) -> Record:
        """The row as far as it is known. A put under way may replace it."""
        record = self.intended if self.settling is None else self.settling.record
        assert record is not None
        return record

    def weight(self) -> int:
        """About what it takes in memory, its body object included."""
        item = self.handed.item
        if not isinstance(item, Exchange):
            return _CALL_BYTES
        files = (item.request.file is not None) + (item.response.file is not None)
        return _CALL_BYTES + files * _FILE_BYTES + 2 * (len(item.request.data) + len(item.response.data))

    def let_go(self) -> None:
        """Lets go of the bodies: the queue has them, or nobody needs them."""
        if self.settling is not None:
            self.settling.close()
            exchange = self.settling.exchange
            exchange.request.data = exchange.response.data = b""


def forget_bodies(handed: Handed) -> None:
    """What is handed out and not looked at for long: known by its intent alone."""
    item = handed.item
    if isinstance(item, Exchange):
        item.request.close()
        item.response.close()
        handed.item = Intent(item.id, item.caller, item.route, item.requested_at, item.method)


class Marks:
    """What the queue is still to be told."""

    def __init__(self, queue: Settled, away: Backoff, away_alone: Backoff) -> None:
        """`away_alone` is for what is told call by call: one that the queue cannot take must not hold up the rest."""
        self._queue = queue
        self._away = away
        self._away_alone = away_alone
        self._told_together: dict[End, list[Handed]] = {End.DONE: [], End.BODY_WAITS: [], End.NOT_NOW: []}
        self._told_alone: list[tuple[End, Handed, str]] = []

    def add(self, end: End, handed: Handed, code: str = "") -> None:
        """To be told at the next `flush`. The code is for what is set aside or kept."""
        if end in self._told_together:
            self._told_together[end].append(handed)
        else:
            self._told_alone.append((end, handed, code))

    def waiting(self) -> int:
        """How many calls."""
        return len(self._told_alone) + sum(map(len, self._told_together.values()))

    def flush(self) -> bool:
        """Tells the queue; whether it took anything. What it does not take now stays, and holds up nothing else."""
        before = self.waiting()
        if self._away.waits() <= 0:
            told = [self._tell_together(end) for end, handed in self._told_together.items() if handed]
            _note(self._away, told)
        if self._away_alone.waits() <= 0:
            told = [self._tell_alone(*mark) for mark in self._told_alone]
            self._told_alone = [mark for mark, done in zip(self._told_alone, told, strict=True) if not done]
            _note(self._away_alone, told)
        return self.waiting() < before

    def _tell_together(self, end: End) -> bool:
        handed = self._told_together[end]
        told = self._tell(_TOGETHER[end], self._queue, handed)
        if told:
            self._told_together[end] = []
        return told

    def _tell_alone(self, end: End, handed: Handed, code: str) -> bool:
        def tell(queue: Settled, alone: Sequence[Handed]) -> None:
            (queue.set_aside if end is End.SET_ASIDE else queue.keep_body)(alone[0], code)

        return self._tell(tell, self._queue, [handed])

    @staticmethod
    def _tell(tell: _Tell, queue: Settled, handed: Sequence[Handed]) -> bool:
        try:
            tell(queue, handed)
        except Exception as exc:  # its disk is full, or one record breaks it: the others must go on
            log.error("queue_not_told", exc, count=len(handed))
            return False
        for each in handed:
            forget_bodies(each)
        return True


def _note(away: Backoff, told: Sequence[bool]) -> None:
    if told:
        away.worked() if all(told) else away.failed()


_Tell = Callable[[Settled, Sequence[Handed]], None]

_TOGETHER: dict[End, _Tell] = {
    End.DONE: lambda queue, handed: queue.done(handed),
    End.BODY_WAITS: lambda queue, handed: queue.later(handed, recorded=True),
    End.NOT_NOW: lambda queue, handed: queue.later(handed, recorded=False),
}
