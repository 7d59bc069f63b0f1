"""Brings a database to this release's schema: `migrate` for the Steward's, `migrate_butler` for Butler's own.

Refuses to run at a cold start, to run twice at once, and to leave anything half done: one lock, one transaction.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from steward.adapters.postgres_connection import mapped, patient
from steward.adapters.postgres_directory import INSTANCE_SECRET, instance_facts
from steward.adapters.postgres_partitions import ensure_partitions
from steward.seal import Keyring, Purpose

LOCK: Final = 0x5354_5744_0001
"""Advisory lock: one migration at a time."""

VERSION_TABLE: Final = "steward_schema"
BUTLER_LOCK: Final = 0x5354_5744_0101
BUTLER_SCHEMA: Final = "butler"
BUTLER_VERSION_TABLE: Final = "butler_schema"
BUTLER_SECRETS: Final = ("key_check",)
"""Sealed at the first migrate, opened at every later one: another BUTLER_ENCRYPTION_KEY is told then."""

SECRETS: Final = ("provider_key_hash",)
"""Random secrets of an installation, made once and kept sealed."""

_BUTLER_SECRET: Final = text("SELECT sealed FROM butler.installation WHERE name = :name")
_ADD_BUTLER_SECRET: Final = text("INSERT INTO butler.installation (name, sealed) VALUES (:name, :sealed)")
_ADD_SECRET: Final = text("INSERT INTO instance_secrets (name, sealed) VALUES (:name, :sealed)")


@dataclass(frozen=True, slots=True)
class MigrateResult:
    """The schema's version before (None: there was none) and after."""

    before: str | None
    after: str


def migrate(engine: Engine, keyring: Keyring) -> MigrateResult:
    """Applies what is missing; again, it changes nothing. A schema newer than this release is left as it is.

    Waits for another migration to end. Raises SealBroken when the database was made under another ENCRYPTION_KEY,
    LedgerUnavailable when it cannot be reached or refuses; then nothing was changed.
    """
    with mapped(), engine.connect() as connection, patient(connection), connection.begin():
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        before = _version(connection)
        config = _config(connection)
        head = ScriptDirectory.from_config(config).get_current_head() or ""
        if before is not None and before > head:
            return MigrateResult(before, before)
        command.upgrade(config, "head")
        _ensure_secrets(connection, keyring)
        ensure_partitions(connection, connection.execute(text("SELECT clock_timestamp()")).scalar_one())
        return MigrateResult(before, head)


def migrate_butler(engine: Engine, keyring: Keyring) -> MigrateResult:
    """The same for Butler's own schema, with Butler's own key; the Steward's tables are not looked at."""
    with mapped(), engine.connect() as connection, patient(connection), connection.begin():
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({BUTLER_LOCK})"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {BUTLER_SCHEMA}"))
        before = _version(connection, BUTLER_VERSION_TABLE, BUTLER_SCHEMA)
        config = _config(connection, "butler", BUTLER_VERSION_TABLE, BUTLER_SCHEMA)
        head = ScriptDirectory.from_config(config).get_current_head() or ""
        if before is not None and before > head:
            return MigrateResult(before, before)
        command.upgrade(config, "head")
        _ensure_butler_secrets(connection, keyring)
        return MigrateResult(before, head)


def _version(connection: Connection, table: str = VERSION_TABLE, schema: str | None = None) -> str | None:
    options = {"version_table": table, "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _config(
    connection: Connection, line: str = "steward", table: str = VERSION_TABLE, schema: str | None = None
) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / line).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = table
    config.attributes["version_table_schema"] = schema
    return config


def _ensure_butler_secrets(connection: Connection, keyring: Keyring) -> None:
    for name in BUTLER_SECRETS:
        sealed = connection.execute(_BUTLER_SECRET, {"name": name}).scalar_one_or_none()
        if sealed is None:
            made = keyring.seal(Purpose.BUTLER, secrets.token_bytes(32), instance_facts(name))
            connection.execute(_ADD_BUTLER_SECRET, {"name": name, "sealed": made})
        else:
            keyring.open(Purpose.BUTLER, bytes(sealed), instance_facts(name))


def _ensure_secrets(connection: Connection, keyring: Keyring) -> None:
    """Makes those that are missing, and opens those that are there: a wrong key is told now, not at the first call."""
    for name in SECRETS:
        sealed = connection.execute(text(INSTANCE_SECRET), {"name": name}).scalar_one_or_none()
        if sealed is None:
            made = keyring.seal(Purpose.SECRETS, secrets.token_bytes(32), instance_facts(name))
            connection.execute(_ADD_SECRET, {"name": name, "sealed": made})
        else:
            keyring.open(Purpose.SECRETS, bytes(sealed), instance_facts(name))
