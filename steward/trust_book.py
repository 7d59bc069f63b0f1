"""The part of the directory that keeps what Butler wants and what a person inside approved: a Protocol and no more.

Every method raises LedgerUnavailable when the database cannot say, SchemaTooOld when the tables are missing. What is
a tenant's takes the organisation; only the poll of the stores, and the lists for operators, read over all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from steward.sent import KeptConfig, OwnerType, Pending, ProviderKey, SentProviderKey, StorageConfig, Wanted
from steward.words import Secret

if TYPE_CHECKING:
    from steward.ports import Registration


NO_APPROVAL_HELPS: Final[Mapping[str, str]] = {
    "not_in_allow_list": "BODY_STORE_ALLOW is set and does not name this bucket: it alone decides; nothing is approved",
    "not_understood": "What Butler says here is not understood; there is nothing that could be approved.",
    "host_role": "It brings no credentials, and the host's own role serves buckets of BODY_STORE_ALLOW alone.",
    "broken": "Somebody without ENCRYPTION_KEY changed this row in the database; the next pull from Butler mends it.",
    "managed_endpoint": "In managed mode an endpoint is https and public.",
}
"""What is said of what cannot be approved, by its reason."""


class TrustBook(Protocol):
    """Storage configs, provider keys and approvals."""

    def replace_storage_configs(self, registration: Registration, configs: Sequence[StorageConfig]) -> None:
        """The whole set for the registration's organisation, in one transaction: who is not in it has none any more.

        Idempotent. A row whose owner is the organisation and not the registration's is refused, alone. The last one of
        an owner that was in force is kept beside a new one that is not. Within TRUST_WINDOW what policy pins is
        approved as it arrives. Raises LedgerFault for a registration that is no more: its Butler's late answer is not
        the word of the one that took its place.
        """

    def replace_provider_keys(self, registration: Registration, keys: Sequence[SentProviderKey]) -> None:
        """The whole set for the organisation, as above. Where a local key is kept, Butler's is not stored."""

    def storage_mark(self) -> str:
        """A word that changes whenever any list here may answer otherwise. Cheap: asked every few seconds."""

    def kept_configs(self) -> list[KeptConfig]:
        """All configs of all organisations. A row that was tampered with is said and `broken`; an approval whose MAC is
        not ours is said and none."""

    def pending_approvals(self, org_id: UUID | None = None) -> list[Pending]:
        """What is not in force and why, of one organisation or of all: storage first, oldest first."""

    def approve(self, fingerprint: str, by: str) -> Pending | None:
        """Approves what waits under this fingerprint; None when nothing does. Safe to repeat.

        `by`: who did it, for the record. Raises LedgerFault for what no approval can help (`Pending.approvable`).
        """

    def provider_keys(self, org_id: UUID | None = None) -> list[ProviderKey]:
        """The keys that are kept for jobs, by organisation and provider."""

    def set_provider_key(self, org_id: UUID, provider: str, key: Secret[str]) -> ProviderKey:
        """Enters a key inside: it wins, takes the place of an earlier one, and Butler's is forgotten."""

    def remove_provider_key(self, org_id: UUID, provider: str) -> bool:
        """Forgets the local key; whether there was one."""

    def job_key(self, org_id: UUID, provider: str, user_id: UUID | None = None) -> Secret[str] | None:
        """The key that jobs may use: the local one, else the user's or the organisation's once approved, else None.

        Never for a proxied call.
        """


def usable(keys: Iterable[ProviderKey], provider: str, user_id: UUID | None) -> ProviderKey | None:
    """Of an organisation's keys the one that jobs of this user use: the local one, else his own, else everybody's."""
    mine = [
        each
        for each in keys
        if each.usable and each.provider == provider and (each.owner_type is OwnerType.ORG or each.owner_id == user_id)
    ]
    return min(mine, key=lambda each: (not each.local, each.owner_type is OwnerType.ORG), default=None)


def pending_key(key: ProviderKey) -> Pending:
    """A key of Butler's that waits, in words."""
    named = {"scope": key.owner_type.value, "owner": str(key.owner_id), "provider": key.provider}
    reason = "approved" if key.usable else "not_approved"
    return Pending(
        Wanted.PROVIDER_KEY,
        key.fingerprint,
        key.org_id,
        key.owner_type,
        key.owner_id,
        reason,
        True,
        named,
        key.kept_at,
    )
