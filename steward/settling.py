"""Settles what a durable queue holds, round by round: rows in batches, bodies beside them, each failure on its own.

It forgets nothing and keeps nobody waiting: what cannot be done now stays in the queue, and a row never waits for a
body. A thing is said done only when ledger and store have it; whoever calls decides when the next round is.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from steward import log
from steward.backoff import FIRST_S, LONGEST_S, Backoff
from steward.errors import LedgerFault
from steward.exchange import BodyState, Exchange, Intent
from steward.in_hand import Call, End, Marks, forget_bodies
from steward.outlets import Outlet, Outlets
from steward.ports import Depth, Handed, Ledger, Place, Settled
from steward.putting import Putting
from steward.settle import Settler

AT_ONCE = 64
AT_ONCE_FILES = 256
"""Files share the turns of a disk's journal: the more at once, the cheaper each."""

_PATIENCE_S = 600.0
"""A store must have refused for so long, in this process too, before a body is given up."""
_MANY_MARKS = 10_000
_CAREFUL_BATCH = 50
"""Rows in the statement that tries whether the ledger is back."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RoundLimits:
    """Times in seconds."""

    batch: int = 500
    batch_bytes: int = 32 << 20
    held_bytes: int = 64 << 20
    """Of calls whose bodies are with the store, or wait for it in memory."""
    at_once: int = AT_ONCE
    """Bodies in one batch for the store."""
    probe: int = 16
    """Bodies with which a store is tried that was away."""
    ahead: int = 100_000
    """Calls that are metered, and said, while the ledger is away."""
    row_wait_s: float = 0.5
    """How long a row waits for its body's store, so that with a quick one it is written once."""
    stalled_s: float = 5.0
    """A store that is silent for so long gets nothing more meanwhile."""
    idle_s: float = 0.05
    backoff_s: float = FIRST_S
    backoff_max_s: float = LONGEST_S
    body_retry_s: float = 86_400.0
    """How long a body is tried again that the store refuses."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time and chance come from."""

    now: Callable[[], float] = time.monotonic
    utc_now: Callable[[], datetime] = _utc_now
    chance: Callable[[], float] = random.random


class Rounds:
    """One taker of one queue. One thread calls it; each store has another."""

    def __init__(
        self,
        queue: Settled,
        settler: Settler,
        ledger: Ledger,
        limits: RoundLimits = RoundLimits(),
        clocks: Clocks = Clocks(),
    ) -> None:
        self._queue = queue
        self._settler = settler
        self._ledger_ready = ledger.ready
        self._limits = limits
        self._clocks = clocks
        self._ledger_away, self._queue_away, self._poison_stays = (
            Backoff(limits.backoff_s, limits.backoff_max_s, clocks.now, clocks.chance) for _ in range(3)
        )
        self._marks = Marks(queue, self._queue_away, self._poison_stays)
        self._outlets = Outlets(self._outlet)
        self._stores_changed = settler.stores_changed()
        self._with_store: set[Call] = set()
        self._held_bytes = 0
        self._rows: list[Call] = []
        """Rows to write, the call's end decided."""
        self._ahead: list[Handed] = []
        """Metered and said while the ledger is away; given back when it answers."""
        self._said: set[int] = set()
        """Calls whose line was said and whose row is not written."""

    def run_once(self) -> float:
        """One round; returns how many seconds may pass before the next. Raises nothing that passes by itself."""
        moved = self._collect(0.0)
        moved |= self._write_rows()
        moved |= self._marks.flush()
        moved |= self._take_rows()
        moved |= self._take_bodies()
        if moved or (self._with_store and self._collect(self._limits.idle_s)):
            return 0.0
        return self._limits.idle_s

    def in_hand(self) -> int:
        """Calls on their way. All else waits in the queue, as do those that only wait for the ledger to come back."""
        return len(self._with_store) + len(self._rows) + self._marks.waiting()

    def depth(self) -> Depth:
        """The queue's."""
        return self._queue.depth()

    def ledger_up(self) -> bool:
        """It took the last batch, or none was written yet."""
        return not self._ledger_away.failing

    def close(self) -> None:
        """Stops where it stands: what is in hand is handed out again to the next who takes."""
        self._outlets.close()

    # rows

    def _take_rows(self) -> bool:
        """Meters what is new. Its row is written in the next round, or soon when its body goes to the store."""
        away = self._ledger_away.failing
        most = min(self._limits.batch, self._limits.ahead - len(self._ahead) if away else self._limits.batch)
        if most <= 0 or self._marks.waiting() > _MANY_MARKS:
            return False
        taken = self._queue.take(most, self._limits.batch_bytes)
        calls = [call for handed in taken if (call := self._metered(handed)) is not None]
        if away:
            for call in calls:
                call.let_go()
                forget_bodies(call.handed)
                self._ahead.append(call.handed)
        else:
            self._rows += [call for call in calls if call.record.body_state is not BodyState.PENDING]
            self._offer([call for call in calls if call.record.body_state is BodyState.PENDING])
        return bool(taken)

    def _metered(self, handed: Handed) -> Call | None:
        """The call with its row so far; None for poison, which is set aside alone."""
        item = handed.item
        said = item.id.int in self._said
        try:
            if isinstance(item, Intent):
                call = Call(handed, None, self._settler.intent(item), self._clocks.now())
                if not said:
                    log.say("call_interrupted", logging.WARNING, id=item.id)
                    self._settler.metrics.interrupted(call.record)
            else:
                settling = self._settler.meter(item, again=said or handed.recorded)
                call = Call(handed, settling, None, self._clocks.now(), handed.recorded)
        except Exception as exc:
            log.error("exchange_poisoned", exc, id=item.id)
            self._settler.metrics.poisoned()
            self._marks.add(End.SET_ASIDE, handed, "not_metered")
            return None
        if not handed.recorded:
            self._said.add(item.id.int)
        return call

    def _write_rows(self) -> bool:
        """One statement a batch: of all whose end is known, and of those whose store keeps them waiting."""
        if self._ledger_away.waits() > 0:
            return False
        until = self._clocks.now() - self._limits.row_wait_s
        waiting = self._rows + [call for call in self._with_store if not call.recorded and call.since <= until]
        at = 0
        while at < len(waiting):
            batch = waiting[at : at + (_CAREFUL_BATCH if self._ledger_away.failing else self._limits.batch)]
            at += len(batch)
            try:
                refused = self._record(batch)
            except LedgerFault as exc:
                self._ledger_away.failed()
                log.error("rows_waiting", exc, count=len(waiting) + len(self._ahead))
                break
            self._ledger_is_there()
            self._written(batch, refused)
        self._rows = [call for call in self._rows if not call.recorded]
        return at > 0 and not self._ledger_away.failing

    def _ledger_is_there(self) -> None:
        """What was metered ahead is taken again, with its bodies."""
        self._ledger_away.worked()
        for handed in self._ahead:
            self._marks.add(End.NOT_NOW, handed)
        self._ahead = []

    def _record(self, batch: Sequence[Call]) -> dict[int, str]:
        """Writes the rows; the codes of those the ledger will not take. Raises LedgerFault: then none may be in.

        A row that the ledger breaks on, while it is there, is at fault alone.
        """
        try:
            return {each.id.int: each.sqlstate for each in self._settler.record([call.record for call in batch])}
        except LedgerFault:
            raise
        except Exception as exc:  # no adapter promises it: one row may be poison to all
            self._ledger_ready()
            if len(batch) == 1:
                log.error("row_poisoned", exc, id=batch[0].record.id)
                return {batch[0].record.id.int: "row_broken"}
        return {number: code for call in batch for number, code in self._record([call]).items()}

    def _written(self, batch: Sequence[Call], refused: dict[int, str]) -> None:
        for call in batch:
            number = call.record.id.int
            self._said.discard(number)
            call.recorded = True
            if number in refused:
                call.end, call.code = End.SET_ASIDE, refused[number]
            if call not in self._with_store:
                self._marks.add(call.end, call.handed, call.code)

    # bodies

    def _outlet(self, place: Place) -> Outlet:
        """A new one."""
        limits, clocks = self._limits, self._clocks
        away = Backoff(limits.backoff_s, limits.backoff_max_s, clocks.now, clocks.chance)
        return Outlet(place, Putting(self._put, limits.at_once, clocks.now), away)

    def _room(self, outlet: Outlet) -> tuple[int, int]:
        """How many bodies, and how many octets of them, may go to the store now."""
        if outlet.away.waits() > 0 or outlet.putting.silent_s() >= self._limits.stalled_s:
            return 0, 0
        room = max(0, self._limits.held_bytes - self._held_bytes)
        if len(self._outlets) > 1:
            room //= 2  # one that hangs may not have all of it
        if outlet.away.failing:
            return (0 if outlet.busy else self._limits.probe), room
        return self._limits.batch, room

    def _offer(self, calls: Sequence[Call]) -> None:
        """To its store what it may have now; the rest waits, its row written at once."""
        by_place: dict[Place | None, list[Call]] = {}
        for call in calls:
            call.end = End.BODY_WAITS
            by_place.setdefault(self._place(call), []).append(call)
        for place, some in by_place.items():
            outlet = None if place is None else self._outlets.of(place)
            if outlet is None:
                for call in some:
                    self._through(call)
            else:
                self._hand(outlet, some)

    def _place(self, call: Call) -> Place | None:
        assert call.settling is not None
        return self._settler.place(call.settling.exchange)

    def _hand(self, outlet: Outlet, calls: Sequence[Call]) -> None:
        most, room = self._room(outlet)
        going: list[Call] = []
        for call in calls:
            if len(going) < most and room > 0:
                call.held_bytes, call.place = call.weight(), outlet.place
                room -= call.held_bytes
                going.append(call)
            elif call.recorded:
                call.let_go()
                forget_bodies(call.handed)
                outlet.parked.append(call.handed)
            else:
                self._through(call)
        self._with_store.update(going)
        outlet.busy += len(going)
        self._held_bytes += sum(call.held_bytes for call in going)
        outlet.putting.hand(going)

    def _take_bodies(self) -> bool:
        """Bodies that waited, when their stores have room beside the new ones and the ledger can take their rows."""
        if self._ledger_away.failing or self._marks.waiting() > _MANY_MARKS:
            return False
        changed = self._settler.stores_changed()
        if changed != self._stores_changed:  # what waits for one store may go to another now
            self._stores_changed = changed
            for outlet in self._outlets:
                outlet.away.hurry()
        unparked = self._unpark()
        rooms = [self._room(outlet) for outlet in self._outlets]
        most = max((most for most, _ in rooms), default=self._limits.batch)
        room = max((room for most, room in rooms if most), default=0) if rooms else self._limits.held_bytes
        if most <= 0 or room <= 0 or self._outlets.parked() >= self._limits.ahead:
            return unparked
        taken = self._queue.take_bodies(most, min(room, self._limits.batch_bytes))
        calls = [call for handed in taken if (call := self._metered(handed)) is not None]
        self._offer([call for call in calls if call.record.body_state is BodyState.PENDING])
        for call in calls:
            # Since its row said `pending` the settings have changed, and no body is kept any more: not a word for it.
            if call.settling is not None and call.record.body_state is not BodyState.PENDING:
                call.settling.record = replace(call.record, body_state=BodyState.FAILED)
                call.end, call.code = End.KEEP_BODY, "no_store"
                self._rows.append(call)
                call.recorded = False
        return bool(taken) or unparked

    def _unpark(self) -> bool:
        """Back into the queue as much as its store may have now: it is handed out anew, bodies and all."""
        unparked = 0
        for outlet in self._outlets:
            most, room = self._room(outlet)
            for _ in range(min(most, len(outlet.parked)) if room > 0 else 0):
                self._marks.add(End.BODY_WAITS, outlet.parked.popleft())
                unparked += 1
        if unparked:
            self._marks.flush()
        self._outlets.tidy()
        return unparked > 0

    def _put(self, calls: list[Call]) -> bool:
        """In the thread of the store; whether it takes anything."""
        self._settler.put([call.settling for call in calls if call.settling is not None])
        return any(_shows_the_store_works(call) for call in calls)

    def _collect(self, within_s: float) -> bool:
        """Decides on each body that was tried."""
        busy = [outlet for outlet in self._outlets if outlet.busy or outlet.putting.paused()]
        heard = [self._hear(outlet, within_s / len(busy)) for outlet in busy]
        return any(heard)

    def _hear(self, outlet: Outlet, within_s: float) -> bool:
        """What its store said; one that takes nothing is left alone for a while."""
        putting = outlet.putting
        tried = putting.tried(within_s)
        if putting.paused():
            outlet.away.failed()
            refused = any(call.settling is not None and call.settling.refused is not None for call in tried)
            if refused and outlet.refused_since is None:
                outlet.refused_since = self._clocks.now()
        elif any(_shows_the_store_works(call) for call in tried):
            outlet.away.worked()
            outlet.refused_since = None
            outlet.took_at = self._clocks.now()
        for call in tried:
            self._decide(outlet, call)
        if tried and all(call.end is End.KEEP_BODY for call in tried):
            outlet.away.hurry()  # what was refused for its whole time is given up; as many may wait as a day makes
        if putting.paused() or putting.silent_s() >= self._limits.stalled_s:
            for call in putting.recall():
                self._back(outlet, call)
        return bool(tried)

    def _decide(self, outlet: Outlet, call: Call) -> None:
        settling = call.settling
        assert settling is not None
        if settling.record.body_state is BodyState.STORED:
            self._back(outlet, call, End.DONE)
        elif settling.broken:
            settling.record = replace(settling.record, body_state=BodyState.FAILED)
            self._back(outlet, call, End.SET_ASIDE, "body_not_built")
        elif settling.refused is not None and self._refused_for_good(outlet, settling.exchange):
            log.say("body_lost", logging.ERROR, id=settling.record.id, body_state=BodyState.FAILED)
            settling.record = replace(settling.record, body_state=BodyState.FAILED)
            self._back(outlet, call, End.KEEP_BODY, settling.refused)
        else:
            self._back(outlet, call)

    def _refused_for_good(self, outlet: Outlet, exchange: Exchange) -> bool:
        """The call is old enough, and the no is its own or not the store's first since the process began."""
        retry_s = self._limits.body_retry_s
        if self._clocks.utc_now() - exchange.requested_at < timedelta(seconds=retry_s):
            return False
        now, since, took_at = self._clocks.now(), outlet.refused_since, outlet.took_at
        if took_at is not None and now - took_at <= 2 * self._limits.backoff_max_s:
            return True
        return since is not None and now - since >= min(retry_s, _PATIENCE_S)

    def _back(self, outlet: Outlet, call: Call, end: End = End.BODY_WAITS, code: str = "") -> None:
        """The store is through with it."""
        self._with_store.discard(call)
        outlet.busy -= 1
        self._held_bytes -= call.held_bytes
        if call.end is End.SET_ASIDE:  # the ledger refused its row meanwhile
            self._marks.add(call.end, call.handed, call.code)
            return
        call.end, call.code = end, code
        self._through(call)

    def _through(self, call: Call) -> None:
        """Its row is written next, unless the ledger has it as it is; bodies that nobody looks at are let go of."""
        if call.end in {End.DONE, End.BODY_WAITS}:
            call.let_go()
        elif call.settling is not None:
            call.settling.let_go_of_object()
        if call.recorded and call.end is End.BODY_WAITS:
            self._marks.add(End.BODY_WAITS, call.handed)
        else:
            call.recorded = False
            self._rows.append(call)


def _shows_the_store_works(call: Call) -> bool:
    """It was stored; or it never came to the store, which then is not to blame."""
    return call.settling is not None and (call.settling.broken or call.record.body_state is BodyState.STORED)
