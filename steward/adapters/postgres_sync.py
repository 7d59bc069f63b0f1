"""What Butler sends, taken into PostgreSQL: a page of keys with its watermark, what a full pull lacks, and turns.

Refuses to give a key another hash, user, organisation or registration, to revive a revoked one, and to believe a date
in the future (SECURITY F8, F11). Which process syncs what is told by advisory locks, all on one connection.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection, Engine

from steward.adapters.postgres_connection import mapped
from steward.errors import LedgerFault
from steward.ports import (
    MAX_SYNCED_KEYS,
    NOT_REGISTERED,
    AppliedKeys,
    ButlerWord,
    Registration,
    SentKey,
    SyncKind,
    SyncState,
    Turns,
)

_SENT: Final = (
    "jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(id uuid, key_hash text, name text, is_active boolean, "
    "created_at timestamptz, updated_at timestamptz, description text, user_id uuid, revoked_at timestamptz, "
    "deprecated_model_behavior text)"
)

_MINE: Final = """
    t.org_id = :org_id AND t.registration_id = :registration_id AND t.id = b.id AND t.key_hash = b.key_hash
    AND t.user_id IS NOT DISTINCT FROM b.user_id
"""

_REVOKED_AT: Final = "CASE WHEN b.revoked_at IS NOT NULL THEN least(b.revoked_at, clock_timestamp()) END"

IN_FORCE: Final = """
    SELECT id FROM registrations
    WHERE org_id = :org_id AND id = :registration_id AND deregistered_at IS NULL FOR SHARE
"""
"""Held until the page is in: whoever deregisters the organisation then lets these keys rest too."""

ADD_KEYS: Final = f"""
    INSERT INTO api_keys (id, org_id, key_hash, name, description, user_id, registration_id, is_active, revoked_at,
        created_at, butler_updated_at, deprecated_model_behavior)
    SELECT b.id, :org_id, b.key_hash, b.name, b.description, b.user_id, :registration_id,
        b.is_active AND b.revoked_at IS NULL, {_REVOKED_AT},
        least(b.created_at, clock_timestamp()), least(b.updated_at, clock_timestamp()), b.deprecated_model_behavior
    FROM {_SENT}
    WHERE NOT EXISTS (SELECT 1 FROM api_keys AS t WHERE t.id = b.id OR t.key_hash = b.key_hash)
    ORDER BY b.id
    LIMIT greatest(0, :most - (
        SELECT count(*) FROM api_keys AS t WHERE t.org_id = :org_id AND t.registration_id = :registration_id
    ))
    ON CONFLICT DO NOTHING
"""

CHANGE_KEYS: Final = f"""
    UPDATE api_keys AS t SET
        name = b.name,
        description = b.description,
        is_active = b.is_active AND b.revoked_at IS NULL AND t.revoked_at IS NULL,
        revoked_at = coalesce(t.revoked_at, {_REVOKED_AT}),
        butler_updated_at = least(b.updated_at, clock_timestamp()),
        deprecated_model_behavior = b.deprecated_model_behavior
    FROM {_SENT}
    WHERE {_MINE}
        AND (t.butler_updated_at IS NULL OR b.updated_at >= t.butler_updated_at)
        AND (t.name, t.description, t.is_active, t.revoked_at IS NULL, t.deprecated_model_behavior,
                t.butler_updated_at)
            IS DISTINCT FROM (b.name, b.description,
                b.is_active AND b.revoked_at IS NULL AND t.revoked_at IS NULL,
                b.revoked_at IS NULL AND t.revoked_at IS NULL, b.deprecated_model_behavior,
                least(b.updated_at, clock_timestamp()))
"""

REFUSED_KEYS: Final = f"""
    SELECT b.id FROM {_SENT} WHERE NOT EXISTS (SELECT 1 FROM api_keys AS t WHERE {_MINE}) ORDER BY b.id
"""

MOVE_WATERMARK: Final = f"""
    INSERT INTO sync_state AS s (org_id, registration_id, kind, watermark)
    SELECT :org_id, :registration_id, :kind, max(b.updated_at)
    FROM {_SENT}
    WHERE b.updated_at <= clock_timestamp() AND EXISTS (SELECT 1 FROM api_keys AS t WHERE {_MINE})
    ON CONFLICT (registration_id, kind) DO UPDATE SET watermark = greatest(s.watermark, excluded.watermark)
    WHERE s.org_id = :org_id
    RETURNING s.watermark
"""

SYNC_STATE: Final = """
    SELECT s.watermark, clock_timestamp() AS read_at, s.last_full_at
    FROM (SELECT 1) AS one
    LEFT JOIN sync_state AS s ON s.org_id = :org_id AND s.registration_id = :registration_id AND s.kind = :kind
"""

REST_MISSING: Final = """
    UPDATE api_keys SET is_active = false
    WHERE org_id = :org_id AND registration_id = :registration_id AND is_active AND updated_at < :since
        AND id NOT IN (SELECT CAST(jsonb_array_elements_text(CAST(:seen AS jsonb)) AS uuid))
"""

PULLED: Final = """
    INSERT INTO sync_state (org_id, registration_id, kind, last_full_at)
    VALUES (:org_id, :registration_id, :kind, clock_timestamp())
    ON CONFLICT (registration_id, kind) DO UPDATE SET last_full_at = excluded.last_full_at
    WHERE sync_state.org_id = :org_id
"""

HEARD: Final = """
    UPDATE registrations SET
        heard_at = CASE WHEN CAST(:fault AS text) IS NULL THEN clock_timestamp() ELSE heard_at END,
        fault = CAST(:fault AS text)
    WHERE org_id = :org_id AND id = :registration_id AND deregistered_at IS NULL AND (
        fault IS DISTINCT FROM CAST(:fault AS text) OR CAST(:fault AS text) IS NULL
        AND (heard_at IS NULL OR heard_at < clock_timestamp() - interval '30 seconds')
    )
"""

HOLD: Final = "SELECT pg_try_advisory_lock(:lock)"
LET_GO: Final = "SELECT pg_advisory_unlock(:lock)"
STILL_THERE: Final = "SELECT CAST(:lock AS bigint) IS NOT NULL"

_IN_FORCE, _ADD_KEYS, _CHANGE_KEYS = text(IN_FORCE), text(ADD_KEYS), text(CHANGE_KEYS)
_REFUSED_KEYS, _MOVE_WATERMARK = text(REFUSED_KEYS), text(MOVE_WATERMARK)
_SYNC_STATE, _REST_MISSING, _PULLED, _HEARD = text(SYNC_STATE), text(REST_MISSING), text(PULLED), text(HEARD)
_HOLD, _LET_GO, _STILL_THERE = text(HOLD), text(LET_GO), text(STILL_THERE)


def hold_in_force(connection: Connection, registration: Registration) -> None:
    """Until the transaction ends it stays registered. Raises LedgerFault when it is not: a late word counts no more."""
    if connection.execute(_IN_FORCE, _whose(registration)).one_or_none() is None:
        raise LedgerFault(NOT_REGISTERED)


def heard(connection: Connection, registration: Registration, fault: ButlerWord | None) -> None:
    """See Directory.heard."""
    connection.execute(_HEARD, {**_whose(registration), "fault": fault})


def sync_state(connection: Connection, registration: Registration, kind: SyncKind) -> SyncState:
    """See Directory.sync_state."""
    row = connection.execute(_SYNC_STATE, {**_whose(registration), "kind": kind}).one()
    return SyncState(row.watermark, row.read_at, row.last_full_at)


def apply_keys(connection: Connection, registration: Registration, keys: Sequence[SentKey]) -> AppliedKeys:
    """See Directory.apply_keys; the connection's transaction is the page's."""
    whose = _whose(registration)
    hold_in_force(connection, registration)
    facts = {**whose, "batch": orjson.dumps(latest(keys)).decode()}
    connection.execute(_ADD_KEYS, {**facts, "most": MAX_SYNCED_KEYS})
    connection.execute(_CHANGE_KEYS, facts)
    refused = connection.execute(_REFUSED_KEYS, facts).scalars().all()
    watermark = connection.execute(_MOVE_WATERMARK, {**facts, "kind": "api_keys"}).scalar_one_or_none()
    return AppliedKeys(watermark, tuple(refused))


def rest_missing(connection: Connection, registration: Registration, seen: Collection[UUID], since: datetime) -> int:
    """See Directory.rest_missing."""
    whose = _whose(registration)
    hold_in_force(connection, registration)
    facts = {**whose, "since": since, "seen": orjson.dumps(list(seen)).decode()}
    rested = connection.execute(_REST_MISSING, facts).rowcount
    connection.execute(_PULLED, {**whose, "kind": "api_keys"})
    return rested


def latest(keys: Sequence[SentKey]) -> list[SentKey]:
    """One row an id, the newest; in the order of ids, so that two writers never deadlock."""
    kept: dict[UUID, SentKey] = {}
    for key in keys:
        if key.id not in kept or key.updated_at >= kept[key.id].updated_at:
            kept[key.id] = key
    return [kept[each] for each in sorted(kept)]


class PostgresTurns(Turns):
    """Advisory locks of one session. When its connection breaks, the server gives them all to others."""

    def __init__(self, engine: Engine) -> None:
        """`engine`: its own, of one connection, which stays taken."""
        self._engine = engine
        self._connection: Connection | None = None
        self._held: set[UUID] = set()
        self._lock = threading.Lock()

    def hold(self, registration_id: UUID) -> bool:
        with self._lock:
            held = registration_id in self._held
            said = self._ask(_STILL_THERE if held else _HOLD, registration_id)
            if said and not held:
                self._held.add(registration_id)
            return registration_id in self._held

    def let_go(self, registration_id: UUID) -> None:
        with self._lock:
            if registration_id in self._held:
                self._ask(_LET_GO, registration_id)
                self._held.discard(registration_id)

    def close(self) -> None:
        with self._lock:
            self._lost()
            self._engine.dispose()

    def _ask(self, statement: TextClause, registration_id: UUID) -> bool:
        """In a transaction of its own: an idle one would be ended by the server, and the locks with it."""
        try:
            with mapped():
                if self._connection is None:
                    self._connection = self._engine.connect()
                with self._connection.begin():
                    return bool(self._connection.execute(statement, {"lock": _lock_of(registration_id)}).scalar_one())
        except BaseException:
            self._lost()
            raise

    def _lost(self) -> None:
        """The session ends with its connection: a lock that stayed behind in the pool would never be free again."""
        self._held.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _lock_of(registration_id: UUID) -> int:
    """64 bits of its own for each."""
    return int.from_bytes(hashlib.sha256(b"steward sync" + registration_id.bytes).digest()[:8], "big", signed=True)


def _whose(registration: Registration) -> dict[str, object]:
    return {"org_id": registration.org_id, "registration_id": registration.id}
