"""What a process runs on that its host freezes, throttles or ends between calls: Lambda, Cloud Run, Cloud Functions.

Nothing runs in its background, and nothing is connected to before the first call: the host calls `prepare` before a
call, `turn` after it and `sweep` on a schedule of its own. Which host it is, only `handlers/` knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from steward import log
from steward.clockwork import Clockwork
from steward.errors import SettingError
from steward.exchange import BodyState
from steward.metric_files import Board
from steward.metrics import CallMetrics
from steward.ports import EgressLog
from steward.settings import Settings
from steward.stores import LOOK_EVERY_S, DecidedStores
from steward.wiring.after_response import After, sent_to_queue
from steward.wiring.body_stores import decided_stores
from steward.wiring.database import upkeep
from steward.wiring.prices import SharedPrices
from steward.wiring.relay import Ground, Services, open_ground, relay_on
from steward.wiring.settler import open_settler

if TYPE_CHECKING:
    from steward.adapters.by_call import ByCall
    from steward.adapters.price_feed import PriceFeed
    from steward.export import Exporter

_PREPARED_WITHIN_S = 5.0
_IDLE_FOR_S = 5.0
"""A gap between two calls after which connections to providers may be dead: they rest 15 s at most anyway."""
_SLACK = timedelta(hours=1)
_PAGE = 500
_PAGES = 20


class Elapsed:
    """Seconds that passed, also while the process was frozen, when some clocks stand still: the greater of two, summed.

    Never less than before. A clock that is set forward ages what is remembered, which does no harm.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clocks = (monotonic, wall)
        self._lock = threading.Lock()
        self._last = (monotonic(), wall())
        self._seconds = 0.0

    def __call__(self) -> float:
        """From any thread."""
        with self._lock:
            now = tuple(clock() for clock in self._clocks)
            self._seconds += max(0.0, *(then_to - then for then_to, then in zip(now, self._last, strict=True)))
            self._last = (now[0], now[1])
            return self._seconds


class LookedAt:
    """Where bodies go, asked anew before bodies are stored once what is known is older than LOOK_EVERY_S."""

    def __init__(self, stores: DecidedStores, now: Callable[[], float]) -> None:
        self._stores = stores
        self._now = now
        self._lock = threading.Lock()
        self._at: float | None = None

    def look(self) -> None:
        """From any thread, one at a time. Raises LedgerFault: what was known stays in force."""
        with self._lock:
            now = self._now()
            if self._at is not None and now - self._at < LOOK_EVERY_S:
                return
            self._stores.look()
            self._at = now


class Schedule:
    """What is due from time to time, done when called: its clients and models are made at their first use."""

    def __init__(self, settings: Settings, ground: Ground, prices: PriceFeed) -> None:
        self._settings = settings
        self._ground = ground
        self._prices = prices

    @cached_property
    def _egress_log(self) -> EgressLog:
        from steward.adapters.postgres_egress_log import PostgresEgressLog

        return PostgresEgressLog(self._ground.engine, self._ground.keyring)

    @cached_property
    def _exporter(self) -> Exporter:
        from steward.adapters.postgres_outbox import PostgresOutbox
        from steward.wiring.butlers import registered_butlers
        from steward.wiring.schedule import open_exporter

        ground = self._ground
        open_butler = registered_butlers(self._settings, self._egress_log)
        outbox = PostgresOutbox(ground.engine)
        return open_exporter(self._settings, ground.directory, outbox, open_butler, ground.board)

    def export(self, until: float) -> None:
        """Rows that are due, to their Butlers, or as many as go in until a monotonic moment. Raises LedgerFault."""
        self._exporter.drain(until)

    def sweep(self, until: float) -> None:
        """All of it, each whatever becomes of the others; nothing is begun at `until` (monotonic) or later."""
        ground = self._ground
        now = datetime.now(UTC)
        tasks: dict[str, Callable[[], object]] = {
            "keep": lambda: upkeep(self._settings, ground.engine, ground.keyring)(now),
            "bodies": lambda: self._give_up_bodies(now),
            "managed": self._take_over,
            "sync": lambda: self._sync(until),
            "export": lambda: self.export(until),
            "prices": self._prices.refresh_once,
        }
        for task, do in tasks.items():
            if time.monotonic() >= until:
                log.say("sweep_cut", logging.WARNING, task=task)
                return
            try:
                do()
            except Exception as exc:  # what one meets must not be the end of the others
                log.error("task_failed", exc, task=task)

    def close(self) -> None:
        """Hangs up."""
        if "_exporter" in self.__dict__:
            self._exporter.finish(0.0)

    def _give_up_bodies(self, now: datetime) -> None:
        """Bodies that are `pending` for longer than any process tries them: whoever had them is gone."""
        from steward.adapters.postgres_body_book import PostgresBodyBook

        book = PostgresBodyBook(self._ground.engine)
        before = now - timedelta(seconds=self._settings.body_retry_for_s) - _SLACK
        for _ in range(_PAGES):
            stuck = book.stuck(before, _PAGE)
            if not stuck:
                return
            log.say("bodies_given_up", logging.ERROR, count=book.mark(stuck, BodyState.FAILED))

    def _take_over(self) -> None:
        from steward.wiring.butlers import butlers_when_asked
        from steward.wiring.schedule import open_managed

        open_butler = butlers_when_asked(self._settings, self._egress_log)
        managed = open_managed(self._settings, self._ground.directory, open_butler)
        if managed is not None:
            managed.run_once()

    def _sync(self, until: float) -> None:
        """It has a connection of its own meanwhile, whose lock tells all processes which of them syncs what."""
        from steward.wiring.butlers import registered_butlers
        from steward.wiring.schedule import open_syncer, open_turns, whole_sets

        directory = self._ground.directory
        open_butler = registered_butlers(self._settings, self._egress_log)
        syncer = open_syncer(self._settings, directory, open_turns(self._settings), open_butler, whole_sets(directory))
        try:
            while syncer.run_once() and time.monotonic() < until:
                continue
        finally:
            syncer.finish(max(0.0, until - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Hosted:
    """One process between its host's calls."""

    services: Services
    """What `create_app` serves; nothing of it runs in the background."""
    schedule: Schedule
    by_call: ByCall
    """What settles here: every call, or what a queue would not take."""
    _asleep: Elapsed
    _last: list[float]

    async def prepare(self) -> None:
        """Before each call, on the loop that relays: learns what calls need, and forgets what a freeze may have cut.

        Never longer than `_PREPARED_WITHIN_S`; without the database calls get their 503 from the key check.
        """
        now = self._asleep()
        if self._last and now - self._last[0] > _IDLE_FOR_S:
            for upstream in self.services.upstreams:
                upstream.forget_idle()
        self._last[:] = [now]
        health = self.services.health
        if not (health.secrets_learnt and health.schema_looked_at):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PREPARED_WITHIN_S):
                    await asyncio.to_thread(self.services.learn)

    def turn(self, until: float | None = None) -> None:
        """After a response, from any thread: settles and exports, until a monotonic moment at the latest.

        With a queue it exports nothing: its consumer does. Raises nothing. Without `until`: AFTER_RESPONSE_BUDGET.
        """
        self.by_call.turn(until)
        self._last[:] = [self._asleep()]

    def sweep(self, until: float) -> None:
        """What a schedule runs: see Schedule.sweep. Raises nothing."""
        self.schedule.sweep(until)

    async def close(self) -> None:
        """One last turn, then gives everything back."""
        await self.services.stop()


def build_hosted(settings: Settings, caller_waits: bool, board: Board | None = None) -> Hosted:
    """Puts such a process together. Connects to nothing yet. Raises SettingError.

    `caller_waits`: the piece that ends a response waits for its turn, unless AFTER_RESPONSE_WAIT says otherwise.
    """
    from steward.adapters.by_call import Around, ByCall, ByCallLimits

    if settings.after_response == "spool":
        raise SettingError("AFTER_RESPONSE: this host keeps no disk for a spool; inline, sqs or pubsub")
    ground = open_ground(settings, settings.postgres_max_conns, board)
    stores, asleep = decided_stores(settings, ground.directory), Elapsed()
    prices = SharedPrices(settings, ground.engine, asleep)
    looked = LookedAt(stores, asleep)
    schedule = Schedule(settings, ground, prices.feed)
    settler = open_settler(settings, ground.ledger, stores, lambda: prices.feed.book, CallMetrics(ground.board))
    waits = caller_waits if settings.after_response_wait is None else settings.after_response_wait
    queued = settings.after_response in {"sqs", "pubsub"}
    by_call = ByCall(
        settler,
        ground.ledger,
        Around(looked.look, _left_to_the_consumer if queued else schedule.export, prices.look),
        ByCallLimits(budget_s=settings.after_response_budget_s),
        waits,
    )

    def close() -> None:
        schedule.close()
        prices.feed.close()
        stores.close()

    after = After(by_call, None, None, (), close, end_alone=waits)
    if queued:
        after = sent_to_queue(settings, ground.keyring, stores, after, looked.look)
    return Hosted(relay_on(settings, ground, after, Clockwork(()), asleep), schedule, by_call, asleep, [])


def _left_to_the_consumer(until: float) -> None:
    """Whoever reads the queue exports all rows that are due, after each batch; and so does the schedule."""
