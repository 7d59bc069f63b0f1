"""Settles in the process that relayed, in threads of its own: for hosts where nothing outlives the process.

The intent row (`interrupted`) is written while the provider works, and waited for, in bounds, before the caller gets
the last piece. It promises no more than the process's memory can: with the database away the call is served, what
could not be written is retried within bounds and then counted as lost, aloud. The durable way is the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar
from uuid import UUID

from steward import log
from steward.errors import LedgerFault
from steward.exchange import BodyState, Exchange, Intent, Record
from steward.ports import Ledger
from steward.settle import Settler, Settling, give_up

T = TypeVar("T")
_EXCHANGE_BYTES = 4096
"""About what an exchange weighs without its bodies."""
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
    queued_bytes: int = 128 * 1024 * 1024
    """Of calls that wait to be settled: more than this a slow database must not pile up."""
    waiting_rows: int = 10_000
    waiting_bodies: int = 1_000
    waiting_bytes: int = 64 * 1024 * 1024
    """Of bodies in memory that wait for their store."""
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    body_retry_s: float = 600.0


class Inline:
    """AfterResponse by two threads: one writes intents, one settles."""

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
        if self._settling.running() and (left := self._settling.waiting()):
            log.say("rows_lost", logging.ERROR, count=left)

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


@dataclass(slots=True)
class _Waiting:
    """A row whose body the store could not take."""

    settling: Settling
    since: float
    again_at: float
    attempts: int = 1


class _SettleThread:
    """Settles batch after batch; keeps, in bounds, what database or store would not take."""

    def __init__(self, settler: Settler, limits: InlineLimits) -> None:
        self._settler = settler
        self._limits = limits
        self._queue: deque[Exchange] = deque()
        self._rows: deque[Record] = deque()
        self._bodies: deque[_Waiting] = deque()
        self._rows_attempts = 0
        self._rows_again_at = 0.0
        self._busy = 0
        # Each number is written by one thread alone: the loop's puts and gives up, the other takes.
        self._put_bytes = 0
        self._given_up_bytes = 0
        self._given_up = 0
        self._taken_bytes = 0
        self._said_given_up = 0
        self._wake = threading.Event()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="steward-settle", daemon=True)
        self._thread.start()

    def put(self, exchange: Exchange) -> None:
        self._put_bytes += _weight(exchange)
        self._queue.append(exchange)
        while self._put_bytes - self._given_up_bytes - self._taken_bytes > self._limits.queued_bytes:
            if not self._give_up_oldest():
                break
        self._wake.set()

    def _give_up_oldest(self) -> bool:
        """The settling is too slow for what comes: the oldest call that waits is left as its intent says."""
        try:
            oldest = self._queue.popleft()
        except IndexError:  # the other thread was faster
            return False
        self._given_up_bytes += _weight(oldest)
        self._given_up += 1
        oldest.request.close()
        oldest.response.close()
        return True

    def waiting(self) -> int:
        return len(self._queue) + len(self._rows) + len(self._bodies) + self._busy

    def end(self, until: float) -> None:
        """Settles what waits until then, then ends."""
        self._deadline = until
        self._wake.set()

    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while self._deadline is None or (self.waiting() and time.monotonic() < self._deadline):
            self._wake.wait(self._pause())
            self._wake.clear()
            for step in (self._settle_new, self._retry_bodies, self._write_rows, self._keep_bounds):
                try:
                    step()
                except Exception as exc:  # the thread must outlive any one batch
                    log.error("settle_failed", exc)
        self._give_up()

    def _pause(self) -> float | None:
        """Until the next retry; None: until something comes."""
        if self._queue or self._deadline is not None:
            return 0.01
        now = time.monotonic()
        due = [body.again_at for body in self._bodies]
        if self._rows:
            due.append(self._rows_again_at)
        return max(0.01, min(due) - now) if due else None

    def _settle_new(self) -> None:
        batch = _take(self._queue, self._limits.batch)
        if self._queue:
            self._wake.set()
        self._busy = len(batch)
        self._taken_bytes += sum(_weight(exchange) for exchange in batch)
        metered = self._settler.metered(batch)
        self._store(metered)
        now = time.monotonic()
        for each in metered:
            self._rows.append(each.record)
            if each.record.body_state is BodyState.PENDING:
                each.keep_object_alone()
                self._bodies.append(_Waiting(each, now, now + self._backoff(1)))
            else:
                each.close()
        self._busy = 0

    def _store(self, settling: list[Settling]) -> None:
        """A store that breaks its promise not to raise is one that is away."""
        try:
            self._settler.store(settling)
        except Exception as exc:
            log.error("store_failed", exc, count=len(settling))

    def _retry_bodies(self) -> None:
        now = time.monotonic()
        due = [body for body in self._bodies if body.again_at <= now]
        if not due:
            return
        self._store([body.settling for body in due])
        for body in due:
            settling = body.settling
            if settling.record.body_state is not BodyState.PENDING:
                self._bodies.remove(body)
                settling.close()
                self._rows.append(settling.record)
            elif now - body.since > self._limits.body_retry_s:
                self._bodies.remove(body)
                self._lose(body, BodyState.FAILED)
            else:
                settling.keep_object_alone()
                body.attempts += 1
                body.again_at = now + self._backoff(body.attempts)

    def _lose(self, body: _Waiting, state: BodyState) -> None:
        log.say("body_lost", logging.ERROR, id=body.settling.record.id, body_state=state)
        self._rows.append(give_up(body.settling, state))

    def _write_rows(self) -> None:
        while self._rows and time.monotonic() >= self._rows_again_at:
            batch = list(islice(self._rows, self._limits.batch))
            try:
                self._record(batch)
            except Exception as exc:
                self._rows_attempts += 1
                self._rows_again_at = time.monotonic() + self._backoff(self._rows_attempts)
                log.error("rows_waiting", exc, count=len(self._rows))
                return
            self._rows_attempts = 0
            for _ in batch:
                self._rows.popleft()

    def _record(self, batch: list[Record]) -> None:
        """Raises what the ledger raises; but a row that it breaks on, while it takes others, is set aside alone."""
        try:
            self._settler.record(batch)
        except LedgerFault:
            raise
        except Exception as exc:  # no adapter promises it: one row may be poison to all
            fault = exc
        else:
            return
        broken: list[tuple[Record, Exception]] = []
        for record in batch:
            try:
                self._settler.record([record])
            except LedgerFault:
                raise
            except Exception as exc:
                broken.append((record, exc))
        if len(broken) == len(batch):
            raise fault
        for record, reason in broken:
            log.error("row_poisoned", reason, id=record.id)

    def _keep_bounds(self) -> None:
        """Memory is what inline has: beyond its bounds the oldest goes first, and is said."""
        limits = self._limits
        held = sum(body.settling.held_bytes for body in self._bodies)
        while self._bodies and (len(self._bodies) > limits.waiting_bodies or held > limits.waiting_bytes):
            oldest = self._bodies.popleft()
            held -= oldest.settling.held_bytes
            self._lose(oldest, BodyState.SHED)
        given_up = self._given_up - self._said_given_up
        self._said_given_up += given_up
        excess = max(0, len(self._rows) - limits.waiting_rows)
        for _ in range(excess):
            self._rows.popleft()
        if given_up + excess:
            log.say("rows_lost", logging.ERROR, count=given_up + excess)

    def _backoff(self, attempts: int) -> float:
        """Full jitter, doubling."""
        limits = self._limits
        return random.uniform(0, min(limits.backoff_max_s, limits.backoff_s * 2**attempts))  # noqa: S311 - no secret

    def _give_up(self) -> None:
        """The grace is over: the last word on what is left."""
        while self._bodies:
            self._lose(self._bodies.popleft(), BodyState.SHED)
        self._rows_again_at = 0.0
        self._write_rows()
        if left := len(self._rows) + len(self._queue):
            log.say("rows_lost", logging.ERROR, count=left)


def _weight(exchange: Exchange) -> int:
    return _EXCHANGE_BYTES + len(exchange.request.data) + len(exchange.response.data)


def _take(queue: deque[T], limit: int) -> list[T]:
    taken: list[T] = []
    with contextlib.suppress(IndexError):  # empty, also when another thread was faster
        while len(taken) < limit:
            taken.append(queue.popleft())
    return taken
