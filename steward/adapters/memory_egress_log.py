"""What left for Butler, in this process alone: the twin of PostgreSQL's."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from steward.egress_chain import bound, going, moved, walk
from steward.ports import Checkpoint, Departed, Departure, EgressLog, Walked
from steward.words import Secret

_BODIES = 200


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryEgressLog(EgressLog):
    """Rows in a list."""

    def __init__(self, utc_now: Callable[[], datetime] = _utc_now) -> None:
        self._utc_now = utc_now
        self._key = Secret(secrets.token_bytes(32))
        self._rows: list[Departed] = []
        self._checkpoint: Checkpoint | None = None
        self._bodies: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def leaving(self, departure: Departure) -> int:
        with self._lock:
            row = bound(self._key, self._rows[-1] if self._rows else None, self._utc_now(), departure)
            self._rows.append(row)
            if departure.body is not None:
                self._bodies[row.number] = departure.body
                for number in sorted(self._bodies)[:-_BODIES]:
                    del self._bodies[number]
        return row.number

    def answered(self, number: int, answer: str) -> None:
        with self._lock:
            self._rows = [
                replace(row, answer=answer) if row.number == number and row.answer is None else row
                for row in self._rows
            ]

    def newest(self, limit: int) -> list[Departed]:
        return [self._shown(row) for row in self._rows[-limit:]]

    def after(self, number: int, limit: int) -> list[Departed]:
        return [self._shown(row) for row in self._rows if row.number > number][:limit]

    def body(self, number: int) -> bytes | None:
        return self._bodies.get(number)

    def walked(self) -> Walked:
        return walk(self._key, self._checkpoint, self._rows)

    def let_go(self, before: datetime, limit: int, now: datetime) -> int:
        with self._lock:
            gone = going(self._key, self._checkpoint, self._rows[: limit + 1], before)
            if gone:
                self._checkpoint = moved(self._key, self._checkpoint, gone, now)
                self._rows = self._rows[len(gone) :]
                self._bodies = {number: body for number, body in self._bodies.items() if number > gone[-1].number}
        return len(gone)

    def _shown(self, row: Departed) -> Departed:
        return replace(row, has_body=row.number in self._bodies)
