"""Storage configs, provider keys and approvals that live in this process: the memory directory's trust book.

Refuses what PostgreSQL's does; the contract suite runs over both. Nothing rests anywhere, so nothing is sealed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from steward.arriving import MOST_PINNED, Circumstances, approved_already, arrived, pending
from steward.errors import LedgerFault
from steward.policy import NOTHING_SAID, Local, belongs, key_fingerprint, may_use_key
from steward.ports import NOT_REGISTERED
from steward.sent import KeptConfig, OwnerType, Pending, ProviderKey, SentProviderKey, StorageConfig
from steward.trust_book import NO_APPROVAL_HELPS, TrustBook, pending_key, usable
from steward.words import Secret

if TYPE_CHECKING:
    from steward.ports import Registration

_SUBKEY = Secret(bytes(32))


@dataclass(frozen=True, slots=True)
class _Key:
    kept: ProviderKey
    key: Secret[str]


class MemoryTrust(TrustBook):
    """Dictionaries by organisation."""

    def __init__(self, local: Local = NOTHING_SAID) -> None:
        self._local = local
        self._trust = threading.Lock()
        self._configs: dict[UUID, tuple[KeptConfig, ...]] = {}
        self._provider_keys: dict[UUID, list[_Key]] = {}
        self._approved: set[str] = set()
        self._pinned: dict[UUID, set[str]] = {}
        self._registered_inside: dict[UUID, datetime] = {}
        self._changes = 0

    def replace_storage_configs(self, registration: Registration, configs: Sequence[StorageConfig]) -> None:
        org_id, now = registration.org_id, datetime.now(UTC)
        self._hold_in_force(registration)
        with self._trust:
            at = self._registered_inside.get(registration.id)
            since_s = None if at is None else (now - at).total_seconds()
            room = MOST_PINNED - len(self._pinned.setdefault(org_id, set()))
            under = Circumstances(self._local, self._approved.__contains__, now, since_s, room)
            before = self._as_approved(self._configs.get(org_id, ()))
            new = arrived(org_id, configs, before, under)
            self._pinned[org_id] |= {each.fingerprint for each in new.pinned}
            self._approved |= self._pinned[org_id]
            self._changes += {each.id: each for each in new.kept} != {each.id: each for each in before}
            self._configs[org_id] = new.kept

    def replace_provider_keys(self, registration: Registration, keys: Sequence[SentProviderKey]) -> None:
        org_id = registration.org_id
        self._hold_in_force(registration)
        with self._trust:
            local = [each for each in self._provider_keys.get(org_id, []) if each.kept.local]
            won = {each.kept.provider for each in local}
            mine = [each for each in keys if belongs(org_id, each) and each.provider not in won]
            known = {each.kept.fingerprint: each for each in self._provider_keys.get(org_id, [])}
            self._changes += 1
            self._provider_keys[org_id] = local + [_keep(self._sent(org_id, each), known) for each in mine]

    def storage_mark(self) -> str:
        return str(self._changes)

    def kept_configs(self) -> list[KeptConfig]:
        with self._trust:
            return self._as_approved([each for kept in self._configs.values() for each in kept])

    def pending_approvals(self, org_id: UUID | None = None) -> list[Pending]:
        configs = [each for each in self.kept_configs() if org_id in (None, each.org_id)]
        keys = [pending_key(each) for each in self.provider_keys(org_id) if not each.usable]
        return [*pending(configs, self._local), *keys]

    def approve(self, fingerprint: str, by: str) -> Pending | None:
        waiting = next((each for each in self.pending_approvals() if each.fingerprint == fingerprint), None)
        if waiting is None:
            done = [each for each in self.kept_configs() if each.fingerprint == fingerprint]
            keys = [each for each in self.provider_keys() if each.fingerprint == fingerprint]
            return next((approved_already(each) for each in done), next(map(pending_key, keys), None))
        if not waiting.approvable:
            raise LedgerFault(NO_APPROVAL_HELPS[waiting.reason])
        with self._trust:
            self._approved.add(fingerprint)
            self._changes += 1
        return waiting

    def provider_keys(self, org_id: UUID | None = None) -> list[ProviderKey]:
        with self._trust:
            every = [each.kept for org, kept in self._provider_keys.items() if org_id in (None, org) for each in kept]
            approved = set(self._approved)
        found = [replace(each, usable=may_use_key(each.local, each.fingerprint in approved)) for each in every]
        return sorted(found, key=lambda each: (each.org_id, each.provider, each.owner_id))

    def set_provider_key(self, org_id: UUID, provider: str, key: Secret[str]) -> ProviderKey:
        printed = key_fingerprint(_SUBKEY, org_id, provider, key)
        kept = ProviderKey(org_id, provider, True, OwnerType.ORG, org_id, printed, True, datetime.now(UTC))
        with self._trust:
            others = [each for each in self._provider_keys.get(org_id, []) if each.kept.provider != provider]
            self._provider_keys[org_id] = [*others, _Key(kept, key)]
        return kept

    def remove_provider_key(self, org_id: UUID, provider: str) -> bool:
        with self._trust:
            before = self._provider_keys.get(org_id, [])
            after = [each for each in before if not (each.kept.local and each.kept.provider == provider)]
            self._provider_keys[org_id] = after
            return len(after) < len(before)

    def job_key(self, org_id: UUID, provider: str, user_id: UUID | None = None) -> Secret[str] | None:
        chosen = usable(self.provider_keys(org_id), provider, user_id)
        held = [each.key for each in self._provider_keys.get(org_id, []) if chosen and _is(each.kept, chosen)]
        return next(iter(held), None)

    def note_registration(self, registration: Registration) -> None:
        """A person inside registered it: the day in which destinations are pinned as they arrive begins."""
        self._registered_inside[registration.id] = registration.registered_at

    def _in_force(self, registration: Registration) -> Registration | None:
        """Whoever keeps registrations says which is."""
        raise NotImplementedError

    def _hold_in_force(self, registration: Registration) -> None:
        if self._in_force(registration) is None:
            raise LedgerFault(NOT_REGISTERED)

    def _as_approved(self, configs: Sequence[KeptConfig]) -> list[KeptConfig]:
        return [replace(each, approved=each.fingerprint in self._approved) for each in configs]

    def _sent(self, org_id: UUID, sent: SentProviderKey) -> _Key:
        printed = key_fingerprint(_SUBKEY, org_id, sent.provider, sent.key)
        now = datetime.now(UTC)
        kept = ProviderKey(org_id, sent.provider, False, sent.owner_type, sent.owner_id, printed, False, now)
        return _Key(kept, sent.key)


def _keep(new: _Key, known: dict[str, _Key]) -> _Key:
    """The day of one that was here already stays."""
    before = known.get(new.kept.fingerprint)
    return new if before is None else _Key(replace(new.kept, kept_at=before.kept.kept_at), new.key)


def _is(one: ProviderKey, other: ProviderKey) -> bool:
    return (one.fingerprint, one.owner_id, one.local) == (other.fingerprint, other.owner_id, other.local)
