"""Managed mode, Butler's side: organisations handed to a Steward that someone else runs, each by a token of its own.

The token is sealed until the managed Steward has claimed it, and forgotten then. Which organisation an assignment is of
says its row, never the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import text

from steward.butler.database import Database
from steward.butler.errors import NotThere
from steward.butler.nouns import Actor
from steward.butler.store_audit import Entry, audit
from steward.butler.store_stewards import create_token
from steward.seal import Keyring, Purpose, SealFacts
from steward.words import Secret

_ADD: Final = text("""
    INSERT INTO butler.managed_assignments (id, org_id, steward_id, sealed_token)
    VALUES (:id, :org_id, :steward_id, :sealed_token)
""")

_PENDING: Final = text("""
    SELECT a.id, a.org_id, o.name AS org_name, a.sealed_token
    FROM butler.managed_assignments a JOIN butler.organisations o ON o.id = a.org_id
    JOIN butler.steward_tokens s ON s.org_id = a.org_id AND s.id = a.steward_id AND s.revoked_at IS NULL
    WHERE a.claimed_at IS NULL ORDER BY a.created_at, a.id LIMIT 100
""")
"""Across organisations: the managed Steward serves them all, and each by its own token."""

_CLAIM: Final = text("""
    UPDATE butler.managed_assignments SET claimed_at = :now, sealed_token = NULL
    WHERE id = :id AND claimed_at IS NULL
""")

_KNOWN: Final = text("SELECT id FROM butler.managed_assignments WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One organisation that waits to be taken over."""

    id: UUID
    org_id: UUID
    org_name: str
    token: Secret[str] = field(repr=False)


class Managed:
    """The table `managed_assignments`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def assign(self, actor: Actor, name: str) -> UUID:
        """Hands the actor's organisation to the managed Steward. That Steward's id. InTheWay: one waits already."""
        assignment_id = uuid4()
        with self._database.change() as connection:
            made = create_token(connection, actor, name, "managed")
            sealed = self._keyring.seal(
                Purpose.BUTLER, made.plaintext.reveal().encode(), _facts(assignment_id, actor.org_id)
            )
            facts = {"id": assignment_id, "org_id": actor.org_id, "steward_id": made.id, "sealed_token": sealed}
            connection.execute(_ADD, facts)
            audit(connection, actor, Entry("steward.assigned", made.id, name, notice=True))
        return made.id

    def pending(self) -> list[Assignment]:
        """What waits, oldest first."""
        found = []
        for row in self._database.rows(_PENDING):
            opened = self._keyring.open(Purpose.BUTLER, bytes(row.sealed_token), _facts(row.id, row.org_id))
            found.append(Assignment(row.id, row.org_id, row.org_name, Secret(opened.reveal().decode())))
        return found

    def claim(self, assignment_id: UUID, now: datetime) -> None:
        """It was taken over. Again, it changes nothing. Raises NotThere."""
        with self._database.change() as connection:
            connection.execute(_CLAIM, {"id": assignment_id, "now": now})
            if connection.execute(_KNOWN, {"id": assignment_id}).one_or_none() is None:
                raise NotThere


def _facts(assignment_id: UUID, org_id: UUID) -> SealFacts:
    return SealFacts(row_id=str(assignment_id), org_id=org_id, owner="managed")
