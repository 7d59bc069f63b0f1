"""What PostgreSQL's rows say of bodies, over all organisations: what reconcile compares and marks.

It refuses to change anything but the one word on the body, and that only where the row still says what it said.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Engine, Row

from steward.adapters.postgres_connection import mapped
from steward.exchange import BodyState, uuid7
from steward.ports import BodyBook, BodyRow

_NAMES: Final = "id, org_id, requested_at, body_state, body_key, body_url, body_sha256, body_bytes, storage_config_id"

_SINCE: Final = text(f"SELECT {_NAMES} FROM llm_requests WHERE id > :after ORDER BY id LIMIT :limit")  # noqa: S608
_OF: Final = text(
    f"SELECT {_NAMES} FROM llm_requests WHERE id IN "  # noqa: S608
    "(SELECT CAST(value AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))"
)
_STUCK: Final = text(
    f"SELECT {_NAMES} FROM llm_requests WHERE body_state = 'pending' AND id < :first ORDER BY id LIMIT :limit"  # noqa: S608
)
_MARK: Final = text("""
    UPDATE llm_requests AS t SET body_state = :state, revision = t.revision + 1
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS b(id uuid, was text)
    WHERE t.id = b.id AND t.body_state = b.was AND t.body_state <> :state
""")


class PostgresBodyBook(BodyBook):
    """Over the table `llm_requests`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def since(self, moment: datetime, after: UUID | None, limit: int) -> list[BodyRow]:
        # Ids carry the time of the call: by them alone the database reads no more months than it must.
        first = UUID(int=uuid7(int(moment.timestamp() * 1000), bytes(10)).int - 1)
        with mapped(), self._engine.begin() as connection:
            rows = connection.execute(_SINCE, {"after": max(first, after or first), "limit": limit}).all()
        return [_body_row(row) for row in rows]

    def of(self, ids: Sequence[UUID]) -> list[BodyRow]:
        with mapped(), self._engine.begin() as connection:
            rows = connection.execute(_OF, {"ids": orjson.dumps(list(ids)).decode()}).all()
        return [_body_row(row) for row in rows]

    def stuck(self, before: datetime, limit: int) -> list[BodyRow]:
        first = uuid7(int(before.timestamp() * 1000), bytes(10))
        with mapped(), self._engine.begin() as connection:
            rows = connection.execute(_STUCK, {"first": first, "limit": limit}).all()
        return [_body_row(row) for row in rows]

    def mark(self, rows: Sequence[BodyRow], state: BodyState) -> int:
        batch = orjson.dumps([{"id": row.id, "was": row.body_state} for row in rows]).decode()
        with mapped(), self._engine.begin() as connection:
            return connection.execute(_MARK, {"rows": batch, "state": state.value}).rowcount


def _body_row(row: Row[Any]) -> BodyRow:
    return BodyRow(
        id=row.id,
        org_id=row.org_id,
        requested_at=row.requested_at,
        body_state=BodyState(row.body_state),
        key=row.body_key,
        url=row.body_url,
        sha256=row.body_sha256,
        size_bytes=row.body_bytes,
        storage_config_id=row.storage_config_id,
    )
