"""Settles in the process that relayed, in threads of its own: for hosts where nothing outlives the process.

The intent row (`interrupted`) is written while the provider works, and waited for, in bounds, before the caller gets
the last piece. Rows never wait for the bodies' store: they say `pending` until it answered. It promises no more than
the process's memory can: with database or store away the call is served, what could not be written is retried within
bounds and then given up and counted, aloud. The durable way is the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import NamedTuple, TypeVar
from uuid import UUID

from steward import log
from steward.errors import LedgerFault
from steward.exchange import BodyState, Exchange, Intent, Record
from steward.ports import Ledger
from steward.settle import Settler, Settling, give_up

T = TypeVar("T")
_EXCHANGE_BYTES = 4096
"""About what an exchange weighs without its bodies."""
_PUT_AT_ONCE = 64
_STALLED_S = 5.0
"""A store that has not answered one batch of bodies for so long hangs: nothing is held back for it."""
_LAST_WORD_S = 1.0


@dataclass(frozen=True, slots=True)
class InlineLimits:
    """Times in seconds."""

    batch: int = 500
    intent_wait_s: float = 2.0
    """The longest a caller waits for the intent row before his last piece."""
    hangs_after_s: float = 2.0
    """When one write of intents takes longer, those that come meanwhile are given up and nobody waits for them."""
    outage_pause_s: float = 2.0
    """After a failed intent, the next are not tried for so long."""
    row_wait_s: float = 0.1
    """How long new rows wait for their bodies' store, so that with a quick one each is written once."""
    queued_bytes: int = 128 * 1024 * 1024
    """Of calls that wait to be settled: more than this a slow database must not pile up."""
    waiting_rows: int = 10_000
    waiting_bodies: int = 1_000
    waiting_bytes: int = 64 * 1024 * 1024
    """Of bodies in memory that wait for their store."""
    disk_bytes: int = 1024 * 1024 * 1024
    """Of bodies in files: of calls that wait to be settled, and as much again of those that wait for their store."""
    open_files: int = 512
    """Likewise."""
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    body_retry_s: float = 600.0


class Inline:
    """AfterResponse by three threads: one writes intents, one settles, one alone waits for the store."""

    def __init__(self, settler: Settler, ledger: Ledger, limits: InlineLimits = InlineLimits()) -> None:
        self._settling = _SettleThread(settler, limits)
        self._intents = _IntentThread(settler, ledger, limits)
        self._limits = limits
        self._waiting: dict[UUID, asyncio.Future[None]] = {}

    def intend(self, intent: Intent) -> None:
        """See ports.AfterResponse."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[intent.id] = written
        self._intents.put(intent, written)

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """See ports.AfterResponse."""
        self._settling.put(exchange)
        written = self._waiting.pop(exchange.id, None)
        if written is None or written.done():
            return None
        return self._wait(written)

    async def _wait(self, written: asyncio.Future[None]) -> None:
        """Never longer than the budget: a slow database must not hold the caller's last piece."""
        await asyncio.wait((written,), timeout=self._limits.intent_wait_s)

    def waiting(self) -> int:
        """Exchanges that are not settled yet."""
        return self._settling.waiting()

    async def close(self, grace_s: float = 10.0) -> None:
        """Settles what is left within the grace; what is not settled then is counted as lost."""
        until = time.monotonic() + grace_s
        self._intents.end()
        self._settling.end(until)
        # Not in the executor: threads that hang in a database call may have taken all of it.
        while self._running() and time.monotonic() < until + _LAST_WORD_S:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self._intents.say_given_up()
        self._settling.abandon()

    def _running(self) -> bool:
        return self._intents.running() or self._settling.running()


class _IntentThread:
    """Writes intents in batches: as many as came while the last batch was written."""

    def __init__(self, settler: Settler, ledger: Ledger, limits: InlineLimits) -> None:
        self._settler = settler
        self._ledger = ledger
        self._limits = limits
        self._queue: deque[tuple[Intent, asyncio.Future[None]]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._pause_until = 0.0
        self._writing_since: float | None = None
        self._given_up = 0
        self._said_given_up = 0
        self._thread = threading.Thread(target=self._run, name="steward-intents", daemon=True)
        self._thread.start()

    def put(self, intent: Intent, written: asyncio.Future[None]) -> None:
        since = self._writing_since
        if since is not None and time.monotonic() - since > self._limits.hangs_after_s:
            # The database hangs: nobody waits for it, and nothing piles up behind it.
            self._given_up += 1
            written.set_result(None)
            return
        self._queue.append((intent, written))
        self._wake.set()

    def end(self) -> None:
        """Writes what is queued, then ends."""
        self._stopping = True
        self._wake.set()

    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not (self._stopping and not self._queue):
            self._wake.wait()
            self._wake.clear()
            batch = _take(self._queue, self._limits.batch)
            if self._queue:
                self._wake.set()
            if batch:
                self._writing_since = time.monotonic()
                self._write([intent for intent, _ in batch])
                self._writing_since = None
                _resolve([written for _, written in batch])
            self.say_given_up()

    def say_given_up(self) -> None:
        count = self._given_up - self._said_given_up
        if count:
            self._said_given_up += count
            log.say("intents_lost", logging.WARNING, count=count)

    def _write(self, intents: list[Intent]) -> None:
        now = time.monotonic()
        if now < self._pause_until:
            log.say("intents_lost", logging.WARNING, count=len(intents))
            return
        try:
            self._ledger.record([self._settler.intent(intent) for intent in intents])
        except LedgerFault as exc:
            self._pause_until = time.monotonic() + self._limits.outage_pause_s
            log.error("intents_lost", exc, count=len(intents))
        except Exception as exc:  # the thread must outlive any one batch
            log.error("intents_lost", exc, count=len(intents))


def _resolve(written: list[asyncio.Future[None]]) -> None:
    """Tells the callers' loops, once a loop."""
    for loop in {future.get_loop() for future in written}:
        mine = [future for future in written if future.get_loop() is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_all, mine)


def _set_all(written: list[asyncio.Future[None]]) -> None:
    for future in written:
        if not future.done():
            future.set_result(None)


class _Held(NamedTuple):
    """What a call keeps until its body is stored."""

    memory: int = 0
    """Octets."""
    disk: int = 0
    """Octets."""
    files: int = 0

    def plus(self, other: _Held) -> _Held:
        return _Held(self.memory + other.memory, self.disk + other.disk, self.files + other.files)

    def minus(self, other: _Held) -> _Held:
        return _Held(self.memory - other.memory, self.disk - other.disk, self.files - other.files)

    def beyond(self, memory: int, limits: InlineLimits) -> bool:
        return self.memory > memory or self.disk > limits.disk_bytes or self.files > limits.open_files


@dataclass(slots=True, eq=False)
class _Waiting:
    """A body that waits for its store, or that the store has in hand."""

    number: int
    """In the order in which they came."""
    settling: Settling
    since: float
    again_at: float
    held: _Held
    attempts: int = 0


class _BodyThread:
    """Stores bodies; keeps, in bounds, those that the store would not take. It alone waits for the store."""

    def __init__(self, settler: Settler, limits: InlineLimits, wake: threading.Event) -> None:
        self._settler = settler
        self._limits = limits
        self._wake_rows = wake
        self._wake = threading.Event()
        self._change = threading.Condition()
        # Under the condition: what waits, what the store has, what both keep, and what is decided.
        self._waiting: list[_Waiting] = []
        self._in_hand: list[_Waiting] = []
        self._held = _Held()
        self._since: float | None = None
        self._well = True
        self._decided: list[Record] = []
        self._numbers = count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="steward-bodies", daemon=True)
        self._thread.start()

    def put(self, settling: Sequence[Settling]) -> None:
        """Takes these over; their rows come with `decided` when there is more to say than `pending`."""
        now = time.monotonic()
        with self._change:
            new = [_Waiting(next(self._numbers), each, now, now, _held(each)) for each in settling]
            self._waiting += new
            self._count(new)
        self._wake.set()

    def decided(self) -> list[Record]:
        """The rows of bodies that were stored or given up since the last time."""
        with self._change:
            decided, self._decided = self._decided, []
        return decided

    def rest(self, within_s: float) -> None:
        """Returns when every body was tried, at the latest after `within_s`; at once when the store takes longer."""
        with self._change:
            if self._silent_s() < within_s:
                self._change.wait_for(lambda: not any(body.attempts == 0 for body in self._all()), within_s)

    def room(self) -> int:
        """How many more bodies may come while the store works; 0 when those that wait fill their bounds."""
        with self._change:
            if self._held.beyond(self._limits.waiting_bytes, self._limits):
                return 0
            return max(0, self._limits.waiting_bodies - len(self._all()))

    def works(self) -> bool:
        """The store took something the last time, and is not silent since."""
        return self._well and self._silent_s() < _STALLED_S

    def shed_excess(self) -> None:
        """Memory and disk are what inline has: beyond its bounds the oldest goes first, and is said.

        What the store has in hand is being read: it counts, and is waited for unless the store is slow to say.
        """
        with self._change:
            if not self._in_hand or self._silent_s() >= self._limits.row_wait_s:
                self._shed_excess()

    def _shed_excess(self) -> None:
        limits = self._limits
        oldest_last = sorted(self._waiting, key=lambda body: body.number, reverse=True)
        while oldest_last and (
            len(oldest_last) + len(self._in_hand) > limits.waiting_bodies
            or self._held.beyond(limits.waiting_bytes, limits)
        ):
            body = oldest_last.pop()
            self._uncount([body])
            self._decided.append(_lost(body, BodyState.SHED))
        self._waiting = oldest_last

    def waiting(self) -> int:
        with self._change:
            return len(self._all()) + len(self._decided)

    def end(self) -> list[Record]:
        """The last word: the rows of all that is left. Nobody waits for what the store has in hand."""
        with self._change:
            self._stopping = True
            rows = [_lost(body, BodyState.SHED) for body in self._waiting]
            for body in self._in_hand:
                _say_lost(body.settling.record, BodyState.SHED)
                rows.append(replace(body.settling.record, body_state=BodyState.SHED))
            self._waiting, self._in_hand = [], []
            decided, self._decided = self._decided, []
        self._wake.set()
        return decided + rows

    def running(self) -> bool:
        """Whether it may be waited for: not when the store hangs."""
        return self._thread.is_alive() and self._since is None

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._pause())
            self._wake.clear()
            while not self._stopping and (due := self._take()):
                self._store([body.settling for body in due])
                try:
                    self._decide(due)
                except Exception as exc:  # the thread must outlive any one batch
                    log.error("settle_failed", exc)

    def _pause(self) -> float | None:
        with self._change:
            due = min((body.again_at for body in self._waiting), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _take(self) -> list[_Waiting]:
        """The next to be tried, longest due first."""
        now = time.monotonic()
        with self._change:
            due = sorted((body for body in self._waiting if body.again_at <= now), key=lambda body: body.again_at)
            self._in_hand = due[:_PUT_AT_ONCE]
            taken = set(map(id, self._in_hand))
            self._waiting = [body for body in self._waiting if id(body) not in taken]
            self._since = now if taken else None
            return list(self._in_hand)

    def _store(self, settling: list[Settling]) -> None:
        """A store that breaks its promise not to raise is one that is away."""
        try:
            self._settler.store(settling)
        except Exception as exc:
            log.error("store_failed", exc, count=len(settling))

    def _decide(self, tried: list[_Waiting]) -> None:
        now = time.monotonic()
        with self._change:
            self._since = None
            if self._stopping:  # their last word was said
                for body in tried:
                    body.settling.close()
                return
            self._uncount(tried)
            decided = [body for body in tried if body.settling.record.body_state is not BodyState.PENDING]
            self._well = bool(decided)
            rows = [body.settling.record for body in decided]
            for body in tried:
                if body.settling.record.body_state is not BodyState.PENDING:
                    body.settling.close()
                elif now - body.since > self._limits.body_retry_s:
                    rows.append(_lost(body, BodyState.FAILED))
                else:
                    self._try_again(body, now)
            self._decided += rows
            self._in_hand = []
            self._shed_excess()
            rows = self._decided
            self._change.notify_all()
        if rows:
            self._wake_rows.set()

    def _try_again(self, body: _Waiting, now: float) -> None:
        body.settling.keep_object_alone()
        body.attempts += 1
        body.again_at = now + _backoff(self._limits, body.attempts)
        body.held = _held(body.settling)
        self._count([body])
        self._waiting.append(body)

    def _all(self) -> list[_Waiting]:
        return self._waiting + self._in_hand

    def _silent_s(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _count(self, bodies: Sequence[_Waiting]) -> None:
        for body in bodies:
            self._held = self._held.plus(body.held)

    def _uncount(self, bodies: Sequence[_Waiting]) -> None:
        for body in bodies:
            self._held = self._held.minus(body.held)


def _lost(body: _Waiting, state: BodyState) -> Record:
    _say_lost(body.settling.record, state)
    return give_up(body.settling, state)


def _say_lost(record: Record, state: BodyState) -> None:
    log.say("body_lost", logging.ERROR, id=record.id, body_state=state)


class _SettleThread:
    """Meters batch after batch, which says their lines, and writes their rows; keeps, in bounds, what the database
    would not take. It never waits for the store."""

    def __init__(self, settler: Settler, limits: InlineLimits) -> None:
        self._settler = settler
        self._limits = limits
        self._wake = threading.Event()
        self._queue: deque[tuple[Exchange, _Held]] = deque()
        self._rows: dict[UUID, Record] = {}
        """Of each call the newest that is to be written, oldest call first."""
        self._rows_attempts = 0
        self._rows_again_at = 0.0
        self._busy = 0
        # Each number is written by one thread alone: the loop's puts and gives up, the other takes.
        self._put = _Held()
        self._given_up_held = _Held()
        self._given_up = 0
        self._taken = _Held()
        self._said_given_up = 0
        self._deadline: float | None = None
        self._bodies = _BodyThread(settler, limits, self._wake)
        self._thread = threading.Thread(target=self._run, name="steward-settle", daemon=True)
        self._thread.start()

    def put(self, exchange: Exchange) -> None:
        held = _weight(exchange)
        self._put = self._put.plus(held)
        self._queue.append((exchange, held))
        while self._queued().beyond(self._limits.queued_bytes, self._limits):
            if not self._give_up_oldest():
                break
        self._wake.set()

    def _queued(self) -> _Held:
        return self._put.minus(self._given_up_held).minus(self._taken)

    def _give_up_oldest(self) -> bool:
        """The settling is too slow for what comes: the oldest call that waits is left as its intent says."""
        try:
            oldest, held = self._queue.popleft()
        except IndexError:  # the other thread was faster
            return False
        self._given_up_held = self._given_up_held.plus(held)
        self._given_up += 1
        oldest.request.close()
        oldest.response.close()
        return True

    def waiting(self) -> int:
        # In the order in which a call goes on: one that moves meanwhile is counted twice, never not at all.
        return len(self._queue) + self._busy + self._bodies.waiting() + len(self._rows)

    def end(self, until: float) -> None:
        """Settles what waits until then, then ends."""
        self._deadline = until
        self._wake.set()

    def running(self) -> bool:
        return self._thread.is_alive() or self._bodies.running()

    def abandon(self) -> None:
        """After its time: what a thread that hangs in the database holds is counted as lost."""
        if self._thread.is_alive() and (left := len(self._queue) + self._busy + len(self._rows)):
            log.say("rows_lost", logging.ERROR, count=left)
        self._bodies.end()

    def _run(self) -> None:
        while self._deadline is None or (self.waiting() and time.monotonic() < self._deadline):
            self._wake.wait(self._pause())
            self._wake.clear()
            for step in (self._settle_new, self._bodies.shed_excess, self._hear, self._write_rows, self._keep_bounds):
                try:
                    step()
                except Exception as exc:  # the thread must outlive any one batch
                    log.error("settle_failed", exc)
        self._give_up()

    def _pause(self) -> float | None:
        """Until the next retry; None: until something comes."""
        if self._queue or self._deadline is not None:
            return 0.01
        return max(0.01, self._rows_again_at - time.monotonic()) if self._rows else None

    def _settle_new(self) -> None:
        batch: list[Exchange] = []
        self._busy = self._limits.batch
        for exchange, held in _take(self._queue, self._may_settle()):
            self._taken = self._taken.plus(held)
            batch.append(exchange)
        if self._queue:
            self._wake.set()
        self._busy = len(batch)
        metered = self._settler.metered(batch)
        for each in metered:
            self._rows[each.record.id] = each.record
            if each.record.body_state is not BodyState.PENDING:
                each.close()
        waiting = [each for each in metered if each.record.body_state is BodyState.PENDING]
        if waiting:
            self._bodies.put(waiting)
        self._busy = 0
        if waiting:
            self._bodies.rest(self._limits.row_wait_s)

    def _may_settle(self) -> int:
        """A whole batch; but while a store that works is behind, calls wait where most room is, their bodies whole.

        Unless the queue itself fills: rather a body less than a row.
        """
        limits = self._limits
        half = replace(limits, disk_bytes=limits.disk_bytes // 2, open_files=limits.open_files // 2)
        if not self._bodies.works() or self._queued().beyond(limits.queued_bytes // 2, half):
            return limits.batch
        return min(limits.batch, self._bodies.room())

    def _hear(self) -> None:
        """Takes what the bodies came to; a row that was not written yet is written with it."""
        for record in self._bodies.decided():
            self._rows[record.id] = record

    def _write_rows(self) -> None:
        while self._rows and time.monotonic() >= self._rows_again_at:
            batch = list(islice(self._rows.values(), self._limits.batch))
            try:
                self._settler.record_apart(batch)
            except Exception as exc:
                self._rows_attempts += 1
                self._rows_again_at = time.monotonic() + _backoff(self._limits, self._rows_attempts)
                log.error("rows_waiting", exc, count=len(self._rows))
                return
            self._rows_attempts = 0
            for record in batch:
                del self._rows[record.id]

    def _keep_bounds(self) -> None:
        given_up = self._given_up - self._said_given_up
        self._said_given_up += given_up
        excess = list(islice(self._rows, max(0, len(self._rows) - self._limits.waiting_rows)))
        for row in excess:
            del self._rows[row]
        if given_up + len(excess):
            log.say("rows_lost", logging.ERROR, count=given_up + len(excess))

    def _give_up(self) -> None:
        """The grace is over: the last word on what is left."""
        for record in self._bodies.end():
            self._rows[record.id] = record
        self._rows_again_at = 0.0
        self._write_rows()
        if left := len(self._rows) + len(self._queue):
            log.say("rows_lost", logging.ERROR, count=left)


def _backoff(limits: InlineLimits, attempts: int) -> float:
    """Full jitter, doubling."""
    return random.uniform(0, min(limits.backoff_max_s, limits.backoff_s * 2 ** min(attempts, 30)))  # noqa: S311 - no secret


def _weight(exchange: Exchange) -> _Held:
    held = _Held(_EXCHANGE_BYTES)
    for body in (exchange.request, exchange.response):
        # What was captured is told without asking the file system: this runs beside the relay.
        held = held.plus(_Held(len(body.data)) if body.file is None else _Held(0, body.size_bytes, 1))
    return held


def _held(settling: Settling) -> _Held:
    exchange = settling.exchange
    held = _weight(exchange).minus(_Held(_EXCHANGE_BYTES))
    body = settling.body
    if body is None:
        return held
    return held.plus(_Held(len(body.source)) if isinstance(body.source, bytes) else _Held(0, body.size_bytes, 1))


def _take(queue: deque[T], limit: int) -> list[T]:
    taken: list[T] = []
    with contextlib.suppress(IndexError):  # empty, also when another thread was faster
        while len(taken) < limit:
            taken.append(queue.popleft())
    return taken
