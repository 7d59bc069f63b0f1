"""Provider keys for jobs: sealed, write-only for people, in clear for the organisation's Stewards alone.

Every change is told to all owners and makes work for the Stewards; none serves a proxied call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import text

from steward.butler.database import Database
from steward.butler.errors import NotThere
from steward.butler.nouns import Actor, ProviderKey
from steward.butler.secrets_made import hint
from steward.butler.store_audit import Entry, audit
from steward.butler.store_work import JobType, announce
from steward.seal import Keyring, Purpose, SealFacts
from steward.words import Secret

_ALL: Final = text("""
    SELECT k.id, k.user_id, k.provider, k.key_hint, k.created_at, k.updated_at, u.email AS user_email
    FROM butler.provider_keys k LEFT JOIN butler.users u ON u.id = k.user_id
    WHERE k.org_id = :org_id ORDER BY k.provider, u.email, k.id
""")

_SENT: Final = text("""
    SELECT id, user_id, provider, sealed, created_at, updated_at, key_hint FROM butler.provider_keys
    WHERE org_id = :org_id ORDER BY provider, id
""")

_FIND: Final = text("""
    SELECT id FROM butler.provider_keys
    WHERE org_id = :org_id AND user_id IS NOT DISTINCT FROM CAST(:user_id AS uuid) AND provider = :provider FOR UPDATE
""")

_ADD: Final = text("""
    INSERT INTO butler.provider_keys (id, org_id, user_id, provider, sealed, key_hint)
    VALUES (:id, :org_id, :user_id, :provider, :sealed, :key_hint)
""")

_CHANGE: Final = text("""
    UPDATE butler.provider_keys SET sealed = :sealed, key_hint = :key_hint, updated_at = clock_timestamp()
    WHERE org_id = :org_id AND id = :id
""")

_OWNER: Final = text("SELECT user_id FROM butler.provider_keys WHERE org_id = :org_id AND id = :id")

_REMOVE: Final = text("DELETE FROM butler.provider_keys WHERE org_id = :org_id AND id = :id RETURNING provider")


@dataclass(frozen=True, slots=True)
class SentKey:
    """A key as a Steward gets it, in clear."""

    about: ProviderKey
    key: Secret[str]


class ProviderKeys:
    """The table `provider_keys`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def all(self, org_id: UUID) -> list[ProviderKey]:
        """All, by provider; the key itself is not among them."""
        return [ProviderKey(**row._mapping) for row in self._database.rows(_ALL, org_id=org_id)]

    def set(self, actor: Actor, provider: str, key: Secret[str], personal: bool = False) -> UUID:
        """The organisation's key for a provider, or the actor's own; it takes the place of one before. Its id."""
        user_id = actor.user_id if personal else None
        with self._database.change() as connection:
            where = {"org_id": actor.org_id, "user_id": user_id, "provider": provider}
            before = connection.execute(_FIND, where).scalar_one_or_none()
            key_id = uuid4() if before is None else before
            sealed = self._keyring.seal(
                Purpose.BUTLER, key.reveal().encode(), _facts(actor.org_id, key_id, user_id, provider)
            )
            said = {**where, "id": key_id, "sealed": sealed, "key_hint": hint(key)}
            connection.execute(_ADD if before is None else _CHANGE, said)
            details = {"scope": "user" if personal else "org"}
            audit(connection, actor, Entry("provider_key.changed", key_id, provider, details, notice=True))
            announce(connection, actor.org_id, JobType.PROVIDER_KEYS)
        return key_id

    def owner(self, org_id: UUID, key_id: UUID) -> UUID | None:
        """Whose it is; None: the organisation's. Raises NotThere."""
        row = self._database.one(_OWNER, org_id=org_id, id=key_id)
        if row is None:
            raise NotThere
        user_id: UUID | None = row.user_id
        return user_id

    def remove(self, actor: Actor, key_id: UUID) -> None:
        """Raises NotThere."""
        with self._database.change() as connection:
            row = connection.execute(_REMOVE, {"org_id": actor.org_id, "id": key_id}).one_or_none()
            if row is None:
                raise NotThere
            audit(connection, actor, Entry("provider_key.removed", key_id, row.provider, notice=True))
            announce(connection, actor.org_id, JobType.PROVIDER_KEYS)

    def sent(self, org_id: UUID) -> list[SentKey]:
        """The whole set in clear, for the organisation's Stewards."""
        found = []
        for row in self._database.rows(_SENT, org_id=org_id):
            facts = _facts(org_id, row.id, row.user_id, row.provider)
            opened = self._keyring.open(Purpose.BUTLER, bytes(row.sealed), facts)
            said = {name: value for name, value in row._mapping.items() if name != "sealed"}
            found.append(SentKey(ProviderKey(**said, user_email=None), Secret(opened.reveal().decode())))
        return found


def _facts(org_id: UUID, key_id: UUID, user_id: UUID | None, provider: str) -> SealFacts:
    owner = f"provider-key/{user_id or 'organisation'}"
    return SealFacts(row_id=str(key_id), org_id=org_id, owner=owner, provider=provider)
