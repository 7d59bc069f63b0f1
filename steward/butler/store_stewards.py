"""Steward tokens: made here, hashed, shown once; and what is seen of the Stewards that bear them.

Refuses to revive a revoked one. Which organisation a call is for is decided here, from the token's hash alone
(SECURITY F8), before anything of the call is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.engine import Connection

from steward.butler.database import Database
from steward.butler.errors import NotThere
from steward.butler.nouns import Actor, Made, StewardToken
from steward.butler.secrets_made import STEWARD_TOKEN, digest, hint, made
from steward.butler.store_audit import Entry, audit
from steward.words import Secret

SEEN_EVERY: Final = timedelta(seconds=5)
"""How often a Steward that calls is noted: not at each of its calls."""

_USER_AGENT: Final = re.compile(r"majordomo-steward/([0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6})")

_CREATE: Final = text("""
    INSERT INTO butler.steward_tokens (id, org_id, token_hash, token_hint, name, host, created_by)
    VALUES (:id, :org_id, :token_hash, :token_hint, :name, :host, :created_by)
""")

_ALL: Final = text("""
    SELECT s.id, s.org_id, s.name, s.host, s.token_hint, s.created_at, s.revoked_at, s.first_seen_at, s.last_seen_at,
        s.version, s.last_ingest_at, s.newest_record_at, s.records,
        (SELECT count(*) FROM butler.work_items w
         WHERE w.org_id = s.org_id AND w.steward_id = s.id AND w.ended_at IS NULL) AS waiting_work
    FROM butler.steward_tokens s WHERE s.org_id = :org_id
    ORDER BY s.revoked_at IS NOT NULL, s.created_at DESC, s.id DESC
""")

_REVOKE: Final = text("""
    UPDATE butler.steward_tokens SET revoked_at = clock_timestamp()
    WHERE org_id = :org_id AND id = :id AND revoked_at IS NULL RETURNING name
""")

_CLEAR_WORK: Final = text("""
    UPDATE butler.work_items SET ended_at = clock_timestamp(), succeeded = false
    WHERE org_id = :org_id AND steward_id = :id AND ended_at IS NULL
""")

_GET: Final = text("SELECT id FROM butler.steward_tokens WHERE org_id = :org_id AND id = :id")

_BEARER: Final = text("""
    SELECT s.id AS steward_id, s.org_id, o.name AS org_name, s.last_seen_at, s.version
    FROM butler.steward_tokens s JOIN butler.organisations o ON o.id = s.org_id
    WHERE s.token_hash = :token_hash AND s.revoked_at IS NULL
""")

_SEEN: Final = text("""
    UPDATE butler.steward_tokens SET
        last_seen_at = greatest(last_seen_at, :now), first_seen_at = coalesce(first_seen_at, :now),
        version = coalesce(CAST(:version AS text), version)
    WHERE org_id = :org_id AND id = :id
""")


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whose token it is: the organisation of all that this call says and asks."""

    steward_id: UUID
    org_id: UUID
    org_name: str


def create_token(connection: Connection, actor: Actor, name: str, host: str | None) -> Made:
    """A token, in a transaction that may do more."""
    plaintext, token_id = made(STEWARD_TOKEN), uuid4()
    facts = {
        "id": token_id,
        "org_id": actor.org_id,
        "token_hash": digest(plaintext),
        "token_hint": hint(plaintext),
        "name": name,
        "host": host,
        "created_by": actor.user_id,
    }
    connection.execute(_CREATE, facts)
    audit(connection, actor, Entry("steward.created", token_id, name, notice=True))
    return Made(token_id, plaintext)


class Stewards:
    """The table `steward_tokens`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, actor: Actor, name: str, host: str | None = None) -> Made:
        """A new Steward's token; its plaintext is in the answer and nowhere else. `host`: where it is to run."""
        with self._database.change() as connection:
            return create_token(connection, actor, name, host)

    def all(self, org_id: UUID) -> list[StewardToken]:
        """All, revoked ones last, newest first."""
        return [StewardToken(**row._mapping) for row in self._database.rows(_ALL, org_id=org_id)]

    def revoke(self, actor: Actor, steward_id: UUID) -> None:
        """For ever: its next call is refused. Again, it changes nothing. Raises NotThere."""
        facts = {"org_id": actor.org_id, "id": steward_id}
        with self._database.change() as connection:
            row = connection.execute(_REVOKE, facts).one_or_none()
            if row is not None:
                connection.execute(_CLEAR_WORK, facts)
                audit(connection, actor, Entry("steward.revoked", steward_id, row.name, notice=True))
        if row is None and self._database.one(_GET, **facts) is None:
            raise NotThere

    def bearer(self, token: Secret[str], user_agent: str, now: datetime) -> Bearer | None:
        """Whose token it is, None for nobody's; the Steward is noted as seen, with the version it names."""
        row = self._database.one(_BEARER, token_hash=digest(token))
        if row is None:
            return None
        told = _USER_AGENT.fullmatch(user_agent)
        version = told[1] if told else None
        known = version is None or version == row.version
        if not known or row.last_seen_at is None or now - row.last_seen_at >= SEEN_EVERY:
            with self._database.change() as connection:
                facts = {"org_id": row.org_id, "id": row.steward_id, "now": now, "version": version}
                connection.execute(_SEEN, facts)
        return Bearer(row.steward_id, row.org_id, row.org_name)
