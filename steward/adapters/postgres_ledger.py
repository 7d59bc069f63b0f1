"""The ledger in PostgreSQL: one row a call, written in batches that cross the driver as one JSON parameter.

Refuses to lose a batch for one bad row, to let a row go back, and to touch a row of another organisation.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Engine, Row

from steward.adapters.postgres_connection import RowsRefused, mapped
from steward.adapters.postgres_partitions import ensure_partitions
from steward.errors import SchemaTooOld
from steward.exchange import BodyState, ErrorCode, Outcome, Record, UsageSource
from steward.ports import Ledger, LedgerRow, Refused

SCHEMA_VERSION: Final = "0008"
"""The oldest schema this release works with. Versions are numbered in order; a newer one keeps what this one uses."""

COLUMNS: Final = {
    "id": "uuid",
    "org_id": "uuid",
    "api_key_id": "uuid",
    "provider": "text",
    "request_path": "text",
    "request_method": "text",
    "requested_at": "timestamptz",
    "outcome": "text",
    "body_state": "text",
    "usage_source": "text",
    "user_id": "uuid",
    "registration_id": "uuid",
    "provider_api_key_hash": "text",
    "provider_api_key_alias": "text",
    "model": "text",
    "original_model": "text",
    "responded_at": "timestamptz",
    "response_time_ms": "bigint",
    "ttft_ms": "bigint",
    "sent_us": "bigint",
    "head_us": "bigint",
    "first_byte_us": "bigint",
    "last_byte_us": "bigint",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_tokens": "bigint",
    "cache_creation_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "input_cost": "numeric",
    "output_cost": "numeric",
    "total_cost": "numeric",
    "provider_cost": "numeric",
    "price_source": "text",
    "model_alias_found": "boolean",
    "service_tier": "text",
    "streamed": "boolean",
    "status_code": "integer",
    "error_message": "text",
    "tags": "jsonb",
    "tags_dropped": "integer",
    "client": "text",
    "claude_session_id": "text",
    "claude_session_name": "text",
    "request_bytes": "bigint",
    "response_bytes": "bigint",
    "truncated": "boolean",
    "body_key": "text",
    "body_url": "text",
    "body_sha256": "text",
    "body_bytes": "bigint",
    "storage_config_id": "uuid",
}
"""Every field of a Record, in its order, and the column's type."""

_FIXED: Final = ("id", "org_id", "api_key_id", "requested_at")
_NAMES: Final = ", ".join(COLUMNS)

UPSERT: Final = f"""
    INSERT INTO llm_requests AS t ({_NAMES})
    SELECT {", ".join(f"b.{name}" for name in COLUMNS)}
    FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())})
    ON CONFLICT (id) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in _FIXED)},
        revision = t.revision + 1
    WHERE t.org_id = excluded.org_id
        AND excluded.outcome_rank >= t.outcome_rank
        AND excluded.body_rank >= t.body_rank
        AND ((excluded.outcome_rank, excluded.body_rank) <> (t.outcome_rank, t.body_rank)
            OR (t.outcome_rank = 0 AND t.status_code IS NULL AND excluded.status_code IS NOT NULL))
"""
"""Record.supersedes in SQL. Run twice or out of order, it changes nothing; what has gone further stays."""

GET: Final = f"SELECT {_NAMES}, revision FROM llm_requests WHERE org_id = :org_id AND id = :id"

NEWEST: Final = f"""
    SELECT {_NAMES}, revision FROM llm_requests WHERE org_id = :org_id ORDER BY id DESC LIMIT :limit
"""
"""Ids carry the time of admission: their order is the calls'."""

KNOWN: Final = """
    SELECT id FROM llm_requests
    WHERE org_id = :org_id AND id BETWEEN :first AND :last
        AND id IN (SELECT CAST(e AS uuid) FROM jsonb_array_elements_text(CAST(:calls AS jsonb)) AS e)
"""
"""The bounds keep it to the partitions of these calls."""

SCHEMA: Final = "SELECT version_num FROM steward_schema"

_UPSERT, _GET, _NEWEST, _SCHEMA = text(UPSERT), text(GET), text(NEWEST), text(SCHEMA)
_KNOWN = text(KNOWN)
_UNENCODABLE: Final = "22023"
"""Said of a row that is not even JSON: a lone surrogate, a number over 64 bits."""


class PostgresLedger(Ledger):
    """Rows in the table `llm_requests`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        refused: list[Refused] = []
        waiting = [_once_each(batch)] if batch else []
        while waiting:
            records = waiting.pop()
            try:
                self._upsert(records)
            except RowsRefused as fault:
                if len(records) == 1:
                    refused.append(Refused(records[0].id, fault.sqlstate))
                else:
                    middle = len(records) // 2
                    waiting += [records[middle:], records[:middle]]
        return refused

    def known(self, org_id: UUID, calls: Sequence[UUID]) -> set[UUID]:
        if not calls:
            return set()
        asked = {"org_id": org_id, "first": min(calls), "last": max(calls), "calls": orjson.dumps(calls).decode()}
        with mapped(), self._engine.begin() as connection:
            return set(connection.execute(_KNOWN, asked).scalars())

    def get(self, org_id: UUID, request_id: UUID) -> LedgerRow | None:
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_GET, {"org_id": org_id, "id": request_id}).one_or_none()
        return None if row is None else ledger_row(row)

    def newest(self, org_id: UUID, limit: int) -> list[LedgerRow]:
        with mapped(), self._engine.begin() as connection:
            rows = connection.execute(_NEWEST, {"org_id": org_id, "limit": limit}).all()
        return [ledger_row(row) for row in rows]

    def ready(self) -> None:
        with mapped(), self._engine.begin() as connection:
            version = connection.execute(_SCHEMA).scalar_one_or_none()
        if version is None or version < SCHEMA_VERSION:
            raise SchemaTooOld

    def maintain(self, now: datetime) -> None:
        """Makes this month's and next month's partition when they are not there; a look when they are.

        Call it once a day. Raises LedgerUnavailable, SchemaTooOld; rows of a month without one are in the default
        partition meanwhile, and are moved when theirs is made.
        """
        with mapped(), self._engine.begin() as connection:
            ensure_partitions(connection, now)

    def _upsert(self, records: Sequence[Record]) -> None:
        batch = _encoded(records)
        with mapped(), self._engine.begin() as connection:
            connection.execute(_UPSERT, {"batch": batch})


def _once_each(batch: Sequence[Record]) -> list[Record]:
    """One record an id, the one that the ledger would end with; in id order, so that two writers never deadlock."""
    kept: dict[int, Record] = {}  # by number: comparing and hashing a UUID costs more than writing its row
    for record in batch:
        number = record.id.int
        earlier = kept.get(number)
        if earlier is None or record.supersedes(earlier):
            kept[number] = record
    return [kept[number] for number in sorted(kept)]


def _encoded(records: Sequence[Record]) -> str:
    """The batch as one JSON array of objects named by column. Raises RowsRefused."""
    try:
        return orjson.dumps(records, default=_plain).decode()
    except orjson.JSONEncodeError:
        raise RowsRefused(_UNENCODABLE) from None


def _plain(value: object) -> object:
    """What orjson does not know: money goes as text, which the server reads exactly."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def ledger_row(row: Row[Any]) -> LedgerRow:
    """A row of `COLUMNS` and the revision."""
    values = dict(row._mapping)
    revision = values.pop("revision")
    error = values.pop("error_message")
    record = Record(
        outcome=Outcome(values.pop("outcome")),
        body_state=BodyState(values.pop("body_state")),
        usage_source=UsageSource(values.pop("usage_source")),
        error_message=None if error is None else ErrorCode(error),
        **values,
    )
    return LedgerRow(record, revision)
