"""What a relaying process runs on: `handlers/container.py` runs it.

It chooses, by AFTER_RESPONSE, what takes calls over and whether anything is on a schedule here; nothing at call time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from steward import metrics
from steward.authenticate import Authenticator, KeyLimits
from steward.clockwork import Clockwork
from steward.detect import Detector
from steward.metric_files import Board
from steward.metrics import Connections, RelayMetrics, RelayState
from steward.ports import AfterResponse, Directory, Ledger, Upstream
from steward.proxy import Stages
from steward.refusals import Refusals
from steward.registering import counting, longest_unheard_s
from steward.rewrite import of_the_front
from steward.seal import Keyring
from steward.settings import Settings
from steward.wiring.after_response import After, sent_to_queue, settled_here, spooled
from steward.wiring.body_stores import decided_stores, open_store
from steward.wiring.butlers import butlers_when_asked
from steward.wiring.database import directory_on, open_database, pooled, relay_conns, upkeep
from steward.wiring.prices import price_book
from steward.wiring.queues import open_queue
from steward.wiring.schedule import open_clockwork
from steward.wiring.upstreams import Upstreams
from steward.wiring.watching import Background, CredentialKey, Health, kept_running, look_at_schema, watching
from steward.wiring.way_out import butler_tls, outward_tls

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.adapters.price_feed import PriceFeed
    from steward.api.orgs import Organisations

_THREADS_END_S = 5.0
_CLOCKWORK_ENDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Services:
    """Everything one process runs on."""

    settings: Settings
    directory: Directory
    ledger: Ledger
    prices: PriceFeed | None
    """None where another process settles: nothing is priced here."""
    after_response: AfterResponse
    authenticator: Authenticator
    stages: Stages
    upstreams: tuple[Upstream, ...]
    health: Health
    board: Board
    """Where this process counts."""
    organisations: Callable[[], Organisations]
    """What `/admin/orgs` works on, always the same; its library is imported when it is first asked for."""
    held: Callable[[], Connections]
    """What it holds open towards providers and the database."""
    background: tuple[Background, ...]
    """What runs until it is cancelled, or is done, while the process serves."""
    clockwork: Clockwork
    """What runs on a schedule in this process; nothing where another settles."""
    learn: Callable[[], bool]
    """Asks, once, for what calls cannot do without, if it was not told yet; whether it knows. From any thread."""
    close: Callable[[], None]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def ready(self) -> str:
        """`ready`, or the one word that says why not."""
        if self.health.draining:
            return "draining"
        if self.health.schema_too_old:
            return "schema"
        if self.health.wrong_key:
            return "key"
        heard = self.authenticator.database_heard() or not self.authenticator.polled
        able = self.health.schema_looked_at and self.health.secrets_learnt and heard
        return "ready" if able else "database"

    def relay_state(self, calls: int, connections: int) -> RelayState:
        """What is shown of this process; the server knows its calls and its callers' connections."""
        heard, keys = self.authenticator.database_heard(), self.authenticator.known_keys
        limit = self.settings.spool_max_bytes if self.settings.after_response == "spool" else None
        unheard, pending = longest_unheard_s(self.health.butlers, datetime.now(UTC)), self.health.approvals_pending or 0
        state = RelayState(self.ready() == "ready", heard, calls, connections, keys, self.held(), limit)
        return replace(state, butler_unheard_s=unheard, approvals_pending=pending)

    async def start(self) -> None:
        """Starts what runs in the background. Never waits for a service."""
        if self.prices is not None:
            self.prices.start(self.settings.pricing_refresh_interval_s)
        for run in self.background:
            self.tasks.append(asyncio.ensure_future(kept_running(run)))
        self.clockwork.start()

    async def stop(self) -> None:
        """Settles what is left, then gives everything back."""
        self.clockwork.end()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for upstream in self.upstreams:
            await upstream.close()
        await self.after_response.close()
        await asyncio.to_thread(self.clockwork.join, _CLOCKWORK_ENDS_S)
        # A query under way in a thread holds a connection that nobody would close any more.
        await threads_end(_THREADS_END_S)
        self.close()


async def threads_end(within_s: float) -> None:
    """Until no thread of the loop's own works any more, or until then: one that is cancelled would stop the loop."""
    ending = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    await asyncio.wait((ending,), timeout=within_s)


@dataclass(frozen=True, slots=True)
class Ground:
    """What every relaying process stands on, whatever takes its calls over."""

    engine: Engine
    keyring: Keyring
    directory: PostgresDirectory
    ledger: PostgresLedger
    upstreams: Upstreams
    board: Board


def build(settings: Settings, board: Board | None = None) -> Services:
    """Puts a relaying process together. Connects to nothing yet. Raises SettingError.

    `board`: where all processes of this Steward count; None: this one counts for itself.
    """
    ground = open_ground(settings, relay_conns(settings), board)
    if settings.after_response == "spool":
        return relay_on(settings, ground, spooled(settings, ground.keyring), Clockwork(()))
    stores = decided_stores(settings, ground.directory)
    kept = upkeep(settings, ground.engine, ground.keyring)
    after = settled_here(settings, ground.ledger, stores, ground.board, kept)
    if settings.after_response != "inline":
        after = sent_to_queue(settings, ground.keyring, stores, after)
        return relay_on(settings, ground, after, Clockwork(()))
    return relay_on(settings, ground, after, open_clockwork(settings, ground.engine, ground.keyring, ground.board))


def open_ground(settings: Settings, most_conns: int, board: Board | None = None) -> Ground:
    """As `build`, without what takes calls over. `most_conns`: of this process to the database."""
    from steward.adapters.postgres_ledger import PostgresLedger

    engine, keyring = open_database(settings, most_conns)
    directory, ledger = directory_on(settings, engine, keyring), PostgresLedger(engine)
    return Ground(engine, keyring, directory, ledger, Upstreams(settings), board or metrics.prepare(None))


def relay_on(
    settings: Settings, ground: Ground, after: After, clockwork: Clockwork, asleep: Callable[[], float] | None = None
) -> Services:
    """A relaying process whose calls `after` takes over, and that runs `clockwork` besides. It closes all three.

    `asleep`: of a host that freezes its processes, a clock that counts meanwhile, in seconds. Nothing runs in the
    background there, no poll either: a key is confirmed before use.
    """
    directory, upstreams, board, health = ground.directory, ground.upstreams, ground.board, Health()
    limits = KeyLimits(stale_ttl_s=settings.key_stale_ttl_s)
    authenticator = (
        Authenticator(directory, limits) if asleep is None else Authenticator(directory, limits, False, asleep)
    )
    credential = CredentialKey(directory, health)

    def close() -> None:
        after.close()
        ground.engine.dispose()
        board.close()

    return Services(
        settings=settings,
        directory=directory,
        ledger=ground.ledger,
        prices=after.prices,
        after_response=after.port,
        authenticator=authenticator,
        stages=Stages(
            authenticator=authenticator,
            detector=Detector(),
            origins=dict(settings.origins),
            upstream=upstreams.of,
            after_response=after.port,
            credential_hash=credential.get,
            capture_max_bytes=settings.capture_max_bytes,
            refusals=Refusals(told=RelayMetrics(board).refused),
            key_max_inflight=settings.key_max_inflight,
            spill=after.spill,
            of_the_front=of_the_front(settings.front_headers),
            end_alone=after.end_alone,
        ),
        upstreams=upstreams.all,
        health=health,
        board=board,
        organisations=cache(lambda: _organisations(settings, ground)),
        held=lambda: Connections(upstreams.connections(), *pooled(ground.engine)),
        background=()
        if asleep is not None
        else (
            *(authenticator.poll, credential.learn),
            *watching(ground.ledger, directory, health),
            *after.background,
        ),
        clockwork=clockwork,
        learn=lambda: all((credential.learn_once(), look_at_schema(ground.ledger, health))),
        close=close,
    )


def _organisations(settings: Settings, ground: Ground) -> Organisations:
    """What `/admin/orgs` works on."""
    from steward.adapters.postgres_egress_log import PostgresEgressLog
    from steward.adapters.postgres_outbox import PostgresOutbox
    from steward.api.orgs import AdminDoor, Organisations

    return Organisations(
        ground.directory,
        butlers_when_asked(settings, PostgresEgressLog(ground.engine, ground.keyring)),
        AdminDoor(settings.steward_admin_token),
        settings.butler_urls_allow,
        counting(PostgresOutbox(ground.engine), ground.directory),
    )


def check(settings: Settings) -> None:
    """What `build` would refuse, without building: for a parent whose children build. Raises SettingError."""
    settings.needed_encryption_key()
    price_book(settings)
    butler_tls(settings)
    outward_tls(settings)
    store = open_store(settings.body_store)
    if store is not None:
        store.close()
    if settings.after_response in {"sqs", "pubsub"}:
        open_queue(settings).close()
