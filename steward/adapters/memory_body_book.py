"""What the rows of a ledger in memory say of bodies: the twin of PostgreSQL's.

It keeps nothing of its own and changes nothing but the one word on the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from steward.adapters.memory import MemoryLedger
from steward.exchange import BodyState, Record
from steward.ports import BodyBook, BodyRow


class MemoryBodyBook(BodyBook):
    """Over the rows of one ledger."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def since(self, moment: datetime, after: UUID | None, limit: int) -> list[BodyRow]:
        first = int(moment.timestamp() * 1000) << 80
        rows = sorted(self._ledger.all_records(), key=lambda record: record.id)
        found = [row for row in rows if row.id.int >= first and (after is None or row.id > after)]
        return [_body_row(record) for record in found[:limit]]

    def of(self, ids: Sequence[UUID]) -> list[BodyRow]:
        asked = set(ids)
        return [_body_row(record) for record in self._ledger.all_records() if record.id in asked]

    def stuck(self, before: datetime, limit: int) -> list[BodyRow]:
        first = int(before.timestamp() * 1000) << 80
        rows = sorted(self._ledger.all_records(), key=lambda record: record.id)
        pending = [row for row in rows if row.id.int < first and row.body_state is BodyState.PENDING]
        return [_body_row(record) for record in pending[:limit]]

    def mark(self, rows: Sequence[BodyRow], state: BodyState) -> int:
        return sum(self._ledger.say_body_state(row.id, row.body_state, state) for row in rows)


def _body_row(record: Record) -> BodyRow:
    return BodyRow(
        record.id,
        record.org_id,
        record.requested_at,
        record.body_state,
        record.body_key,
        record.body_url,
        record.body_sha256,
        record.body_bytes,
        record.storage_config_id,
    )
