"""Settles when the host gives time for it: for hosts that freeze or throttle a process between its calls.

Nothing of it runs by itself but the writing of an intent while the provider works. After the response (Lambda) or
before the piece that ends it (Cloud Run, where the processor is taken away at the end) the host calls `turn`: what
waits is settled in one batch and then exported. A turn ends in time whatever hangs: a row is written without its body
when the store keeps it waiting, and what neither database nor store took is kept, in bounds, for the next turn. It
promises no more than this memory can; what must survive it takes a queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from uuid import UUID

from steward import log
from steward.exchange import BodyState, Exchange, Intent, Record
from steward.ports import Ledger
from steward.settle import Settler, Settling, give_up

_OF_THE_TURN = 0.6
"""The share of a turn that a store may take before rows are written without it: they must be exported, too."""


@dataclass(frozen=True, slots=True)
class ByCallLimits:
    """Times in seconds."""

    budget_s: float = 2.0
    """The longest a turn takes, and a caller waits for his intent or, where he waits for it, for a turn."""
    held: int = 256
    """Calls that are kept for a later turn when the database or a store is away."""
    held_bytes: int = 32 << 20
    """Of their bodies in memory; and as much again of calls that wait behind a turn that hangs."""
    body_retry_s: float = 600.0


@dataclass(slots=True, eq=False)
class _Kept:
    """A call whose row, or whose body, is still to come."""

    settling: Settling
    since: float
    written: bool = False
    """Its row is in, and says `pending`."""


@dataclass(frozen=True, slots=True)
class Around:
    """What else a turn does. Each may raise; that ends no turn."""

    before: Callable[[], None]
    """Before anything is stored: where bodies go is looked at."""
    export: Callable[[float], None]
    """After all is settled: what is due goes to Butler, until a monotonic moment. One at a time, in its own thread."""
    after: Callable[[], None] = lambda: None
    """In the end, if there is time: what later turns go by."""


class ByCall:
    """AfterResponse by turns that the host gives."""

    def __init__(
        self,
        settler: Settler,
        ledger: Ledger,
        around: Around,
        limits: ByCallLimits = ByCallLimits(),
        caller_waits: bool = False,
    ) -> None:
        """`caller_waits`: the piece that ends a response waits for the turn that settles its call."""
        self._settler = settler
        self._ledger = ledger
        self._around = around
        self._limits = limits
        self._caller_waits = caller_waits
        self._lock = threading.Lock()
        self._new: list[Exchange] = []
        self._new_bytes = 0
        self._kept: list[_Kept] = []
        self._storing: Future[None] | None = None
        self._exporting: Future[None] | None = None
        self._intents: dict[UUID, Future[None]] = {}
        self._writer = ThreadPoolExecutor(1, "steward-intents")
        self._worker = ThreadPoolExecutor(1, "steward-turns")
        self._store = ThreadPoolExecutor(1, "steward-bodies")
        self._exporter = ThreadPoolExecutor(1, "steward-exports")

    def intend(self, intent: Intent) -> Awaitable[None] | None:
        """See ports.AfterResponse. The row is written while the provider works; nobody waits for it yet."""
        self._intents[intent.id] = self._writer.submit(self._write_intent, intent)
        return None

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """See ports.AfterResponse."""
        self._take_in(exchange)
        written = self._intents.pop(exchange.id, None)
        waits: list[asyncio.Future[None]] = []
        if written is not None and not written.done():  # seldom: only then is the loop woken by it
            waits.append(asyncio.wrap_future(written))
        if self._caller_waits:
            until = time.monotonic() + self._limits.budget_s
            waits.append(asyncio.get_running_loop().run_in_executor(self._worker, self._turn, until))
        return self._within_budget(waits) if waits else None

    def _take_in(self, exchange: Exchange) -> None:
        """While a turn hangs, calls wait behind it: beyond the bounds the oldest goes, and its row stays its intent."""
        limits, excess = self._limits, list[Exchange]()
        with self._lock:
            self._new.append(exchange)
            self._new_bytes += _weight(exchange)
            while len(self._new) > 1 and (len(self._new) > limits.held or self._new_bytes > limits.held_bytes):
                excess.append(self._new.pop(0))
                self._new_bytes -= _weight(excess[-1])
        for each in excess:
            each.request.close()
            each.response.close()
        if excess:
            log.say("rows_lost", logging.ERROR, count=len(excess))

    async def _within_budget(self, waits: Sequence[asyncio.Future[None]]) -> None:
        await asyncio.wait(waits, timeout=self._limits.budget_s)

    def waiting(self) -> int:
        """Calls whose row or body is still to come."""
        with self._lock:
            return len(self._new) + len(self._kept)

    def turn(self, until: float | None = None) -> None:
        """Settles and exports what waits; returns at `until` (monotonic; without it after the budget) at the latest.

        What hangs beyond it goes on when the process does, and the next turn waits behind it. Raises nothing.
        """
        until = time.monotonic() + self._limits.budget_s if until is None else until
        under_way = self._worker.submit(self._turn, until)
        wait((under_way,), max(0.0, until - time.monotonic()))

    async def close(self, grace_s: float = 5.0) -> None:
        """One last turn; what is left then is counted as lost."""
        await asyncio.to_thread(self.turn, time.monotonic() + grace_s)
        for executor in (self._writer, self._worker, self._store, self._exporter):
            executor.shutdown(wait=False, cancel_futures=True)
        if left := self.waiting():
            log.say("rows_lost", logging.ERROR, count=left)

    def _write_intent(self, intent: Intent) -> None:
        try:
            self._ledger.record([self._settler.intent(intent)])
        except Exception as exc:  # the call is served all the same (DESIGN 6)
            log.error("intents_lost", exc, count=1)

    def _turn(self, until: float) -> None:
        began = time.monotonic()
        steps: dict[str, Callable[[], None]] = {
            "stores": self._around.before,
            "settle": lambda: self._settle(began + (until - began) * _OF_THE_TURN),
            "export": lambda: self._export(until),
            "prices": lambda: self._around.after() if time.monotonic() < until else None,
        }
        for task, step in steps.items():
            try:
                step()
            except Exception as exc:  # a step that fails must not end those after it, nor the next turn
                log.error("turn_failed", exc, task=task)

    def _settle(self, until: float) -> None:
        with self._lock:
            new, self._new, self._new_bytes = self._new, [], 0
        now = time.monotonic()
        fresh = [_Kept(each, now) for each in self._settler.metered(new)]
        with self._lock:
            self._kept += fresh
            kept = list(self._kept)
        self._put([each.settling for each in kept if each.settling.record.body_state is BodyState.PENDING], until)
        try:
            self._write(kept, time.monotonic())
        finally:
            self._keep_bounds()

    def _put(self, settling: Sequence[Settling], until: float) -> None:
        """Bodies to their stores; goes on without them at `until`. One batch at a time: a store that hangs has one."""
        if self._storing is None and settling:
            self._storing = self._store.submit(self._settler.store, settling)
        if self._storing is None:
            return
        wait((self._storing,), max(0.0, until - time.monotonic()))
        if self._storing.done():
            if (fault := self._storing.exception()) is not None:
                log.error("store_failed", fault, count=len(settling))
            self._storing = None

    def _export(self, until: float) -> None:
        """A Butler that hangs has one thread of its own: it keeps no later turn from settling.

        What is frozen with its process takes long to learn that nobody answers.
        """
        if self._exporting is not None:
            wait((self._exporting,), max(0.0, until - time.monotonic()))
            if not self._exporting.done():
                return
        if time.monotonic() >= until:  # it would only hold the connection, in a process that is frozen
            return
        self._exporting = self._exporter.submit(self._exported, until)
        wait((self._exporting,), max(0.0, until - time.monotonic()))

    def _exported(self, until: float) -> None:
        try:
            self._around.export(until)
        except Exception as exc:  # the rows are in: whoever exports next has them
            log.error("turn_failed", exc, task="export")

    def _write(self, kept: Sequence[_Kept], now: float) -> None:
        """The rows that are not in as they stand. Raises LedgerFault: then all wait."""
        rows: list[tuple[_Kept, Record]] = []
        for each in kept:
            record = each.settling.record  # once: the store's thread may set another
            if record.body_state is not BodyState.PENDING or not each.written:
                rows.append((each, record))
            elif now - each.since > self._limits.body_retry_s and self._storing is None:
                rows.append((each, give_up(each.settling, BodyState.FAILED)))
        self._settler.record_apart([record for _, record in rows])
        ended = {id(each) for each, record in rows if record.body_state is not BodyState.PENDING}
        for each, _ in rows:
            each.written = True
            if id(each) in ended:
                each.settling.close()
            else:
                each.settling.keep_object_alone()
        with self._lock:
            self._kept = [each for each in self._kept if id(each) not in ended]

    def _keep_bounds(self) -> None:
        """Memory is all that this has: beyond its bounds the oldest goes first, and is said."""
        limits = self._limits
        with self._lock:
            excess, self._kept = self._kept[: -limits.held], self._kept[-limits.held :]
            kept = list(self._kept)
        lost = [each for each in excess if not each.written]
        if lost:
            log.say("rows_lost", logging.ERROR, count=len(lost))
        for record in (each.settling.record for each in excess if each.written):  # a sweep ends what the row says
            log.say("body_lost", logging.ERROR, id=record.id, body_state=record.body_state)
        if self._storing is not None:  # what the store has in hand is being read
            return
        for each in excess:
            each.settling.close()
        held = sum(each.settling.held_bytes for each in kept)
        for each in kept:
            if held <= limits.held_bytes:
                break
            held -= each.settling.held_bytes
            log.say("body_lost", logging.ERROR, id=each.settling.record.id, body_state=BodyState.SHED)
            give_up(each.settling, BodyState.SHED)  # its row follows in the next turn


def _weight(exchange: Exchange) -> int:
    return len(exchange.request.data) + len(exchange.response.data)
