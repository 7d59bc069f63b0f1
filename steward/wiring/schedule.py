"""What is done again and again beside the settling: the export, the sync and managed mode, each made by itself.

It keeps no time: a clockwork's threads do, or whoever calls `run_once` himself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steward.clockwork import Clockwork, Task
from steward.metric_files import Board
from steward.metrics import ExportMetrics
from steward.ports import Directory, Outbox, Registration, Turns
from steward.registering import OpenButler
from steward.seal import Keyring
from steward.settings import Settings
from steward.trust_book import TrustBook
from steward.values import ALL_TAGS
from steward.wiring.butlers import butlers_when_asked, registered_butlers
from steward.wiring.database import directory_on, open_database

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.export import Exporter
    from steward.export import OpenButler as ExportsTo
    from steward.ingress import JobKind
    from steward.managed import Managed
    from steward.sync import OpenButler as SyncsWith
    from steward.sync import Syncer, WholeSet


def open_clockwork(settings: Settings, engine: Engine, keyring: Keyring, board: Board) -> Clockwork:
    """What runs on a schedule, beside the settling. Connects to nothing yet. Raises SettingError.

    It imports the models of `egress.py`, which who relays and spools never needs.
    """
    from steward.adapters.postgres_egress_log import PostgresEgressLog
    from steward.adapters.postgres_outbox import PostgresOutbox

    egress_log = PostgresEgressLog(engine, keyring)
    open_butler = registered_butlers(settings, egress_log)
    directory = directory_on(settings, engine, keyring)
    exporter = open_exporter(settings, directory, PostgresOutbox(engine), open_butler, board)
    syncer = open_syncer(settings, directory, open_turns(settings), open_butler, whole_sets(directory))
    tasks = [
        Task("export", settings.batch_interval_s, exporter.run_once, exporter.finish),
        Task("sync", settings.work_tick_interval_s, syncer.run_once, syncer.finish),
    ]
    managed = open_managed(settings, directory, butlers_when_asked(settings, egress_log))
    if managed is not None:
        tasks.append(Task("managed", managed.every_s, managed.run_once))
    return Clockwork(tasks)


def open_exporter(
    settings: Settings, directory: Directory, outbox: Outbox, open_butler: ExportsTo, board: Board
) -> Exporter:
    """What tells Butler of rows every BATCH_INTERVAL. Connects to nothing yet.

    `open_butler`: how a registration's Butler is spoken to; `board`: where it counts.
    """
    from steward.export import Exporter, ExportLimits, Ways
    from steward.export_record import ExportRules

    tags = None if settings.export_tags == ALL_TAGS else frozenset(settings.export_tags)
    return Exporter(
        Ways(directory, outbox, open_butler),
        ExportRules(tags, settings.managed_enabled),
        ExportLimits(batch=settings.batch_max_size, every_s=settings.batch_interval_s / 2),
        ExportMetrics(board),
    )


def open_turns(settings: Settings) -> Turns:
    """What tells all processes which of them syncs what, by a connection of its own. Connects to nothing yet."""
    from steward.adapters.postgres_sync import PostgresTurns

    own, _ = open_database(settings)
    return PostgresTurns(own)


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
    settings: Settings, directory: Directory, turns: Turns, open_butler: SyncsWith, sets: Mapping[JobKind, WholeSet]
) -> Syncer:
    """What pulls from Butler every WORK_TICK_INTERVAL, and closes `turns` in the end. Connects to nothing yet.

    `open_butler`: how a registration's Butler is spoken to; `sets`: what is pulled whole, and who takes it.
    """
    from steward.sync import Syncer, SyncLimits

    limits = SyncLimits(every_s=settings.work_tick_interval_s, work_items=settings.work_tick_limit)
    return Syncer(directory, turns, open_butler, sets, limits)


def open_managed(settings: Settings, directory: Directory, open_butler: OpenButler) -> Managed | None:
    """What takes assigned organisations over every MANAGED_POLL_INTERVAL; None without MANAGED_ENABLED."""
    from steward.managed import Managed

    url, master = settings.managed_butler_url, settings.managed_master_token
    if not settings.managed_enabled or url is None or master is None:
        return None
    return Managed(directory, open_butler, url, master, settings.managed_poll_interval_s)
