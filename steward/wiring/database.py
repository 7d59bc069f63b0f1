"""The database: its engine and keyring, the directory on it, and how many connections each process may have.

It connects to nothing: the first statement does.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from steward.policy import Local
from steward.seal import Keyring
from steward.settings import Settings
from steward.words import Secret, SignIn

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.postgres_directory import PostgresDirectory

CONNS_A_RELAY = 2
"""One for the rows, one for the keys: with a single one, a slow batch would turn key look-ups into 503."""
CONNS_FOR_TURNS = 1
"""What tells all processes which of them syncs an organisation; taken once one is registered."""
CONNS_A_VIEWER = 2


def preload() -> None:
    """What every process of a Steward needs of the database's library, for a parent before it forks: imported once, in
    memory that all of them share (measured: of 51 MB that each worker had to itself, 20 are left).
    """
    from sqlalchemy.dialects.postgresql import pg8000  # noqa: F401

    from steward.adapters import postgres_directory, postgres_ledger  # noqa: F401

    gc.collect()
    gc.freeze()  # who looks through all objects would write to them, and have them copied


def open_database(settings: Settings, most_conns: int = 1) -> tuple[Engine, Keyring]:
    """The engine and the keyring, for the services and for the commands. Raises SettingError without a key."""
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
        sign_in=_sign_in(settings),
    )
    return open_engine(address), keyring


def _sign_in(settings: Settings) -> SignIn | None:
    """What signs in in the password's place, where something does. Raises SettingError without AWS's SDK."""
    if not settings.postgres_iam_auth:
        return settings.postgres_sign_in
    from steward.adapters.rds_token import RdsToken

    return RdsToken(settings.postgres_host, settings.postgres_port, settings.postgres_user)


def directory_on(settings: Settings, engine: Engine, keyring: Keyring) -> PostgresDirectory:
    """The directory. It knows what the settings say of trust: one that did not would pin what nobody allowed."""
    from steward.adapters.postgres_directory import PostgresDirectory

    return PostgresDirectory(engine, keyring, trust_of(settings))


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


def trust_of(settings: Settings) -> Local:
    """What the settings say of what Butler wants."""
    return Local(settings.body_store_allow, settings.trust_window_s, settings.managed_enabled)


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


def pooled(engine: Engine) -> tuple[int, int]:
    """The pool's connections in use and idle."""
    from sqlalchemy.pool import QueuePool

    pool = engine.pool
    return (pool.checkedout(), pool.checkedin()) if isinstance(pool, QueuePool) else (0, 0)
