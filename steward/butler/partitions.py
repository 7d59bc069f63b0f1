"""Monthly partitions of the records and of their tag index, made when the first call of a month comes, or ahead.

Refuses months out of reason: a clock that is years wrong fills the default partition, not the catalogue.
"""
# ruff: noqa: S608 - names from the calendar

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from steward.butler.database import Database

LOCK: Final = 0x5354_5744_0102
"""Advisory lock: one maker of partitions at a time."""

TABLES: Final = ("requests", "request_tags")
OLDEST: Final = timedelta(days=3 * 366)
AHEAD: Final = timedelta(days=40)

_EXISTING: Final = text("""
    SELECT c.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN (CAST('butler.requests' AS regclass), CAST('butler.request_tags' AS regclass))
""")


def ensure_month(database: Database, month: tuple[int, int], now: datetime) -> bool:
    """Makes the month's partitions where they are missing. False: they are there, or the month is out of reason."""
    start = datetime(*month, 1, tzinfo=UTC)
    if not now - OLDEST <= start <= now + AHEAD:
        return False
    wanted = {f"{table}_{start:%Y_%m}" for table in TABLES}
    if wanted <= {row.relname for row in database.rows(_EXISTING)}:
        return False
    with database.change() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        existing = set(connection.execute(_EXISTING).scalars())
        for table in TABLES:
            if f"{table}_{start:%Y_%m}" not in existing:
                _make(connection, table, start)
    return True


def _make(connection: Connection, table: str, start: datetime) -> None:
    """Made apart and then attached: calls are read and written meanwhile. Rows that wait in the default are moved."""
    name, parent = f"butler.{table}_{start:%Y_%m}", f"butler.{table}"
    low, high = start.isoformat(), _next(start).isoformat()
    connection.execute(
        text(f"CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)")
    )
    connection.execute(text(f"LOCK TABLE {parent} IN SHARE UPDATE EXCLUSIVE MODE"))
    connection.execute(text(f"LOCK TABLE {parent}_default IN ACCESS EXCLUSIVE MODE"))
    columns = ", ".join(_stored_columns(connection, parent))
    connection.execute(
        text(f"""
            WITH moved AS (
                DELETE FROM {parent}_default WHERE requested_at >= '{low}' AND requested_at < '{high}'
                RETURNING {columns}
            )
            INSERT INTO {name} ({columns}) SELECT {columns} FROM moved
        """)
    )
    connection.execute(text(f"ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"))


def _stored_columns(connection: Connection, table: str) -> list[str]:
    """All columns that are not computed."""
    query = text("""
        SELECT quote_ident(attname) FROM pg_catalog.pg_attribute
        WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
        ORDER BY attnum
    """)
    return list(connection.execute(query, {"table": table}).scalars())


def _next(start: datetime) -> datetime:
    return datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
