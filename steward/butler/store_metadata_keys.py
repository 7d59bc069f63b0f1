"""Metadata keys: names of tags that calls bore. A person labels them, and says which can be filtered by.

An active key is indexed and summed by ingest from that moment, and backwards in bounded pieces by `backfill`. Refuses
to invent one: a name is there because a call bore it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text

from steward.butler.database import Database
from steward.butler.errors import NotThere
from steward.butler.nouns import Actor, MetadataKey
from steward.butler.store_audit import Entry, audit
from steward.butler.store_records import lock_records

PIECE: Final = timedelta(hours=1)

_ALL: Final = text("""
    SELECT name, label, is_active, activated_at, indexed_since, calls, distinct_values, first_seen_at, last_seen_at
    FROM butler.metadata_keys WHERE org_id = :org_id ORDER BY is_active DESC, calls DESC, name
""")

_LABEL: Final = text("""
    UPDATE butler.metadata_keys SET label = CAST(:label AS text) WHERE org_id = :org_id AND name = :name RETURNING name
""")

_ACTIVATE: Final = text("""
    UPDATE butler.metadata_keys SET is_active = true, activated_at = :now,
        indexed_since = greatest(:now, last_seen_at) + interval '1 microsecond'
    WHERE org_id = :org_id AND name = :name AND NOT is_active RETURNING name
""")

_REST: Final = text("""
    UPDATE butler.metadata_keys SET is_active = false, indexed_since = NULL
    WHERE org_id = :org_id AND name = :name AND is_active RETURNING name
""")

_GET: Final = text("SELECT name FROM butler.metadata_keys WHERE org_id = :org_id AND name = :name")

_UNINDEXED: Final = text("""
    SELECT org_id, name, indexed_since FROM butler.metadata_keys
    WHERE is_active AND indexed_since > first_seen_at ORDER BY indexed_since DESC LIMIT 1
""")
"""Across organisations: what is done for each is done under its own id."""

_NEWEST_BEFORE: Final = text("""
    SELECT requested_at FROM butler.requests WHERE org_id = :org_id AND requested_at < :until
    ORDER BY requested_at DESC, id DESC LIMIT 1
""")

_INDEX: Final = text("""
    WITH added AS (
        INSERT INTO butler.request_tags (org_id, name, value, requested_at, id)
        SELECT org_id, CAST(:name AS text), tags ->> CAST(:name AS text), requested_at, id FROM butler.requests
        WHERE org_id = :org_id AND requested_at >= :since AND requested_at < :until
            AND jsonb_exists(tags, CAST(:name AS text))
        ON CONFLICT DO NOTHING
        RETURNING value, requested_at, id
    )
    INSERT INTO butler.tag_hours AS t (org_id, hour, name, value, calls, errors, input_tokens, output_tokens,
        cached_tokens, cost, unmetered, unpriced)
    SELECT CAST(:org_id AS uuid), date_trunc('hour', a.requested_at, 'UTC'), CAST(:name AS text), a.value, count(*),
        count(*) FILTER (WHERE r.is_error), coalesce(sum(r.input_tokens), 0), coalesce(sum(r.output_tokens), 0),
        coalesce(sum(r.cached_tokens), 0), coalesce(sum(r.total_cost), 0),
        count(*) FILTER (WHERE r.input_tokens IS NULL AND NOT r.is_error),
        count(*) FILTER (WHERE r.total_cost IS NULL AND NOT r.is_error)
    FROM added a JOIN butler.requests r ON r.id = a.id AND r.requested_at = a.requested_at
    WHERE r.org_id = :org_id AND r.requested_at >= :since AND r.requested_at < :until
    GROUP BY 2, 4
    ON CONFLICT (org_id, name, hour, value) DO UPDATE SET
        calls = t.calls + excluded.calls, errors = t.errors + excluded.errors,
        input_tokens = t.input_tokens + excluded.input_tokens, output_tokens = t.output_tokens + excluded.output_tokens,
        cached_tokens = t.cached_tokens + excluded.cached_tokens, cost = t.cost + excluded.cost,
        unmetered = t.unmetered + excluded.unmetered, unpriced = t.unpriced + excluded.unpriced
""")

_INDEXED: Final = text("""
    UPDATE butler.metadata_keys SET indexed_since = least(indexed_since, :since)
    WHERE org_id = :org_id AND name = :name AND is_active
""")


class MetadataKeys:
    """The table `metadata_keys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, org_id: UUID) -> list[MetadataKey]:
        """Active ones first, then by calls."""
        return [MetadataKey(**row._mapping) for row in self._database.rows(_ALL, org_id=org_id)]

    def label(self, actor: Actor, name: str, label: str | None) -> None:
        """A person's word for it; None takes it away. Raises NotThere."""
        with self._database.change() as connection:
            facts = {"org_id": actor.org_id, "name": name, "label": label}
            if connection.execute(_LABEL, facts).one_or_none() is None:
                raise NotThere
            audit(connection, actor, Entry("metadata_key.labelled", name, name, {"label": label}))

    def activate(self, actor: Actor, name: str, now: datetime) -> None:
        """From `now` on it can be filtered by; earlier calls follow. Again, it changes nothing. Raises NotThere."""
        self._switch(actor, name, now)

    def deactivate(self, actor: Actor, name: str) -> None:
        """It is no longer offered as a filter. Again, it changes nothing. Raises NotThere."""
        self._switch(actor, name, None)

    def backfill(self) -> bool:
        """Indexes one hour more of one active key, newest first. False when nothing waits."""
        waiting = self._database.one(_UNINDEXED)
        if waiting is None:
            return False
        with self._database.change() as connection:
            lock_records(connection, waiting.org_id)
            facts = {"org_id": waiting.org_id, "until": waiting.indexed_since}
            newest = connection.execute(_NEWEST_BEFORE, facts).scalar_one_or_none()
            since = _FIRST_OF_ALL if newest is None else newest - PIECE
            if newest is not None:
                connection.execute(_INDEX, {**facts, "name": waiting.name, "since": since})
            connection.execute(_INDEXED, {"org_id": waiting.org_id, "name": waiting.name, "since": since})
        return True

    def _switch(self, actor: Actor, name: str, active_from: datetime | None) -> None:
        facts = {"org_id": actor.org_id, "name": name}
        with self._database.change() as connection:
            lock_records(connection, actor.org_id)  # a batch is either before the switch or after it
            if active_from is not None:
                row = connection.execute(_ACTIVATE, {**facts, "now": active_from}).one_or_none()
            else:
                row = connection.execute(_REST, facts).one_or_none()
            if row is not None:
                verb = "activated" if active_from is not None else "deactivated"
                audit(connection, actor, Entry(f"metadata_key.{verb}", name, name))
            elif connection.execute(_GET, facts).one_or_none() is None:
                raise NotThere


_FIRST_OF_ALL: Final = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
