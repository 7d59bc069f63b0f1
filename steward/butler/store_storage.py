"""Cloud storage configs: where bodies go, by scope. The secret is sealed, and read back by Stewards alone.

A config's secret opens for its row, organisation, owner and destination only: another bucket or endpoint needs the
secret again. Every change is told to all owners and makes work for the Stewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.engine import Row

from steward.butler.database import Database
from steward.butler.errors import NotAcceptable, NotThere
from steward.butler.nouns import Actor, BodyStates, StorageConfig, StorageSettings
from steward.butler.store_audit import Entry, audit
from steward.butler.store_work import JobType, announce
from steward.seal import Keyring, Purpose, SealFacts
from steward.words import Secret

_COLUMNS: Final = (
    "id, owner_type, owner_id, provider, s3_bucket, s3_region, s3_endpoint, s3_access_key_id, gcs_bucket, "
    "gcs_project_id, created_at, updated_at"
)
_LISTED: Final = ", ".join(f"c.{name}" for name in _COLUMNS.split(", "))

_ALL: Final = text(f"""
    SELECT {_LISTED}, c.sealed IS NOT NULL AS has_secret, u.email AS owner_email
    FROM butler.storage_configs c
    LEFT JOIN butler.memberships m ON m.org_id = c.org_id AND c.owner_type = 'user' AND m.user_id = c.owner_id
    LEFT JOIN butler.users u ON u.id = m.user_id
    WHERE c.org_id = :org_id ORDER BY c.owner_type, u.email, c.id
""")  # noqa: S608 - names from this file

_SENT: Final = text(f"""
    SELECT {_COLUMNS}, sealed FROM butler.storage_configs WHERE org_id = :org_id ORDER BY owner_type, owner_id
""")  # noqa: S608 - names from this file

_FIND: Final = text(f"""
    SELECT {_COLUMNS}, sealed FROM butler.storage_configs
    WHERE org_id = :org_id AND owner_type = :owner_type AND owner_id = :owner_id FOR UPDATE
""")  # noqa: S608 - names from this file

_SET: Final = text("""
    INSERT INTO butler.storage_configs AS c (id, org_id, owner_type, owner_id, provider, s3_bucket, s3_region,
        s3_endpoint, s3_access_key_id, gcs_bucket, gcs_project_id, sealed)
    VALUES (:id, :org_id, :owner_type, :owner_id, :provider, :s3_bucket, :s3_region, :s3_endpoint, :s3_access_key_id,
        :gcs_bucket, :gcs_project_id, :sealed)
    ON CONFLICT (org_id, owner_type, owner_id) DO UPDATE SET
        provider = excluded.provider, s3_bucket = excluded.s3_bucket, s3_region = excluded.s3_region,
        s3_endpoint = excluded.s3_endpoint, s3_access_key_id = excluded.s3_access_key_id,
        gcs_bucket = excluded.gcs_bucket, gcs_project_id = excluded.gcs_project_id, sealed = excluded.sealed,
        updated_at = clock_timestamp()
""")

_REMOVE: Final = text("""
    DELETE FROM butler.storage_configs WHERE org_id = :org_id AND id = :id
    RETURNING owner_type, owner_id, s3_bucket, gcs_bucket
""")

_OWNER: Final = text("SELECT owner_type, owner_id FROM butler.storage_configs WHERE org_id = :org_id AND id = :id")

_STATES: Final = text("""
    SELECT body_state, count(*) AS calls, max(requested_at) AS newest_at FROM butler.requests
    WHERE org_id = :org_id AND requested_at >= :since AND requested_at < :until AND body_state IS NOT NULL
    GROUP BY body_state
""")

Scope = Literal["user", "org"]


@dataclass(frozen=True, slots=True)
class SentConfig:
    """A config as a Steward gets it, its secret in clear."""

    config: StorageConfig
    secret: Secret[str] | None


class Storage:
    """The table `storage_configs`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def all(self, org_id: UUID) -> list[StorageConfig]:
        """The organisation's first, then the Personal ones by their owner."""
        return [StorageConfig(**row._mapping) for row in self._database.rows(_ALL, org_id=org_id)]

    def set(self, actor: Actor, scope: Scope, wanted: StorageSettings) -> UUID:
        """The organisation's config, or the actor's own (`user`). Its id. Raises NotAcceptable: a secret is missing."""
        owner_id = _owner(actor, scope)
        destination = _destination(wanted)
        key = {"org_id": actor.org_id, "owner_type": scope, "owner_id": owner_id}
        with self._database.change() as connection:
            before = connection.execute(_FIND, key).one_or_none()
            config_id = uuid4() if before is None else before.id
            facts = _facts(actor.org_id, config_id, owner_id, destination)
            if wanted.secret is not None:
                sealed = self._keyring.seal(Purpose.BUTLER, wanted.secret.reveal().encode(), facts)
            elif before is not None and before.sealed is not None and _destination(_settings(before)) == destination:
                sealed = bytes(before.sealed)
            elif wanted.s3_access_key_id is not None:
                raise NotAcceptable("secret", message="A new destination needs its secret.")
            else:
                sealed = None
            connection.execute(_SET, {**key, "id": config_id, "sealed": sealed, **_row(wanted)})
            details = {"scope": scope, "destination": destination}
            audit(connection, actor, Entry("storage.changed", config_id, wanted.bucket, details, notice=True))
            announce(connection, actor.org_id, JobType.STORAGE)
        return config_id

    def owner(self, org_id: UUID, config_id: UUID) -> tuple[Scope, UUID]:
        """Whose it is: the scope, and the user's or the organisation's id. Raises NotThere."""
        row = self._database.one(_OWNER, org_id=org_id, id=config_id)
        if row is None:
            raise NotThere
        return row.owner_type, row.owner_id

    def remove(self, actor: Actor, config_id: UUID) -> None:
        """Raises NotThere."""
        with self._database.change() as connection:
            row = connection.execute(_REMOVE, {"org_id": actor.org_id, "id": config_id}).one_or_none()
            if row is None:
                raise NotThere
            details = {"scope": row.owner_type}
            name = row.s3_bucket or row.gcs_bucket
            audit(connection, actor, Entry("storage.removed", config_id, name, details, notice=True))
            announce(connection, actor.org_id, JobType.STORAGE)

    def sent(self, org_id: UUID) -> list[SentConfig]:
        """The whole set with its secrets, for the organisation's Stewards."""
        return [self._sent(org_id, row) for row in self._database.rows(_SENT, org_id=org_id)]

    def body_states(self, org_id: UUID, since: datetime, until: datetime) -> BodyStates:
        """What the Stewards say of the bodies of that time's calls: stored, pending, failed and so on."""
        rows = self._database.rows(_STATES, org_id=org_id, since=since, until=until)
        newest = {row.body_state: row.newest_at for row in rows}
        counts = {row.body_state: row.calls for row in rows}
        return BodyStates(counts, newest.get("stored"), newest.get("failed"))

    def _sent(self, org_id: UUID, row: Row[Any]) -> SentConfig:
        said = dict(row._mapping)
        sealed = said.pop("sealed")
        config = StorageConfig(**said, owner_email=None, has_secret=sealed is not None)
        if sealed is None:
            return SentConfig(config, None)
        facts = _facts(org_id, row.id, row.owner_id, _destination(_settings(row)))
        opened = self._keyring.open(Purpose.BUTLER, bytes(sealed), facts)
        return SentConfig(config, Secret(opened.reveal().decode()))


def _owner(actor: Actor, scope: Scope) -> UUID:
    if scope == "org":
        return actor.org_id
    if actor.user_id is None:
        raise NotAcceptable("scope", message="A Personal config is its owner's to set.")
    return actor.user_id


def _facts(org_id: UUID, config_id: UUID, owner_id: UUID, destination: str) -> SealFacts:
    return SealFacts(row_id=str(config_id), org_id=org_id, owner=f"storage/{owner_id}", destination=destination)


def _destination(wanted: StorageSettings) -> str:
    """All that decides where a body would go, and as whom."""
    if wanted.provider == "gcs":
        return f"gs://{wanted.bucket} {wanted.gcs_project_id or ''}".rstrip()
    parts = (wanted.s3_region, wanted.s3_endpoint, wanted.s3_access_key_id)
    return " ".join((f"s3://{wanted.bucket}", *(part or "-" for part in parts)))


def _settings(row: Row[Any]) -> StorageSettings:
    if row.provider == "gcs":
        return StorageSettings("gcs", row.gcs_bucket, gcs_project_id=row.gcs_project_id)
    return StorageSettings("s3", row.s3_bucket, row.s3_region, row.s3_endpoint, row.s3_access_key_id)


def _row(wanted: StorageSettings) -> dict[str, object]:
    s3, gcs = wanted.provider == "s3", wanted.provider == "gcs"
    return {
        "provider": wanted.provider,
        "s3_bucket": wanted.bucket if s3 else None,
        "s3_region": wanted.s3_region if s3 else None,
        "s3_endpoint": wanted.s3_endpoint if s3 else None,
        "s3_access_key_id": wanted.s3_access_key_id if s3 else None,
        "gcs_bucket": wanted.bucket if gcs else None,
        "gcs_project_id": wanted.gcs_project_id if gcs else None,
    }
