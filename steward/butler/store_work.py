"""Work for Stewards: what changed here and waits to be fetched. One waiting item a Steward and kind is enough.

An item that was claimed and neither acknowledged nor failed within a minute is handed out again. A change that comes
while one is claimed makes another, because the Steward may have read before the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection

from steward.butler.database import Database
from steward.butler.errors import NotThere

LEASE: Final = timedelta(seconds=60)
MAX_CLAIMED: Final = 400


class JobType(StrEnum):
    """What a Steward is asked to do; later kinds come with their issues."""

    API_KEYS = "sync_api_keys"
    STORAGE = "sync_cloud_storage"
    PROVIDER_KEYS = "sync_provider_keys"


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One thing to do."""

    job_id: UUID
    org_id: UUID
    job_type: str
    run_id: UUID | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an item ended, and when."""

    job_id: UUID
    succeeded: bool
    at: datetime


_STEWARDS: Final = text("""
    SELECT id FROM butler.steward_tokens WHERE org_id = :org_id AND revoked_at IS NULL ORDER BY id
""")

_ADD: Final = text("""
    INSERT INTO butler.work_items (id, org_id, steward_id, job_type, created_at)
    SELECT b.id, :org_id, b.steward_id, :job_type, clock_timestamp()
    FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS b(id uuid, steward_id uuid)
    ON CONFLICT (org_id, steward_id, job_type) WHERE claimed_at IS NULL AND ended_at IS NULL DO NOTHING
""")

_CLAIM: Final = text("""
    UPDATE butler.work_items w SET claimed_at = :now, claims = w.claims + 1
    FROM (
        SELECT id FROM butler.work_items
        WHERE org_id = :org_id AND steward_id = :steward_id AND ended_at IS NULL
            AND (claimed_at IS NULL OR claimed_at <= :lost)
        ORDER BY created_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    ) free
    WHERE w.org_id = :org_id AND w.id = free.id
    RETURNING w.id AS job_id, w.org_id, w.job_type, w.run_id
""")

_END: Final = text("""
    UPDATE butler.work_items SET ended_at = :now, succeeded = :succeeded
    WHERE org_id = :org_id AND steward_id = :steward_id AND id = :id AND claimed_at IS NOT NULL AND ended_at IS NULL
    RETURNING id
""")

_KNOWN: Final = text("""
    SELECT id FROM butler.work_items
    WHERE org_id = :org_id AND steward_id = :steward_id AND id = :id AND claimed_at IS NOT NULL
""")


def announce(connection: Connection, org_id: UUID, job_type: JobType) -> None:
    """In the transaction of the change: every Steward of the organisation is told to fetch."""
    stewards = connection.execute(_STEWARDS, {"org_id": org_id}).scalars()
    items = [{"id": uuid4(), "steward_id": each} for each in stewards]
    if items:
        facts = {"org_id": org_id, "job_type": job_type.value, "items": orjson.dumps(items).decode()}
        connection.execute(_ADD, facts)


class Work:
    """The table `work_items`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, org_id: UUID, steward_id: UUID, limit: int, now: datetime) -> list[WorkItem]:
        """What waits, oldest first, and what was claimed a minute or more before `now` and never answered for."""
        facts = {"steward_id": steward_id, "limit": min(limit, MAX_CLAIMED), "now": now, "lost": now - LEASE}
        rows = self._database.rows(_CLAIM, org_id=org_id, **facts)
        return [WorkItem(**row._mapping) for row in rows]

    def end(self, org_id: UUID, steward_id: UUID, ended: Ended) -> None:
        """It was done, or cannot be. Again, it changes nothing. NotThere: it was never handed to this Steward."""
        facts = {"org_id": org_id, "steward_id": steward_id, "id": ended.job_id}
        with self._database.change() as connection:
            said = {"now": ended.at, "succeeded": ended.succeeded}
            row = connection.execute(_END, {**facts, **said}).one_or_none()
            if row is None and connection.execute(_KNOWN, facts).one_or_none() is None:
                raise NotThere
