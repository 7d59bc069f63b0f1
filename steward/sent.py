"""What Butler sent about storage and provider keys, and what became of it: nouns alone.

Nothing here says that it takes effect: a row is a wish until `policy.py` has decided on it (SECURITY F1, F2). Secrets
are masked, and a credential is one of the closed kinds of `destination.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from steward.destination import GcsDestination, S3Destination
from steward.words import Secret

SentDestination = S3Destination | GcsDestination
"""A folder of this host is nothing that Butler can name. Credentials are its own, or `HostRole` for none."""


class OwnerType(StrEnum):
    """Whose calls a row is for."""

    USER = "user"
    """One user's: the Personal scope, which comes before the organisation's."""
    ORG = "org"


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where Butler wants the bodies of one user or of the organisation."""

    owner_type: OwnerType
    owner_id: UUID
    destination: SentDestination | None
    """None: the owner is known, and what stands beside it is not understood or not allowed to be said at all."""


@dataclass(frozen=True, slots=True)
class SentProviderKey:
    """A provider's key for jobs, as Butler sent it."""

    id: UUID
    owner_type: OwnerType
    owner_id: UUID
    provider: str
    key: Secret[str] = field(repr=False)
    org_id: UUID | None = None
    """The organisation it says it is of; compared with the one whose token fetched it, never believed."""


@dataclass(frozen=True, slots=True)
class KeptConfig:
    """A storage config as the directory keeps it: opened, and bound to its organisation and owner."""

    id: UUID
    """Stands in the rows of calls whose bodies lie there; the same destination of the same owner has it again."""
    org_id: UUID
    owner_type: OwnerType
    owner_id: UUID
    fingerprint: str
    destination: SentDestination | None
    current: bool
    """What Butler says now; else the last one before it that was in force."""
    approved: bool
    """An approval of this fingerprint is kept and bears our own MAC."""
    said_at: datetime
    broken: bool = False
    """Its row was changed by somebody without our key: it says nothing that counts, and bodies wait."""


class Wanted(StrEnum):
    """What a person inside can approve."""

    STORAGE = "storage"
    PROVIDER_KEY = "provider_key"


@dataclass(frozen=True, slots=True)
class Pending:
    """Something of Butler's that is not in force, and why."""

    wanted: Wanted
    fingerprint: str
    org_id: UUID
    owner_type: OwnerType
    owner_id: UUID
    reason: str
    """A code of `policy.Reason`."""
    approvable: bool
    """False: no approval can help; the local settings or the rules say no."""
    names: Mapping[str, str]
    """Everything the fingerprint covers, in words, without secrets. Butler's text: escape it where it is shown."""
    said_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A provider's key that is kept for jobs, without the key."""

    org_id: UUID
    provider: str
    local: bool
    """Entered inside; else Butler's."""
    owner_type: OwnerType
    owner_id: UUID
    fingerprint: str
    usable: bool
    """Local, or approved."""
    kept_at: datetime
