"""The audit log: one entry for every change, written in the change's own transaction; the database refuses to alter it.

It holds names and ids, never a secret. An entry that is a notice is shown to every owner until he has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection, Row

from steward.butler.database import Database
from steward.butler.nouns import Actor, AuditEntry

_COLUMNS: Final = (
    "id, at, actor_id, actor_email, address, action, object_type, object_id, object_name, details, is_notice"
)

_ADD: Final = text("""
    INSERT INTO butler.audit_log
        (org_id, id, actor_id, actor_email, address, action, object_type, object_id, object_name, details, is_notice)
    VALUES (:org_id, :id, :actor_id, :actor_email, :address, :action, :object_type, :object_id, :object_name,
        CAST(:details AS jsonb), :is_notice)
""")

_PAGE: Final = text(f"""
    SELECT {_COLUMNS} FROM butler.audit_log
    WHERE org_id = :org_id
        AND (CAST(:at AS timestamptz) IS NULL OR (at, id) < (CAST(:at AS timestamptz), CAST(:id AS uuid)))
        AND (CAST(:actor AS text) IS NULL OR actor_email = CAST(:actor AS text))
        AND (CAST(:object_type AS text) IS NULL OR object_type = CAST(:object_type AS text))
    ORDER BY at DESC, id DESC LIMIT :limit
""")  # noqa: S608 - names from this file

_ACTORS: Final = text(
    "SELECT DISTINCT actor_email FROM butler.audit_log WHERE org_id = :org_id ORDER BY actor_email LIMIT 200"
)

_NOTICES: Final = text(f"""
    SELECT {", ".join(f"a.{name}" for name in _COLUMNS.split(", "))}
    FROM butler.audit_log a JOIN butler.memberships m ON m.org_id = a.org_id AND m.user_id = :user_id
    WHERE a.org_id = :org_id AND a.is_notice AND m.role = 'owner' AND a.at > m.notices_seen_at
    ORDER BY a.at DESC, a.id DESC LIMIT 20
""")  # noqa: S608 - names from this file

_SEEN: Final = text("""
    UPDATE butler.memberships SET notices_seen_at = greatest(notices_seen_at, :until)
    WHERE org_id = :org_id AND user_id = :user_id
""")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of a change. `notice`: every owner is told."""

    action: str
    object_id: object
    object_name: str
    details: Mapping[str, object] | None = None
    notice: bool = False


def audit(connection: Connection, actor: Actor, entry: Entry) -> None:
    """Adds the entry in the transaction of the change it tells of."""
    facts = {
        "org_id": actor.org_id,
        "id": uuid4(),
        "actor_id": actor.user_id,
        "actor_email": actor.email,
        "address": actor.address,
        "action": entry.action,
        "object_type": entry.action.split(".", 1)[0],
        "object_id": str(entry.object_id),
        "object_name": entry.object_name,
        "details": orjson.dumps(dict(entry.details or {}), default=str).decode(),
        "is_notice": entry.notice,
    }
    connection.execute(_ADD, facts)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries: before a place, by a person, of a kind of object (`api_key`, `storage`...)."""

    before: tuple[datetime, UUID] | None = None
    actor: str | None = None
    object_type: str | None = None


class Audit:
    """Reads the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, org_id: UUID, which: AuditFilter, limit: int = 50) -> list[AuditEntry]:
        """Newest first; the next page is asked with the last entry's `at` and `id` as `before`."""
        at, entry_id = which.before or (None, None)
        facts = {"at": at, "id": entry_id, "actor": which.actor, "object_type": which.object_type, "limit": limit}
        return [_entry(row) for row in self._database.rows(_PAGE, org_id=org_id, **facts)]

    def actors(self, org_id: UUID) -> list[str]:
        """The e-mail addresses of those who ever changed something."""
        return [row.actor_email for row in self._database.rows(_ACTORS, org_id=org_id)]

    def notices(self, org_id: UUID, user_id: UUID) -> list[AuditEntry]:
        """What this owner has not seen yet of changes to storage, provider keys and Steward tokens; none for others."""
        return [_entry(row) for row in self._database.rows(_NOTICES, org_id=org_id, user_id=user_id)]

    def notices_seen(self, org_id: UUID, user_id: UUID, until: datetime) -> None:
        """This owner has seen all up to then."""
        with self._database.change() as connection:
            connection.execute(_SEEN, {"org_id": org_id, "user_id": user_id, "until": until})


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(**row._mapping)
