"""The ledger's monthly partitions: made ahead, found by the time that every UUIDv7 carries.

Refuses to hold up the calls being written: it gives up on a lock after some seconds and is tried again later, and
until a month has its partition its rows are safe in the default one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection

LOCK: Final = 0x5354_5744_0002
"""Advisory lock: one maker of partitions at a time."""

LOCK_TIMEOUT: Final = "2s"

_EXISTING: Final = text("""
    SELECT c.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = CAST('llm_requests' AS regclass)
""")


def ensure_partitions(connection: Connection, now: datetime) -> list[str]:
    """Makes the partitions of this month and the next where they are missing, in the connection's transaction.

    Rows of theirs that wait in the default partition are moved. The names of those made are returned.
    """
    months = (_month(now, 0), _month(now, 1), _month(now, 2))
    wanted = {f"llm_requests_{start:%Y_%m}": (start, end) for start, end in pairwise(months)}
    if not wanted.keys() - _existing(connection):
        return []
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    missing = [name for name in wanted if name not in _existing(connection)]
    for name in missing:
        _make(connection, name, *wanted[name])
    return missing


def _existing(connection: Connection) -> set[str]:
    return set(connection.execute(_EXISTING).scalars())


def _make(connection: Connection, name: str, start: datetime, end: datetime) -> None:
    """Made apart and then attached: calls are written meanwhile, but for the moment of the exchange."""
    low, high = _first_id(start), _first_id(end)
    connection.execute(text(f"CREATE TABLE {name} (LIKE llm_requests INCLUDING ALL)"))
    connection.execute(text("LOCK TABLE llm_requests IN SHARE UPDATE EXCLUSIVE MODE"))
    connection.execute(text("LOCK TABLE llm_requests_default IN ACCESS EXCLUSIVE MODE"))
    columns = ", ".join(_stored_columns(connection))
    connection.execute(
        text(f"""
            WITH moved AS (
                DELETE FROM llm_requests_default WHERE id >= '{low}' AND id < '{high}' RETURNING {columns}
            )
            INSERT INTO {name} ({columns}) SELECT {columns} FROM moved
        """)  # noqa: S608 - names from the catalogue, ids from the calendar
    )
    connection.execute(
        text(f"ALTER TABLE llm_requests ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
    )


def _stored_columns(connection: Connection) -> list[str]:
    """All columns that are not computed."""
    query = text("""
        SELECT quote_ident(attname) FROM pg_catalog.pg_attribute
        WHERE attrelid = CAST('llm_requests' AS regclass) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
        ORDER BY attnum
    """)
    return list(connection.execute(query).scalars())


def _month(now: datetime, ahead: int) -> datetime:
    """The first moment of the month that lies `ahead` of now's, UTC."""
    now = now.astimezone(UTC)
    index = now.year * 12 + now.month - 1 + ahead
    return datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC)


def _first_id(moment: datetime) -> UUID:
    """The smallest id whose 48 bits of time are this moment's milliseconds or later."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
