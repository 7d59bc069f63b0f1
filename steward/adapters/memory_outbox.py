"""The rows of a ledger in memory that Butler has not yet: the twin of PostgreSQL's.

It keeps beside each row what it was told to Butler, and nothing outlives the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from steward.adapters.memory import MemoryDirectory, MemoryLedger
from steward.exchange import LOCAL_ORG
from steward.ports import Lane, LedgerRow, Outbox, Registration, SetAside, Waiting


@dataclass(slots=True)
class _Told:
    """What a row says of its way out."""

    exported_revision: int = 0
    state: Literal["local", "set_aside"] | None = None
    code: str | None = None
    claimed_until: float = 0.0


class MemoryOutbox(Outbox):
    """Over one ledger and one directory."""

    def __init__(
        self, ledger: MemoryLedger, directory: MemoryDirectory, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._directory = directory
        self._now = now
        self._told: dict[UUID, _Told] = {}
        self._lock = threading.Lock()

    def claim(self, lane: Lane, limit: int, lease_s: float) -> list[LedgerRow]:
        with self._lock:
            now = self._now()
            free = [row for row in self._due(lane) if self._of(row).claimed_until <= now]
            newest, oldest = limit - limit // 2, limit // 2
            taken = free if len(free) <= limit else free[:oldest] + free[-newest:]
            for row in taken:
                self._of(row).claimed_until = now + lease_s
        return taken[::-1]

    def mark(self, lane: Lane, rows: Sequence[tuple[UUID, int]]) -> None:
        with self._lock:
            for row_id, revision in rows:
                if (told := self._mine(lane, row_id)) is None:
                    continue
                told.claimed_until = 0.0
                if revision >= told.exported_revision:
                    told.exported_revision = revision
                    told.state = None if told.state == "set_aside" else told.state
                    told.code = None

    def set_aside(self, lane: Lane, rows: Sequence[SetAside]) -> None:
        with self._lock:
            for row in rows:
                told = self._mine(lane, row.id)
                if told is not None and row.revision > told.exported_revision and told.state != "local":
                    told.exported_revision, told.claimed_until = row.revision, 0.0
                    told.state, told.code = "set_aside", row.code

    def release(self, lane: Lane, ids: Sequence[UUID]) -> None:
        with self._lock:
            for row_id in ids:
                if (told := self._mine(lane, row_id)) is not None:
                    told.claimed_until = 0.0

    def waiting(self, lane: Lane, most: int) -> Waiting:
        with self._lock:
            due = self._due(lane)[:most]
        if not due:
            return Waiting()
        made_s = (due[0].record.id.int >> 80) / 1000
        return Waiting(len(due), max(0.0, datetime.now(UTC).timestamp() - made_s))

    def keep_local(self, limit: int, managed: bool) -> int:
        with self._lock:
            sole = None if managed else self._sole()
            rows = [row for row in self._ledger.all_rows() if row.record.registration_id is None and self._is_due(row)]
            stay = [row for row in rows if sole is None or row.record.id < sole.local_from][:limit]
            for row in stay:
                told = self._of(row)
                told.state, told.code, told.claimed_until = "local", None, 0.0
        return len(stay)

    def backfill(self, since: datetime, limit: int) -> int | None:
        first = UUID(int=max(0, int(since.timestamp() * 1000)) << 80)
        with self._lock:
            if (sole := self._sole()) is None:
                return None
            self._directory.say_local_from(sole.id, first)
            old = [
                row
                for row in self._ledger.all_rows()
                if row.record.id >= first and row.record.registration_id is None and self._of(row).state == "local"
            ][:limit]
            for row in old:
                self._of(row).state = None
        return len(old)

    def resend(self, since: datetime, limit: int) -> int:
        first = UUID(int=max(0, int(since.timestamp() * 1000)) << 80)
        with self._lock:
            rows = [row for row in self._ledger.all_rows() if row.record.id >= first]
            aside = [told for row in rows if (told := self._of(row)).state == "set_aside"][:limit]
            for told in aside:
                told.exported_revision, told.state, told.code = told.exported_revision - 1, None, None
        return len(aside)

    def state(self, row_id: UUID) -> tuple[int, str | None, str | None]:
        """The newest revision that was dealt with, and how: state and code."""
        told = self._told.get(row_id, _Told())
        return told.exported_revision, told.state, told.code

    def _of(self, row: LedgerRow) -> _Told:
        return self._told.setdefault(row.record.id, _Told())

    def _mine(self, lane: Lane, row_id: UUID) -> _Told | None:
        row = self._ledger.get(LOCAL_ORG if lane.local else lane.org_id, row_id)
        return None if row is None else self._of(row)

    def _is_due(self, row: LedgerRow) -> bool:
        told = self._of(row)
        return row.revision > told.exported_revision and told.state != "local"

    def _due(self, lane: Lane) -> list[LedgerRow]:
        """In the order of their ids."""
        known = next((each for each in self._alive() if each.id == lane.registration_id), None)
        if known is None or (lane.local and self._sole() is None):
            return []
        owner, org_id = (None, LOCAL_ORG) if lane.local else (lane.registration_id, lane.org_id)
        return [
            row
            for row in self._ledger.all_rows()
            if (row.record.registration_id, row.record.org_id) == (owner, org_id)
            and (not lane.local or row.record.id >= known.local_from)
            and self._is_due(row)
        ]

    def _alive(self) -> list[Registration]:
        return [each for each in self._directory.registrations() if each.deregistered_at is None]

    def _sole(self) -> Registration | None:
        alive = self._alive()
        return alive[0] if len(alive) == 1 else None
