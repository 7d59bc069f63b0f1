"""API keys: made here, hashed, shown once, revoked for ever. A Steward learns of a change by a work item.

Refuses to delete one, to revive one, or to give it to another person (the table's trigger says so too). `updated_at`
is unique in an organisation and only grows, in the order in which changes become visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.engine import Row

from steward.butler.database import Database
from steward.butler.errors import NotThere
from steward.butler.nouns import Actor, ApiKey, DeprecatedModels, KeyUse, Made
from steward.butler.secrets_made import API_KEY, digest, hint, made
from steward.butler.store_audit import Entry, audit
from steward.butler.store_work import JobType, announce

_COLUMNS: Final = (
    "id, org_id, key_hash, key_hint, name, description, user_id, deprecated_model_behavior, is_active, revoked_at, "
    "created_at, updated_at"
)

_CREATE: Final = text("""
    INSERT INTO butler.api_keys (id, org_id, key_hash, key_hint, name, description, user_id, deprecated_model_behavior)
    VALUES (:id, :org_id, :key_hash, :key_hint, :name, :description, :user_id, :deprecated_model_behavior)
""")

_CHANGED: Final = text(f"""
    SELECT {_COLUMNS} FROM butler.api_keys
    WHERE org_id = :org_id AND (CAST(:after AS timestamptz) IS NULL OR updated_at > CAST(:after AS timestamptz))
    ORDER BY updated_at LIMIT :limit
""")  # noqa: S608 - names from this file

_USES: Final = f"""
    WITH k AS (
        SELECT {_COLUMNS} FROM butler.api_keys WHERE org_id = :org_id {{narrower}}
        ORDER BY is_active DESC, created_at DESC, id DESC {{bound}}
    )
    SELECT {", ".join(f"k.{name}" for name in _COLUMNS.split(", "))},
        u.email AS user_email, r.requested_at AS last_used_at,
        coalesce(h.calls, 0) AS calls, coalesce(h.cost, 0) AS cost
    FROM k
    LEFT JOIN butler.users u ON u.id = k.user_id
    LEFT JOIN LATERAL (
        SELECT requested_at FROM butler.requests
        WHERE org_id = k.org_id AND api_key_id = k.id ORDER BY requested_at DESC, id DESC LIMIT 1
    ) r ON true
    LEFT JOIN (
        SELECT api_key_id, sum(calls)::bigint AS calls, sum(cost) AS cost FROM butler.hours
        WHERE org_id = :org_id AND hour >= CAST(:now AS timestamptz) - interval '30 days'
            AND api_key_id IN (SELECT id FROM k) GROUP BY api_key_id
    ) h ON h.api_key_id = k.id
    ORDER BY k.is_active DESC, k.created_at DESC, k.id DESC
"""  # noqa: S608 - names from this file

_ALL: Final = text(_USES.format(narrower="", bound=""))

_PAGE: Final = text(
    _USES.format(
        narrower="""
            AND (CAST(:search AS text) = '' OR position(lower(CAST(:search AS text)) IN lower(name)) > 0)
            AND (CAST(:at AS timestamptz) IS NULL OR (is_active, created_at, id)
                < (CAST(:is_active AS boolean), CAST(:at AS timestamptz), CAST(:id AS uuid)))
        """,
        bound="LIMIT :limit",
    )
)

_NAMES: Final = text("SELECT id, name FROM butler.api_keys WHERE org_id = :org_id")
_GET: Final = text(f"SELECT {_COLUMNS} FROM butler.api_keys WHERE org_id = :org_id AND id = :id")  # noqa: S608

_REVOKE: Final = text("""
    UPDATE butler.api_keys SET is_active = false, revoked_at = clock_timestamp()
    WHERE org_id = :org_id AND id = :id AND revoked_at IS NULL RETURNING name
""")

_BEHAVE: Final = text("""
    UPDATE butler.api_keys SET deprecated_model_behavior = :behavior
    WHERE org_id = :org_id AND id = :id AND revoked_at IS NULL RETURNING name
""")


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """A place in the list of keys: right after this one, which stood there when the page was made."""

    is_active: bool
    created_at: datetime
    id: UUID

    def facts(self) -> dict[str, object]:
        """What the statement asks with."""
        return {"is_active": self.is_active, "at": self.created_at, "id": self.id}


class Keys:
    """The table `api_keys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        actor: Actor,
        name: str,
        description: str | None = None,
        behavior: DeprecatedModels = "passthrough",
    ) -> Made:
        """A new key, of the person who makes it. Its plaintext is in the answer and nowhere else."""
        plaintext, key_id = made(API_KEY), uuid4()
        facts = {
            "id": key_id,
            "org_id": actor.org_id,
            "key_hash": digest(plaintext),
            "key_hint": hint(plaintext),
            "name": name,
            "description": description,
            "user_id": actor.user_id,
            "deprecated_model_behavior": behavior,
        }
        with self._database.change() as connection:
            connection.execute(_CREATE, facts)
            audit(connection, actor, Entry("api_key.created", key_id, name, {"deprecated_model_behavior": behavior}))
            announce(connection, actor.org_id, JobType.API_KEYS)
        return Made(key_id, plaintext)

    def all(self, org_id: UUID, now: datetime) -> list[KeyUse]:
        """All keys, active ones first, newest first, with what each did in the 30 days before `now`."""
        return [_use(row) for row in self._database.rows(_ALL, org_id=org_id, now=now)]

    def page(
        self, org_id: UUID, now: datetime, search: str = "", after: KeyPlace | None = None, limit: int = 100
    ) -> list[KeyUse]:
        """The same in the same order: those whose name has `search` in it, at most `limit` after a place."""
        at = {"is_active": None, "at": None, "id": None} if after is None else after.facts()
        facts = {"now": now, "search": search, "limit": limit, **at}
        return [_use(row) for row in self._database.rows(_PAGE, org_id=org_id, **facts)]

    def get(self, org_id: UUID, key_id: UUID) -> ApiKey:
        """Raises NotThere."""
        row = self._database.one(_GET, org_id=org_id, id=key_id)
        if row is None:
            raise NotThere
        return ApiKey(**row._mapping)

    def names(self, org_id: UUID) -> dict[UUID, str]:
        """Every key's name, revoked ones too: for tables and charts that show keys by id."""
        return {row.id: row.name for row in self._database.rows(_NAMES, org_id=org_id)}

    def changed(self, org_id: UUID, after: datetime | None, limit: int) -> list[ApiKey]:
        """Oldest change first, those changed after `after`: what a Steward pulls."""
        rows = self._database.rows(_CHANGED, org_id=org_id, after=after, limit=limit)
        return [ApiKey(**row._mapping) for row in rows]

    def revoke(self, actor: Actor, key_id: UUID) -> None:
        """For ever. Again, it changes nothing. Raises NotThere."""
        with self._database.change() as connection:
            row = connection.execute(_REVOKE, {"org_id": actor.org_id, "id": key_id}).one_or_none()
            if row is not None:
                audit(connection, actor, Entry("api_key.revoked", key_id, row.name))
                announce(connection, actor.org_id, JobType.API_KEYS)
        if row is None:
            self.get(actor.org_id, key_id)

    def behave(self, actor: Actor, key_id: UUID, behavior: DeprecatedModels) -> None:
        """What happens to calls of deprecated models. Raises NotThere, also for a revoked key."""
        facts = {"org_id": actor.org_id, "id": key_id, "behavior": behavior}
        with self._database.change() as connection:
            row = connection.execute(_BEHAVE, facts).one_or_none()
            if row is None:
                raise NotThere
            details = {"deprecated_model_behavior": behavior}
            audit(connection, actor, Entry("api_key.changed", key_id, row.name, details))
            announce(connection, actor.org_id, JobType.API_KEYS)


def _use(row: Row[Any]) -> KeyUse:
    facts = dict(row._mapping)
    uses = {name: facts.pop(name) for name in ("user_email", "last_used_at", "calls", "cost")}
    return KeyUse(key=ApiKey(**facts), **uses)
