"""The ledger's rows that Butler has not yet: claimed, marked, set aside and released in single statements.

Refuses rows of a registration that is no more, and to send calls of keys made inside anywhere but to the only one.
Every statement names the organisation, but for two of a person inside, who means all (`LOWER`, `RESEND`).
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from steward.adapters.postgres_connection import mapped
from steward.adapters.postgres_ledger import COLUMNS, ledger_row
from steward.exchange import LOCAL_ORG
from steward.ports import Lane, LedgerRow, Outbox, SetAside, Waiting

_DUE: Final = "revision > exported_revision AND export_state IS DISTINCT FROM 'local'"
"""Word by word the predicate of the index `llm_requests_export`."""

_ALIVE: Final = "id = :registration_id AND deregistered_at IS NULL"
_SOLE: Final = "(SELECT count(1) FROM registrations WHERE deregistered_at IS NULL) = 1"

_OWN: Final = f"""
    registration_id = :registration_id AND org_id = :org_id AND {_DUE}
    AND EXISTS (SELECT FROM registrations WHERE {_ALIVE})
"""
_LOCAL: Final = f"""
    registration_id IS NULL AND org_id = :org_id AND {_DUE} AND {_SOLE}
    AND id >= (SELECT local_from FROM registrations WHERE {_ALIVE})
"""


def _claim(whose: str) -> str:
    free = f"SELECT id FROM llm_requests WHERE {whose} AND (claimed_until IS NULL OR claimed_until < clock_timestamp())"
    return f"""
        WITH newest AS ({free} ORDER BY registration_id DESC, id DESC LIMIT :newest FOR UPDATE SKIP LOCKED),
        oldest AS ({free} ORDER BY registration_id, id LIMIT :oldest FOR UPDATE SKIP LOCKED),
        free AS (SELECT id FROM newest UNION SELECT id FROM oldest)
        UPDATE llm_requests AS t
        SET claimed_until = clock_timestamp() + make_interval(secs => CAST(:lease_s AS double precision))
        FROM free WHERE t.id = free.id AND t.org_id = :org_id
        RETURNING {", ".join(f"t.{name}" for name in COLUMNS)}, t.revision
    """


CLAIM: Final = _claim(_OWN)
CLAIM_LOCAL: Final = _claim(_LOCAL)


def _waiting(whose: str) -> str:
    return f"""
        SELECT count(1) AS rows, min(CAST(id AS text)) AS oldest, extract(epoch FROM clock_timestamp()) AS now_s
        FROM (SELECT id FROM llm_requests WHERE {whose} ORDER BY registration_id, id LIMIT :most) AS due
    """


WAITING: Final = _waiting(_OWN)
WAITING_LOCAL: Final = _waiting(_LOCAL)

MARK: Final = """
    UPDATE llm_requests AS t SET
        exported_revision = greatest(t.exported_revision, b.revision),
        claimed_until = NULL,
        export_state = CASE WHEN b.revision >= t.exported_revision THEN NULLIF(t.export_state, 'set_aside')
            ELSE t.export_state END,
        export_code = CASE WHEN b.revision >= t.exported_revision THEN NULL ELSE t.export_code END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS b(id uuid, revision bigint)
    WHERE t.id = b.id AND t.org_id = :org_id
"""

SET_ASIDE: Final = """
    UPDATE llm_requests AS t SET
        exported_revision = greatest(t.exported_revision, b.revision),
        claimed_until = NULL, export_state = 'set_aside', export_code = b.code
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS b(id uuid, revision bigint, code text)
    WHERE t.id = b.id AND t.org_id = :org_id AND b.revision > t.exported_revision
        AND t.export_state IS DISTINCT FROM 'local'
"""
"""The revision counts as dealt with: a later one is due again, whichever release writes it."""

RELEASE: Final = """
    UPDATE llm_requests SET claimed_until = NULL
    WHERE id IN (SELECT CAST(value AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
        AND org_id = :org_id
"""

KEEP_LOCAL: Final = f"""
    WITH free AS (
        SELECT id FROM llm_requests
        WHERE registration_id IS NULL AND org_id = :org_id AND {_DUE} AND id < coalesce(
            (SELECT local_from FROM registrations WHERE deregistered_at IS NULL AND NOT :managed AND {_SOLE}),
            'ffffffff-ffff-ffff-ffff-ffffffffffff'
        )
        ORDER BY registration_id, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE llm_requests AS t SET export_state = 'local', export_code = NULL, claimed_until = NULL
    FROM free WHERE t.id = free.id AND t.org_id = :org_id
"""

LOWER: Final = f"""
    UPDATE registrations SET local_from = least(local_from, :first) WHERE deregistered_at IS NULL AND {_SOLE}
    RETURNING id
"""

BACKFILL: Final = """
    WITH old AS (
        SELECT id FROM llm_requests
        WHERE id >= :first AND org_id = :org_id AND registration_id IS NULL AND export_state = 'local'
        ORDER BY id LIMIT :limit FOR UPDATE
    )
    UPDATE llm_requests AS t SET export_state = NULL FROM old WHERE t.id = old.id AND t.org_id = :org_id
"""

RESEND: Final = """
    WITH aside AS (
        SELECT id FROM llm_requests WHERE id >= :first AND export_state = 'set_aside'
        ORDER BY id LIMIT :limit FOR UPDATE
    )
    UPDATE llm_requests AS t SET exported_revision = t.exported_revision - 1, export_state = NULL, export_code = NULL
    FROM aside WHERE t.id = aside.id
"""

_OFF: Final = ("enable_sort", "enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")
_INDEX: Final = text("SELECT " + ", ".join(f"set_config('{name}', 'off', true)" for name in _OFF))
_CLAIM, _CLAIM_LOCAL, _WAITING, _WAITING_LOCAL = text(CLAIM), text(CLAIM_LOCAL), text(WAITING), text(WAITING_LOCAL)
_MARK, _SET_ASIDE, _RELEASE = text(MARK), text(SET_ASIDE), text(RELEASE)
_KEEP_LOCAL, _LOWER, _BACKFILL, _RESEND = text(KEEP_LOCAL), text(LOWER), text(BACKFILL), text(RESEND)


class PostgresOutbox(Outbox):
    """Over the table `llm_requests`, by its index `llm_requests_export`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(self, lane: Lane, limit: int, lease_s: float) -> list[LedgerRow]:
        facts = {**_whose(lane), "newest": limit - limit // 2, "oldest": limit // 2, "lease_s": lease_s}
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            rows = connection.execute(_CLAIM_LOCAL if lane.local else _CLAIM, facts).all()
        return sorted(map(ledger_row, rows), key=lambda row: row.record.id, reverse=True)

    def mark(self, lane: Lane, rows: Sequence[tuple[UUID, int]]) -> None:
        batch = orjson.dumps([{"id": row_id, "revision": revision} for row_id, revision in sorted(rows)]).decode()
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            connection.execute(_MARK, {"rows": batch, "org_id": _org_of_rows(lane)})

    def set_aside(self, lane: Lane, rows: Sequence[SetAside]) -> None:
        batch = orjson.dumps(sorted(rows, key=lambda row: row.id)).decode()
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            connection.execute(_SET_ASIDE, {"rows": batch, "org_id": _org_of_rows(lane)})

    def release(self, lane: Lane, ids: Sequence[UUID]) -> None:
        batch = orjson.dumps(sorted(ids)).decode()
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            connection.execute(_RELEASE, {"ids": batch, "org_id": _org_of_rows(lane)})

    def waiting(self, lane: Lane, most: int) -> Waiting:
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            row = connection.execute(_WAITING_LOCAL if lane.local else _WAITING, {**_whose(lane), "most": most}).one()
        if row.oldest is None:
            return Waiting()
        return Waiting(row.rows, max(0.0, float(row.now_s) - (UUID(row.oldest).int >> 80) / 1000))

    def keep_local(self, limit: int, managed: bool) -> int:
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            facts = {"org_id": LOCAL_ORG, "limit": limit, "managed": managed}
            return connection.execute(_KEEP_LOCAL, facts).rowcount

    def backfill(self, since: datetime, limit: int) -> int | None:
        first = _first_id(since)
        with mapped(), self._engine.begin() as connection:
            if connection.execute(_LOWER, {"first": first}).one_or_none() is None:
                return None
            _by_index(connection)
            facts = {"first": first, "org_id": LOCAL_ORG, "limit": limit}
            return connection.execute(_BACKFILL, facts).rowcount

    def resend(self, since: datetime, limit: int) -> int:
        with mapped(), self._engine.begin() as connection:
            _by_index(connection)
            return connection.execute(_RESEND, {"first": _first_id(since), "limit": limit}).rowcount


def _first_id(since: datetime) -> UUID:
    """Ids carry the time of the call, in milliseconds."""
    return UUID(int=max(0, int(since.astimezone(UTC).timestamp() * 1000)) << 80)


def _whose(lane: Lane) -> dict[str, object]:
    return {"registration_id": lane.registration_id, "org_id": _org_of_rows(lane)}


def _org_of_rows(lane: Lane) -> UUID:
    """Keys made inside are of nobody's organisation: their rows carry the nil id (SECURITY F8)."""
    return LOCAL_ORG if lane.local else lane.org_id


def _by_index(connection: Connection) -> None:
    """By index whatever the statistics say: of a table that has just grown there are none, and partitions that are
    never looked into are counted in full. What is "off" is counted as dear, for which code would be compiled."""
    connection.execute(_INDEX)
