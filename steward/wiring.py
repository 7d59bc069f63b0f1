"""Settings -> Services: the one composition root, and the only file that imports adapters, each inside its branch.

It decides nothing at call time and holds no state of its own; what it made, the host's handler starts and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Any
from uuid import UUID

from steward import log, metrics, values
from steward.api.orgs import AdminDoor, Organisations
from steward.authenticate import Authenticator, KeyLimits
from steward.capture import Spill
from steward.clockwork import Clockwork, Task
from steward.counted_calls import CountedCalls
from steward.destination import Destination, FilesDestination, GcsDestination, S3Destination
from steward.detect import Detector
from steward.errors import KeyCheckUnavailable, LedgerFault, SchemaTooOld, SealBroken, SettingError
from steward.exchange import Origin
from steward.forward import Pool, PoolLimits, tls_context
from steward.metric_files import Board
from steward.metrics import CallMetrics, Connections, QueueMetrics, RelayMetrics, RelayState
from steward.policy import Local
from steward.ports import (
    AfterResponse,
    BodyBook,
    BodyStore,
    ControlPlane,
    Directory,
    EgressLog,
    IdentityProvider,
    Lane,
    Ledger,
    Outbox,
    Registration,
    Upstream,
    ViewBook,
)
from steward.price import PriceBook, bundled, read_aliases
from steward.proxy import Stages
from steward.reconcile import Kept, NothingKept
from steward.refusals import Refusals
from steward.registering import OpenButler, longest_unheard_s
from steward.registering import Waiting as Counted
from steward.rewrite import KeyedHash
from steward.seal import Keyring
from steward.settings import Settings
from steward.settle import Settler
from steward.settling import AT_ONCE, AT_ONCE_FILES, RoundLimits, Rounds
from steward.stores import DecidedStores, Looking
from steward.trust_book import TrustBook
from steward.values import ALL_TAGS
from steward.viewing import CALLBACK_PATH, Viewing
from steward.words import Secret

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.httpx_upstream import HttpxUpstream
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.adapters.price_feed import PriceFeed
    from steward.adapters.spool_quarantine import Quarantine
    from steward.ingress import JobKind
    from steward.logged_butler import Polls
    from steward.managed import Managed
    from steward.sync import OpenButler as SyncsWith
    from steward.sync import Syncer, WholeSet

CONNS_A_RELAY = 2
"""One for the rows, one for the keys: with a single one, a slow batch would turn key look-ups into 503."""
CONNS_FOR_TURNS = 1
"""What tells all processes which of them syncs an organisation; taken once one is registered."""
CONNS_A_VIEWER = 2
MAINTENANCE_S = 6 * 3600.0
MAINTENANCE_RETRY_S = 60.0
_THREADS_END_S = 5.0
_CLOCKWORK_ENDS_S = 5.0
_WAIT_FOR_DATABASE_S = 2.0
_BUTLERS_EVERY_S = 10.0
_MOST_COUNTED = 10_000
_PENDING_EVERY_S = 5.0


@dataclass(slots=True)
class Health:
    """What `/readyz` tells: kept by the background tasks, read by the API."""

    schema_looked_at: bool = False
    schema_too_old: bool = False
    secrets_learnt: bool = False
    wrong_key: bool = False
    butlers: tuple[Registration, ...] = ()
    """The organisations that are registered, and when the Butler of each was heard."""
    approvals_pending: int | None = None
    """What of Butler's waits for a person inside; None: not known."""
    draining: bool = False


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
    organisations: Organisations
    """What `/admin/orgs` works on."""
    held: Callable[[], Connections]
    """What it holds open towards providers and the database."""
    background: tuple[Callable[[], Coroutine[Any, Any, None]], ...]
    """What runs until it is cancelled, or is done, while the process serves."""
    clockwork: Clockwork
    """What runs on a schedule in this process; nothing where another settles."""
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
        able = self.health.schema_looked_at and self.health.secrets_learnt and self.authenticator.database_heard()
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
            self.tasks.append(asyncio.ensure_future(_kept_running(run)))
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_THREADS_END_S):
                await asyncio.get_running_loop().shutdown_default_executor()
        self.close()


async def _kept_running(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A task that ends by an error nobody promised is said and begun again: what it keeps would go unkept, unseen."""
    while True:
        try:
            await run()
        except Exception as exc:
            log.error("background_failed", exc)
        else:
            return
        await asyncio.sleep(_WAIT_FOR_DATABASE_S)


def open_database(settings: Settings, most_conns: int = 1) -> tuple[Engine, Keyring]:
    """The engine and the keyring, for the services and for the commands."""
    from steward.adapters.postgres_connection import PostgresAddress, open_engine

    keyring = Keyring(settings.needed_encryption_key())
    rootcert = settings.postgres_sslrootcert
    address = PostgresAddress(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password or Secret(""),
        database=settings.postgres_db,
        sslmode=settings.postgres_sslmode,
        sslrootcert=str(rootcert) if rootcert else None,
        max_conns=most_conns,
    )
    return open_engine(address), keyring


def relay_conns(settings: Settings) -> int:
    """Database connections of one relaying process: its share, or what keys and readiness need."""
    if settings.after_response == "spool":
        return CONNS_A_RELAY
    return max(1, (settings.postgres_max_conns - viewer_conns(settings)) // settings.workers - CONNS_FOR_TURNS)


def settler_conns(settings: Settings) -> int:
    """Database connections of the settling process: what the relaying ones leave it."""
    left = settings.postgres_max_conns - CONNS_A_RELAY * settings.workers - CONNS_FOR_TURNS
    return max(1, left - viewer_conns(settings))


def viewer_conns(settings: Settings) -> int:
    """Database connections of the viewer's process; none while there is no viewer."""
    return 0 if settings.view_auth == "off" else CONNS_A_VIEWER


def open_directory(settings: Settings) -> tuple[Directory, Callable[[], None]]:
    """The directory alone, for the key commands, and how to close it."""
    from steward.adapters.postgres_directory import PostgresDirectory

    engine, keyring = open_database(settings)
    return PostgresDirectory(engine, keyring, trust_of(settings)), engine.dispose


def trust_of(settings: Settings) -> Local:
    """What the settings say of what Butler wants."""
    return Local(settings.body_store_allow, settings.trust_window_s, settings.managed_enabled)


def open_register(settings: Settings, undo: ExitStack) -> tuple[Directory, Callable[[str, Secret[str]], ControlPlane]]:
    """The directory, and how a Butler is asked whose a token is; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_egress_log import PostgresEgressLog
    from steward.logged_butler import LoggedButler

    opener = butler_opener(settings)
    engine, keyring = open_database(settings)
    undo.callback(engine.dispose)
    egress_log = PostgresEgressLog(engine, keyring)
    return PostgresDirectory(engine, keyring, trust_of(settings)), lambda url, token: LoggedButler(
        opener(url, token), egress_log
    )


def open_egress_log(settings: Settings, undo: ExitStack) -> EgressLog:
    """What left for Butler; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_egress_log import PostgresEgressLog

    engine, keyring = open_database(settings)
    undo.callback(engine.dispose)
    return PostgresEgressLog(engine, keyring)


def open_orgs(settings: Settings, undo: ExitStack) -> tuple[Directory, Counted]:
    """The organisations and what waits for each; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_outbox import PostgresOutbox

    engine, keyring = open_database(settings)
    undo.callback(engine.dispose)
    directory = PostgresDirectory(engine, keyring, trust_of(settings))
    return directory, counting(PostgresOutbox(engine), directory)


def counting(outbox: Outbox, book: TrustBook) -> Counted:
    """What waits for an organisation: `rows` of its keys that Butler has not, counted up to 10,000; `approvals`."""

    def counted(each: Registration) -> Mapping[str, int]:
        rows = outbox.waiting(Lane(each.id, each.org_id), _MOST_COUNTED).rows
        return {"rows": rows, "approvals": sum(one.approvable for one in book.pending_approvals(each.org_id))}

    return counted


def open_outbox(settings: Settings, undo: ExitStack) -> Outbox:
    """What waits to be exported; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_outbox import PostgresOutbox

    engine, _ = open_database(settings)
    undo.callback(engine.dispose)
    return PostgresOutbox(engine)


def open_view_book(settings: Settings) -> tuple[ViewBook, Callable[[], None]]:
    """The viewer's book alone, for its commands, and how to close it."""
    from steward.adapters.postgres_view_book import PostgresViewBook

    engine, _ = open_database(settings)
    return PostgresViewBook(engine), engine.dispose


def butler_opener(settings: Settings) -> Callable[[str, Secret[str]], ControlPlane]:
    """How a Butler at an address is spoken to with a token. Raises SettingError."""
    from steward.adapters.butler import HttpButler

    tls = _butler_tls(settings)

    def opened(url: str, token: Secret[str]) -> ControlPlane:
        return HttpButler(url, token, tls, proxy_url=_proxy_towards(url, settings))

    return opened


def _butler_when_asked(settings: Settings, egress_log: EgressLog) -> OpenButler:
    """The same, made at its first use: who relays seldom speaks to Butler, and then needs no client for it."""
    kept: list[Polls] = []

    def open_butler(url: str, token: Secret[str]) -> ControlPlane:
        from steward.logged_butler import LoggedButler, Polls

        kept[:] = kept or [Polls()]  # it polls one address alone, by a connection of its own each time
        return LoggedButler(butler_opener(settings)(url, token), egress_log, polls=kept[0])

    return open_butler


def _butler_tls(settings: Settings) -> SSLContext:
    file = settings.butler_ca_file
    try:
        return _tls(settings) if file is None else tls_context(str(file))
    except OSError:
        raise SettingError("BUTLER_CA_FILE: the file holds no certificate that can be read") from None


def _proxy_towards(url: str, settings: Settings) -> Secret[str] | None:
    """The egress proxy, when calls to this address take it."""
    if settings.https_proxy is None:
        return None
    from steward.adapters.httpx_upstream import goes_through_proxy

    through = goes_through_proxy(values.origin(url), True, ",".join(settings.no_proxy))
    return settings.https_proxy if through else None


def open_clockwork(settings: Settings, engine: Engine, keyring: Keyring, board: Board) -> Clockwork:
    """What runs on a schedule, beside the settling. Connects to nothing yet. Raises SettingError.

    It imports the models of `egress.py`, which who relays and spools never needs.
    """
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_egress_log import PostgresEgressLog
    from steward.adapters.postgres_outbox import PostgresOutbox
    from steward.export import Exporter, ExportLimits, Ways
    from steward.export_record import ExportRules
    from steward.logged_butler import LoggedButler

    opener, egress_log = butler_opener(settings), PostgresEgressLog(engine, keyring)

    def open_butler(registration: Registration, token: Secret[str]) -> ControlPlane:
        return LoggedButler(opener(registration.butler_url, token), egress_log, registration.id)

    directory = PostgresDirectory(engine, keyring, trust_of(settings))
    every_s = settings.batch_interval_s
    exporter = Exporter(
        Ways(directory, PostgresOutbox(engine), open_butler),
        ExportRules(
            None if settings.export_tags == ALL_TAGS else frozenset(settings.export_tags), settings.managed_enabled
        ),
        ExportLimits(batch=settings.batch_max_size, every_s=every_s / 2),
        metrics.ExportMetrics(board),
    )
    syncer = open_syncer(settings, directory, open_butler, whole_sets(directory))
    tasks = [
        Task("export", every_s, exporter.run_once, exporter.finish),
        Task("sync", settings.work_tick_interval_s, syncer.run_once, syncer.finish),
    ]
    managed = open_managed(settings, directory, _butler_when_asked(settings, egress_log))
    if managed is not None:
        tasks.append(Task("managed", managed.every_s, managed.run_once))
    return Clockwork(tasks)


def whole_sets(book: TrustBook) -> dict[JobKind, WholeSet]:
    """What Butler sends whole, and who takes it."""
    from steward import egress, ingress
    from steward.sync import WholeSet

    def storage(registration: Registration, said: object) -> None:
        book.replace_storage_configs(registration, ingress.storage_configs(said))

    def keys(registration: Registration, said: object) -> None:
        book.replace_provider_keys(registration, ingress.provider_keys(said))

    return {
        "sync_cloud_storage": WholeSet(egress.StorageConfigs(), storage),
        "sync_provider_keys": WholeSet(egress.ProviderKeys(), keys),
    }


def open_syncer(
    settings: Settings, directory: Directory, open_butler: SyncsWith, sets: Mapping[JobKind, WholeSet]
) -> Syncer:
    """What pulls from Butler every WORK_TICK_INTERVAL. Connects to nothing yet.

    It has a connection of its own, which tells all processes which of them syncs what. `open_butler`: how a
    registration's Butler is spoken to; `sets`: what is pulled whole, and who takes it.
    """
    from steward.adapters.postgres_sync import PostgresTurns
    from steward.sync import Syncer, SyncLimits

    own, _ = open_database(settings)
    limits = SyncLimits(every_s=settings.work_tick_interval_s, work_items=settings.work_tick_limit)
    return Syncer(directory, PostgresTurns(own), open_butler, sets, limits)


def open_managed(settings: Settings, directory: Directory, open_butler: OpenButler) -> Managed | None:
    """What takes assigned organisations over every MANAGED_POLL_INTERVAL; None without MANAGED_ENABLED."""
    from steward.managed import Managed

    url, master = settings.managed_butler_url, settings.managed_master_token
    if not settings.managed_enabled or url is None or master is None:
        return None
    return Managed(directory, open_butler, url, master, settings.managed_poll_interval_s)


def open_quarantine(settings: Settings) -> Quarantine:
    """What was set aside, for the spool commands. Raises SettingError; a folder that is missing is not made."""
    from steward.adapters.spool_quarantine import Quarantine

    keyring = Keyring(settings.needed_encryption_key())
    if not settings.spool_dir.is_dir():
        raise SettingError("SPOOL_DIR: there is no such folder")
    return Quarantine(settings.spool_dir, keyring)


def open_reconcile(settings: Settings, undo: ExitStack) -> tuple[BodyBook, BodyStore, Kept]:
    """What reconcile compares; `undo` closes it. Connects to nothing yet. Raises SettingError."""
    from steward.adapters.postgres_body_book import PostgresBodyBook

    engine, _ = open_database(settings)
    undo.callback(engine.dispose)
    store = open_store(settings.body_store)
    if store is None:
        raise SettingError("BODY_STORE_URL: not set; there are no bodies to compare rows with")
    undo.callback(store.close)
    if not settings.spool_dir.is_dir():
        return PostgresBodyBook(engine), store, NothingKept()
    quarantine = open_quarantine(settings)
    undo.callback(quarantine.close)
    return PostgresBodyBook(engine), store, _SpoolKept(settings.spool_dir, quarantine)


class _SpoolKept:
    """See reconcile.Kept: of a spool that a settler may be working on."""

    def __init__(self, folder: Path, quarantine: Quarantine) -> None:
        self._folder = folder
        self._quarantine = quarantine

    def waiting(self) -> set[UUID]:
        from steward.adapters.spool_waiting import waiting

        return waiting(self._folder)

    def set_aside(self) -> set[UUID]:
        return {entry.id for entry in self._quarantine.entries()}

    def try_again(self, request_id: UUID) -> None:
        self._quarantine.retry(request_id)


def open_store(destination: Destination | None) -> BodyStore | None:
    """The adapter for a decided destination."""
    match destination:
        case None:
            return None
        case S3Destination():
            from steward.adapters.s3 import S3BodyStore

            return S3BodyStore(destination)
        case GcsDestination():
            from steward.adapters.gcs import GcsBodyStore

            return GcsBodyStore(destination)
        case FilesDestination():
            from steward.adapters.files import FilesBodyStore

            return FilesBodyStore(destination)


def build(settings: Settings, board: Board | None = None) -> Services:
    """Puts a relaying process together. Connects to nothing yet. Raises SettingError.

    `board`: where all processes of this Steward count; None: this one counts for itself.
    """
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_ledger import PostgresLedger

    engine, keyring = open_database(settings, relay_conns(settings))
    directory, ledger = PostgresDirectory(engine, keyring, trust_of(settings)), PostgresLedger(engine)
    authenticator = Authenticator(directory, KeyLimits(stale_ttl_s=settings.key_stale_ttl_s))
    health = Health()
    credential = _CredentialKey(directory, health)
    upstreams = _Upstreams(settings)
    board = board or metrics.prepare(None)
    if settings.after_response == "spool":
        after, clockwork = _spooled(settings, keyring), Clockwork(())
    else:
        kept = upkeep(settings, engine, keyring)
        after = _inline(settings, ledger, decided_stores(settings, directory), board, kept)
        clockwork = open_clockwork(settings, engine, keyring, board)

    def close() -> None:
        after.close()
        engine.dispose()
        board.close()

    return Services(
        settings=settings,
        directory=directory,
        ledger=ledger,
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
        ),
        upstreams=upstreams.all,
        health=health,
        board=board,
        organisations=_organisations(settings, directory, engine, keyring),
        held=lambda: Connections(upstreams.connections(), *_pooled(engine)),
        background=(authenticator.poll, credential.learn, *_watching(ledger, directory, health), *after.background),
        clockwork=clockwork,
        close=close,
    )


def _watching(
    ledger: Ledger, directory: PostgresDirectory, health: Health
) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
    """What keeps `/readyz` told."""
    return (
        partial(_watch_schema, ledger, health),
        partial(_watch_butlers, directory, health),
        partial(watch_pending, directory, health),
    )


def _organisations(settings: Settings, directory: PostgresDirectory, engine: Engine, keyring: Keyring) -> Organisations:
    """What `/admin/orgs` works on."""
    from steward.adapters.postgres_egress_log import PostgresEgressLog
    from steward.adapters.postgres_outbox import PostgresOutbox

    return Organisations(
        directory,
        _butler_when_asked(settings, PostgresEgressLog(engine, keyring)),
        AdminDoor(settings.steward_admin_token),
        settings.butler_urls_allow,
        counting(PostgresOutbox(engine), directory),
    )


def _pooled(engine: Engine) -> tuple[int, int]:
    """The pool's connections in use and idle."""
    from sqlalchemy.pool import QueuePool

    pool = engine.pool
    return (pool.checkedout(), pool.checkedin()) if isinstance(pool, QueuePool) else (0, 0)


@dataclass(frozen=True, slots=True)
class _After:
    """What takes calls over once they are relayed, and what else that needs."""

    port: AfterResponse
    spill: Spill | None = None
    prices: PriceFeed | None = None
    background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    close: Callable[[], None] = lambda: None


def decided_stores(settings: Settings, book: TrustBook) -> DecidedStores:
    """The stores that bodies go to. Raises SettingError; connects to nothing yet."""
    return DecidedStores(book, trust_of(settings), open_store(settings.body_store), open_decided)


def open_decided(destination: Destination) -> BodyStore:
    """The adapter of a place that policy decided on. Raises SettingError, ValueError; connects to nothing yet."""
    store = open_store(destination)
    assert store is not None
    return store


def upkeep(settings: Settings, engine: Engine, keyring: Keyring) -> Callable[[datetime], None]:
    """What the tables need from time to time: the ledger's partitions made, the egress log's oldest rows let go."""
    from steward.adapters.postgres_egress_log import PostgresEgressLog
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.egress_retention import Retention

    ledger = PostgresLedger(engine)
    retention = Retention(PostgresEgressLog(engine, keyring), settings.egress_log_retention_s)

    def done(now: datetime) -> None:
        ledger.maintain(now)
        retention.run(now)

    return done


def _inline(
    settings: Settings, ledger: PostgresLedger, stores: DecidedStores, board: Board, kept: Callable[[datetime], None]
) -> _After:
    """Settled in this process. `kept`: see upkeep."""
    from steward.adapters.inline import Inline, InlineLimits

    looking = Looking(stores)
    prices = open_prices(settings)
    settler = Settler(ledger, stores, lambda: prices.book, settings.capture == "full", metrics=CallMetrics(board))
    port = Inline(settler, ledger, InlineLimits(intent_wait_s=settings.after_response_budget_s))

    async def look() -> None:
        looking.start()

    def close() -> None:
        looking.end()
        prices.close()
        stores.close()

    return _After(port, None, prices, (look, partial(maintain, kept)), close)


def _spooled(settings: Settings, keyring: Keyring) -> _After:
    """Handed to the process that settles, by way of the disk."""
    from steward.adapters.spool import Spool, SpoolLimits

    limits = SpoolLimits(
        max_bytes=settings.spool_max_bytes // settings.workers,
        full=settings.spool_full,
        flush_interval_s=settings.spool_flush_interval_s,
        whole_bytes=settings.spool_max_bytes,
    )
    spool = Spool(settings.spool_dir, keyring, limits, _running_loop())
    return _After(spool, spill=spool.spill)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that will relay, where one runs already: not where services are only looked at."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@dataclass(frozen=True, slots=True)
class SettlerServices:
    """Everything the settling process runs on."""

    rounds: Rounds
    acquire: Callable[[], bool]
    """Whether this process is the one that settles the spool, from now to its end. Never waits."""
    maintain: Callable[[datetime], None]
    """See upkeep."""
    prices: PriceFeed
    looking: Looking
    """Keeps the stores as the directory has them, once it is started."""
    queue_metrics: QueueMetrics
    clockwork: Clockwork
    """What runs on a schedule."""
    close: Callable[[], None]


def build_settler(settings: Settings, board: Board | None = None) -> SettlerServices:
    """Puts a settling process together. Connects to nothing yet. Raises SettingError.

    `board`: as in `build`.
    """
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.adapters.spool_reader import SpoolReader

    engine, keyring = open_database(settings, settler_conns(settings))
    ledger = PostgresLedger(engine)
    stores = decided_stores(settings, PostgresDirectory(engine, keyring, trust_of(settings)))
    looking = Looking(stores)
    prices = open_prices(settings)
    board = board or metrics.prepare(None)
    counts = CallMetrics(board, CountedCalls(board.folder / "counted"))
    settler = Settler(ledger, stores, lambda: prices.book, settings.capture == "full", metrics=counts)
    spool = SpoolReader(settings.spool_dir, keyring)
    in_files = isinstance(settings.body_store, FilesDestination)
    at_once = AT_ONCE_FILES if in_files else AT_ONCE
    rounds = Rounds(spool, settler, ledger, RoundLimits(body_retry_s=settings.body_retry_for_s, at_once=at_once))
    clockwork = open_clockwork(settings, engine, keyring, board)

    def close() -> None:
        looking.end()
        rounds.close()
        spool.close()
        prices.close()
        stores.close()
        engine.dispose()
        board.close()

    return SettlerServices(
        rounds=rounds,
        acquire=spool.acquire,
        maintain=upkeep(settings, engine, keyring),
        prices=prices,
        looking=looking,
        queue_metrics=QueueMetrics(board, settings.spool_max_bytes),
        clockwork=clockwork,
        close=close,
    )


@dataclass(frozen=True, slots=True)
class ViewerServices:
    """Everything the viewer's process runs on."""

    viewing: Viewing
    provider: IdentityProvider | None
    looking: Looking
    """Follows where bodies lie, once it is started."""
    close: Callable[[], None]


def build_viewer(settings: Settings, board: Board | None = None) -> ViewerServices:
    """Puts a viewer together. Connects to nothing yet. Raises SettingError. `board`: as in `build`."""
    from steward.adapters.postgres_directory import PostgresDirectory
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.adapters.postgres_view_book import PostgresViewBook

    engine, keyring = open_database(settings, viewer_conns(settings))
    directory = PostgresDirectory(engine, keyring, trust_of(settings))
    stores = decided_stores(settings, directory)
    looking = Looking(stores)
    provider = _identity_provider(settings)
    board = board or metrics.prepare(None)

    def close() -> None:
        if provider is not None:
            provider.close()
        looking.end()
        stores.close()
        engine.dispose()
        board.close()

    viewing = Viewing(
        PostgresViewBook(engine, metrics.ViewMetrics(board).noted),
        PostgresLedger(engine),
        lambda row: stores.holding(row.org_id, row.storage_config_id),
        settings.view_oidc_groups,
        lambda: [each.butler_url for each in directory.registrations() if each.deregistered_at is None],
    )
    return ViewerServices(viewing, provider, looking, close)


def _identity_provider(settings: Settings) -> IdentityProvider | None:
    """None where people sign in by token."""
    if settings.view_auth != "oidc":
        return None
    from steward.adapters.oidc import OidcClient, OidcProvider

    callback = f"{settings.view_url}{CALLBACK_PATH}"
    issuer = settings.view_oidc_issuer or ""
    client = OidcClient(issuer, settings.view_oidc_client_id or "", settings.view_oidc_client_secret, callback)
    return OidcProvider(client, _tls(settings), _proxy_towards(issuer, settings))


def open_prices(settings: Settings) -> PriceFeed:
    """The price book and what keeps it fresh."""
    from steward.adapters.price_feed import PriceFeed

    return PriceFeed(settings.pricing_remote_url, price_book(settings))


def _aliases(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return read_aliases(path.read_bytes())
    except OSError:
        raise SettingError("PRICING_ALIASES_FILE: the file cannot be read") from None


class _CredentialKey:
    """The sealed secret under which provider credentials are hashed; learnt once the database answers."""

    def __init__(self, directory: Directory, health: Health) -> None:
        self._directory = directory
        self._health = health
        self._hash: KeyedHash | None = None

    def get(self) -> KeyedHash:
        """Raises KeyCheckUnavailable before the first answer of the database."""
        if self._hash is None:
            raise KeyCheckUnavailable
        return self._hash

    async def learn(self) -> None:
        """Asks until it is told."""
        while self._hash is None:
            try:
                key = await asyncio.to_thread(self._directory.instance_secret, "provider_key_hash")
                self._hash = KeyedHash(key)
                self._health.wrong_key = False
                self._health.secrets_learnt = True
            except LedgerFault:
                await asyncio.sleep(_WAIT_FOR_DATABASE_S)
            except SealBroken as exc:
                if not self._health.wrong_key:
                    log.error("encryption_key_wrong", exc)
                self._health.wrong_key = True
                await asyncio.sleep(_WAIT_FOR_DATABASE_S)


class _Upstreams:
    """The pool, and the way through the egress proxy when the settings name one."""

    def __init__(self, settings: Settings) -> None:
        limits = PoolLimits(
            connect_timeout_s=settings.connect_timeout_s,
            header_timeout_s=settings.stream_header_timeout_s,
            silence_timeout_s=settings.upstream_timeout_s,
            max_conns=settings.upstream_max_conns,
        )
        tls = _tls(settings)
        self._pool = Pool(limits, tls)
        self._proxied: HttpxUpstream | None = None
        self._through: frozenset[Origin] = frozenset()
        if settings.https_proxy is not None:
            from steward.adapters.httpx_upstream import HttpxUpstream, goes_through_proxy

            self._proxied = HttpxUpstream(limits, settings.https_proxy, tls)
            no_proxy = ",".join(settings.no_proxy)
            self._through = frozenset(o for o in settings.origins.values() if goes_through_proxy(o, True, no_proxy))

    def connections(self) -> int:
        """How many are open to providers."""
        return self._pool.connections() + (0 if self._proxied is None else self._proxied.connections())

    @property
    def all(self) -> tuple[Upstream, ...]:
        """What must be closed."""
        return (self._pool,) if self._proxied is None else (self._pool, self._proxied)

    def of(self, origin: Origin) -> Upstream:
        """The way to this origin."""
        return self._proxied if self._proxied is not None and origin in self._through else self._pool


def _tls(settings: Settings) -> SSLContext:
    try:
        return tls_context(str(settings.ssl_cert_file) if settings.ssl_cert_file else None)
    except OSError:
        raise SettingError("SSL_CERT_FILE: the file holds no certificate that can be read") from None


def check(settings: Settings) -> None:
    """What `build` would refuse, without building: for a parent whose children build. Raises SettingError."""
    settings.needed_encryption_key()
    price_book(settings)
    _butler_tls(settings)
    _tls(settings)
    store = open_store(settings.body_store)
    if store is not None:
        store.close()


async def _watch_schema(ledger: Ledger, health: Health) -> None:
    """Looks until the schema is new enough; says once what to run."""
    while True:
        try:
            await asyncio.to_thread(ledger.ready)
        except SchemaTooOld as exc:
            if not health.schema_too_old:
                log.error("schema_too_old", exc)
            health.schema_too_old = True
        except LedgerFault:
            pass  # the key poll says it; readiness follows the poll
        else:
            health.schema_too_old = False
            health.schema_looked_at = True
            return
        await asyncio.sleep(_WAIT_FOR_DATABASE_S)


async def _watch_butlers(directory: Directory, health: Health) -> None:
    """Whose Butler was heard when, for operators."""
    while True:
        try:
            known = await asyncio.to_thread(directory.registrations)
            health.butlers = tuple(each for each in known if each.deregistered_at is None)
        except LedgerFault:
            pass  # the key poll says it
        await asyncio.sleep(_BUTLERS_EVERY_S)


async def watch_pending(book: TrustBook, health: Health, every_s: float = _PENDING_EVERY_S) -> None:
    """Counts what waits for a person inside, anew when anything changed; in a twentieth of the time at most."""
    mark: str | None = None
    while True:
        spent_s = 0.0
        try:
            seen = await asyncio.to_thread(book.storage_mark)
            if seen != mark:
                health.approvals_pending, spent_s = await asyncio.to_thread(_approvable, book)
                mark = seen
        except LedgerFault:
            pass  # the key poll says it
        await asyncio.sleep(max(every_s, 20 * spent_s))


def _approvable(book: TrustBook) -> tuple[int, float]:
    """How many wait, and for how many seconds it kept the processor from calls to count them."""
    began = time.thread_time()
    waiting = sum(each.approvable for each in book.pending_approvals())
    return waiting, time.thread_time() - began


async def maintain(maintain: Callable[[datetime], None]) -> None:
    """Keeps next month's partition made ahead, and the egress log as long as it is to be."""
    while True:
        try:
            await asyncio.to_thread(maintain, datetime.now(UTC))
        except LedgerFault as exc:
            log.error("maintenance_failed", exc)
            await asyncio.sleep(MAINTENANCE_RETRY_S)
        else:
            await asyncio.sleep(MAINTENANCE_S)


def price_book(settings: Settings) -> PriceBook:
    """The bundled prices with the aliases, for commands that price without a feed."""
    return bundled(_aliases(settings.pricing_aliases_file))
