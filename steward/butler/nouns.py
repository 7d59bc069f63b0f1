"""What Butler knows: people, keys, Stewards, storage, records and sums of them. Frozen, no I/O, no secret but once.

Times are aware and in UTC, money is Decimal USD, durations are milliseconds; None means unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal
from uuid import UUID

from steward.words import Secret

SERVER_ADDRESS = "server"
"""Stands for a network address where a command on the machine itself did it."""


class Role(StrEnum):
    """What a person may do in an organisation; each may do what those below it may."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"

    def includes(self, needed: Role) -> bool:
        """Whether who has this role may do what `needed` may."""
        order = tuple(Role)
        return order.index(self) <= order.index(needed)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and for which organisation: what every change is asked with, and audited under."""

    org_id: UUID
    user_id: UUID | None
    email: str
    address: str = SERVER_ADDRESS
    """The network address the call came from."""


@dataclass(frozen=True, slots=True)
class Organisation:
    """A tenant."""

    id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """A person in an organisation."""

    user_id: UUID
    email: str
    name: str
    role: Role
    created_at: datetime
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invitation:
    """Waits for a person. Its link is shown once."""

    id: UUID
    email: str
    role: Role
    invited_by: str
    created_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in: a browser or a command line."""

    id: UUID
    kind: Literal["browser", "cli"]
    org_id: UUID
    org_name: str
    user_id: UUID
    email: str
    user_name: str
    role: Role
    created_at: datetime
    ends_at: datetime
    fresh_until: datetime
    """Until then a change that asks for the password does not ask again."""
    name: str = ""
    """The browser's or the machine's, as it called itself."""
    last_seen_at: datetime | None = None

    def actor(self, address: str) -> Actor:
        """As whom it changes things."""
        return Actor(self.org_id, self.user_id, self.email, address)


DeprecatedModels = Literal["passthrough", "redirect", "warn"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that applications call a Steward with. Butler keeps its hash."""

    id: UUID
    org_id: UUID
    key_hash: str
    key_hint: str
    """Its last four characters."""
    name: str
    description: str | None
    user_id: UUID | None
    deprecated_model_behavior: DeprecatedModels
    is_active: bool
    revoked_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key with what it did in the last 30 days."""

    key: ApiKey
    user_email: str | None
    last_used_at: datetime | None
    calls: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Made:
    """A secret that was just made, and the id of what it belongs to: shown once, kept as a hash."""

    id: UUID
    plaintext: Secret[str]


@dataclass(frozen=True, slots=True)
class StewardToken:
    """A Steward, as Butler sees it. Its lag is `newest_record_at` against now while `last_ingest_at` is recent."""

    id: UUID
    org_id: UUID
    name: str
    host: str | None
    """Where it runs, in the words of who made the token."""
    token_hint: str
    created_at: datetime
    revoked_at: datetime | None
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    version: str | None
    last_ingest_at: datetime | None
    newest_record_at: datetime | None
    """The newest `requested_at` it sent."""
    records: int
    waiting_work: int
    """Work items it has not fetched or not acknowledged."""


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where bodies go. Its secret is written, never read back but by the organisation's Stewards."""

    id: UUID
    owner_type: Literal["user", "org"]
    owner_id: UUID
    owner_email: str | None
    """Of a Personal config."""
    provider: Literal["s3", "gcs"]
    s3_bucket: str | None
    s3_region: str | None
    s3_endpoint: str | None
    s3_access_key_id: str | None
    gcs_bucket: str | None
    gcs_project_id: str | None
    has_secret: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """What a person sets. `secret`: S3's secret access key or Google's credentials JSON; None keeps what is there."""

    provider: Literal["s3", "gcs"]
    bucket: str
    s3_region: str | None = None
    s3_endpoint: str | None = None
    s3_access_key_id: str | None = None
    gcs_project_id: str | None = None
    secret: Secret[str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A provider's credential for jobs. Its value is written, never read back but by the organisation's Stewards."""

    id: UUID
    user_id: UUID | None
    """None: the organisation's."""
    user_email: str | None
    provider: str
    key_hint: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class BodyStates:
    """What the Stewards' records of a time say of their bodies: counts by state."""

    counts: Mapping[str, int]
    newest_stored_at: datetime | None
    newest_failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class MetadataKey:
    """A tag's name that was seen. Only an active one can be filtered by, and is summed."""

    name: str
    label: str | None
    is_active: bool
    activated_at: datetime | None
    indexed_since: datetime | None
    """Calls from then on can be filtered by it and are in its sums; it moves back until all are."""
    calls: int
    distinct_values: int
    """Estimated, within some percent."""
    first_seen_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: who, what, when. Never a secret."""

    id: UUID
    at: datetime
    actor_id: UUID | None
    actor_email: str
    address: str
    action: str
    """`noun.verb`: `api_key.created`, `storage.changed`."""
    object_type: str
    object_id: str
    object_name: str
    details: Mapping[str, object]
    is_notice: bool
    """It is shown to all owners until each has seen it."""
