"""A ledger, a directory and an after-response that live in this process: for tests and for trying things out.

Refuses nothing that PostgreSQL would take and takes nothing that PostgreSQL would refuse: the contract suites run over
both. Nothing outlives the process.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from steward.adapters.memory_trust import MemoryTrust
from steward.errors import LedgerFault, SchemaTooOld
from steward.exchange import MAX_COST_USD, MAX_TOKENS, BodyState, Exchange, Intent, Record
from steward.policy import NOTHING_SAID, Local
from steward.ports import (
    MAX_SYNCED_KEYS,
    NOT_REGISTERED,
    REGISTERED_ELSEWHERE,
    AfterResponse,
    ApiKey,
    AppliedKeys,
    ButlerWord,
    Directory,
    Identity,
    Ledger,
    LedgerRow,
    Refused,
    Registration,
    SentKey,
    SyncKind,
    SyncState,
    Turns,
    key_name,
)
from steward.words import Secret

_CHANGED_WITHIN = timedelta(seconds=60)
_HEARD_EVERY = timedelta(seconds=30)
_MAX_BIGINT = 2**63 - 1


class MemoryLedger(Ledger):
    """Rows in a dictionary."""

    def __init__(self) -> None:
        self._rows: dict[UUID, LedgerRow] = {}
        self._lock = threading.Lock()

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        refused: list[Refused] = []
        with self._lock:
            for record in batch:
                if state := _refusal(record):
                    refused.append(Refused(record.id, state))
                    continue
                row = self._rows.get(record.id)
                if row is None:
                    self._rows[record.id] = LedgerRow(record, 1)
                elif row.record.org_id == record.org_id and record.supersedes(row.record):
                    self._rows[record.id] = LedgerRow(record, row.revision + 1)
        return refused

    def known(self, org_id: UUID, calls: Sequence[UUID]) -> set[UUID]:
        return {call for call in calls if self.get(org_id, call) is not None}

    def get(self, org_id: UUID, request_id: UUID) -> LedgerRow | None:
        row = self._rows.get(request_id)
        return row if row is not None and row.record.org_id == org_id else None

    def newest(self, org_id: UUID, limit: int) -> list[LedgerRow]:
        with self._lock:
            rows = [row for row in self._rows.values() if row.record.org_id == org_id]
        return sorted(rows, key=lambda row: row.record.id, reverse=True)[:limit]

    def ready(self) -> None:
        return None

    def all_rows(self) -> list[LedgerRow]:
        """Every row, of all organisations, in the order of their ids."""
        with self._lock:
            return sorted(self._rows.values(), key=lambda row: row.record.id)

    def all_records(self) -> list[Record]:
        """Every row, of all organisations."""
        with self._lock:
            return [row.record for row in self._rows.values()]

    def say_body_state(self, request_id: UUID, was: BodyState, state: BodyState) -> bool:
        """Changes the word on the body of a row that says `was`; whether there is such a row."""
        with self._lock:
            row = self._rows.get(request_id)
            if row is None or row.record.body_state is not was or was is state:
                return False
            record = dataclasses.replace(row.record, body_state=state)
            self._rows[request_id] = LedgerRow(record, row.revision + 1)
            return True


class MemoryDirectory(MemoryTrust, Directory):
    """Keys in a dictionary, and secrets that last as long as it does."""

    def __init__(self, local: Local = NOTHING_SAID) -> None:
        super().__init__(local)
        self._keys: dict[str, ApiKey] = {}
        self._registrations: dict[UUID, Registration] = {}
        self._tokens: dict[UUID, Secret[str]] = {}
        self._sync: dict[tuple[UUID, SyncKind], tuple[datetime | None, datetime | None]] = {}
        self._said_at: dict[UUID, datetime] = {}
        self._secrets = {"provider_key_hash": Secret(secrets.token_bytes(32))}
        self._lock = threading.Lock()

    def create_key(self, org_id: UUID, name: str, key_hash: str, description: str | None = None) -> ApiKey:
        now = datetime.now(UTC)
        with self._lock:
            if key_hash in self._keys:
                raise LedgerFault("There is a key with this hash already.")
            key = ApiKey(
                id=uuid4(),
                org_id=org_id,
                key_hash=key_hash,
                name=key_name(name),
                is_active=True,
                created_at=now,
                updated_at=now,
                description=None if description is None else key_name(description),
            )
            self._keys[key_hash] = key
        return key

    def list_keys(self, org_id: UUID) -> list[ApiKey]:
        keys = [key for key in list(self._keys.values()) if key.org_id == org_id]
        return sorted(keys, key=lambda key: (key.created_at, key.id), reverse=True)

    def revoke_key(self, org_id: UUID, key_id: UUID) -> ApiKey | None:
        with self._lock:
            key = next((key for key in self._keys.values() if (key.org_id, key.id) == (org_id, key_id)), None)
            if key is None or key.revoked_at is not None:
                return key
            now = datetime.now(UTC)
            revoked = dataclasses.replace(key, is_active=False, revoked_at=now, updated_at=now)
            self._keys[key.key_hash] = revoked
            return revoked

    def find_key(self, key_hash: str) -> ApiKey | None:
        return self._keys.get(key_hash)

    def changed_keys(self) -> list[ApiKey]:
        since = datetime.now(UTC) - _CHANGED_WITHIN
        return [key for key in list(self._keys.values()) if key.updated_at > since]

    def confirm_keys(self, key_hashes: Iterable[str]) -> list[ApiKey]:
        return [key for key_hash in set(key_hashes) if (key := self._keys.get(key_hash)) is not None]

    def register(self, said: Identity, butler_url: str, token: Secret[str]) -> Registration:
        with self._lock:
            made = self._register(said, butler_url, token)
            if made is not None:
                self.note_registration(made)  # what Butler assigned by itself opens no window
        if made is None:
            raise LedgerFault(REGISTERED_ELSEWHERE)
        return made

    def take_over(self, given: Sequence[tuple[Identity, Secret[str]]], butler_url: str) -> list[Registration]:
        with self._lock:
            made = [self._register(said, butler_url, token, again=False) for said, token in given]
        return [each for each in made if each is not None]

    def _register(self, said: Identity, butler_url: str, token: Secret[str], again: bool = True) -> Registration | None:
        before = self._registrations.get(said.org_id)
        stands = before is not None and before.deregistered_at is None
        if before is not None and stands and before.butler_url != butler_url:
            return None
        same = before is not None and before.butler_url == butler_url
        made = Registration(
            id=before.id if before is not None and same else uuid4(),
            org_id=said.org_id,
            org_name=said.org_name,
            steward_id=said.steward_id,
            butler_url=butler_url,
            registered_at=before.registered_at if before is not None and stands and not again else datetime.now(UTC),
            local_from=before.local_from if before is not None and stands else _first_id_from_now(),
            heard_at=None if before is None else before.heard_at,
            fault=before.fault if before is not None and stands and not again else None,
        )
        self._registrations[said.org_id] = made
        self._tokens[said.org_id] = token
        return made

    def heard(self, registration: Registration, fault: ButlerWord | None) -> None:
        with self._lock:
            before = self._in_force(registration)
            if before is None:
                return
            now = datetime.now(UTC)
            stale = before.heard_at is None or before.heard_at < now - _HEARD_EVERY
            if before.fault != fault or (fault is None and stale):
                heard_at = now if fault is None else before.heard_at
                self._registrations[before.org_id] = dataclasses.replace(before, heard_at=heard_at, fault=fault)

    def sync_state(self, registration: Registration, kind: SyncKind) -> SyncState:
        with self._lock:
            watermark, full_at = self._sync.get((registration.id, kind), (None, None))
            return SyncState(watermark, datetime.now(UTC), full_at)

    def apply_keys(self, registration: Registration, keys: Sequence[SentKey]) -> AppliedKeys:
        with self._lock:
            if self._in_force(registration) is None:
                raise LedgerFault(NOT_REGISTERED)
            now = datetime.now(UTC)
            watermark, full_at = self._sync.get((registration.id, "api_keys"), (None, None))
            newest = {key.id: key for key in sorted(keys, key=lambda key: key.updated_at)}
            refused = []
            for _, sent in sorted(newest.items()):
                if not self._apply(registration, sent, now):
                    refused.append(sent.id)
                elif sent.updated_at <= now:
                    watermark = sent.updated_at if watermark is None else max(watermark, sent.updated_at)
            self._sync[registration.id, "api_keys"] = (watermark, full_at)
            return AppliedKeys(watermark, tuple(refused))

    def _apply(self, registration: Registration, sent: SentKey, now: datetime) -> bool:
        """Whether the key is, or is from now on, this registration's; it changes if what is sent is no older."""
        known = self._keys.get(sent.key_hash) or next((key for key in self._keys.values() if key.id == sent.id), None)
        mine = sum(1 for key in self._keys.values() if key.registration_id == registration.id)
        if known is None and mine >= MAX_SYNCED_KEYS:
            return False
        key = known or _new_key(registration, sent, now)
        same = (key.id, key.key_hash, key.org_id, key.registration_id, key.user_id)
        if same != (sent.id, sent.key_hash, registration.org_id, registration.id, sent.user_id):
            return False
        if sent.updated_at < self._said_at.get(sent.id, sent.updated_at):
            return True
        self._said_at[sent.id] = min(sent.updated_at, now)
        revoked_at = key.revoked_at or (None if sent.revoked_at is None else min(sent.revoked_at, now))
        changed = dataclasses.replace(
            key,
            name=sent.name,
            description=sent.description,
            is_active=sent.is_active and revoked_at is None,
            revoked_at=revoked_at,
            deprecated_model_behavior=sent.deprecated_model_behavior,
        )
        if changed != known:
            self._keys[sent.key_hash] = dataclasses.replace(changed, updated_at=now)
        return True

    def rest_missing(self, registration: Registration, seen: Collection[UUID], since: datetime) -> int:
        with self._lock:
            if self._in_force(registration) is None:
                raise LedgerFault(NOT_REGISTERED)
            now = datetime.now(UTC)
            mine = [key for key in self._keys.values() if key.registration_id == registration.id]
            missing = [key for key in mine if key.is_active and key.id not in seen and key.updated_at < since]
            for key in missing:
                self._keys[key.key_hash] = dataclasses.replace(key, is_active=False, updated_at=now)
            watermark, _ = self._sync.get((registration.id, "api_keys"), (None, None))
            self._sync[registration.id, "api_keys"] = (watermark, now)
            return len(missing)

    def _in_force(self, registration: Registration) -> Registration | None:
        found = self._registrations.get(registration.org_id)
        return found if found is not None and found.id == registration.id and not found.deregistered_at else None

    def registrations(self) -> list[Registration]:
        return sorted(self._registrations.values(), key=lambda each: (each.org_name, each.org_id))

    def token(self, org_id: UUID, at: Registration | None = None) -> Secret[str] | None:
        with self._lock:
            known = self._registrations.get(org_id)
            mine = known is not None and (at is None or (at.id, at.butler_url) == (known.id, known.butler_url))
            return self._tokens.get(org_id) if mine else None

    def deregister(self, org_id: UUID) -> Registration | None:
        with self._lock:
            before = self._registrations.get(org_id)
            if before is None or before.deregistered_at is not None:
                return before
            now = datetime.now(UTC)
            ended = dataclasses.replace(before, deregistered_at=now)
            self._registrations[org_id] = ended
            del self._tokens[org_id]
            for key in [key for key in self._keys.values() if key.registration_id == before.id and key.is_active]:
                self._keys[key.key_hash] = dataclasses.replace(key, is_active=False, updated_at=now)
        return ended

    def say_local_from(self, registration_id: UUID, first: UUID) -> None:
        """Lowers it, never raises it."""
        with self._lock:
            for org_id, each in self._registrations.items():
                if each.id == registration_id and first < each.local_from:
                    self._registrations[org_id] = dataclasses.replace(each, local_from=first)

    def instance_secret(self, name: str) -> Secret[bytes]:
        if name not in self._secrets:
            raise SchemaTooOld
        return self._secrets[name]


class MemoryTurns(Turns):
    """Processes that are objects: who holds a registration's turn stands in a dictionary they share."""

    def __init__(self, holders: dict[UUID, object] | None = None) -> None:
        self._holders = {} if holders is None else holders

    def hold(self, registration_id: UUID) -> bool:
        return self._holders.setdefault(registration_id, self) is self

    def let_go(self, registration_id: UUID) -> None:
        if self._holders.get(registration_id) is self:
            del self._holders[registration_id]

    def close(self) -> None:
        for each in [each for each, holder in self._holders.items() if holder is self]:
            del self._holders[each]


def _new_key(registration: Registration, sent: SentKey, now: datetime) -> ApiKey:
    return ApiKey(
        id=sent.id,
        org_id=registration.org_id,
        key_hash=sent.key_hash,
        name=sent.name,
        is_active=False,
        created_at=min(sent.created_at, now),
        updated_at=now,
        user_id=sent.user_id,
        registration_id=registration.id,
    )


class MemoryAfterResponse(AfterResponse):
    """Keeps what it is given, and settles nothing."""

    def __init__(self) -> None:
        self.intended: list[Intent] = []
        self.submitted: list[Exchange] = []

    def intend(self, intent: Intent) -> None:
        self.intended.append(intent)

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        self.submitted.append(exchange)
        return None

    async def close(self) -> None:
        for exchange in self.submitted:
            exchange.request.close()
            exchange.response.close()


def _first_id_from_now() -> UUID:
    return UUID(int=int(datetime.now(UTC).timestamp() * 1000) << 80)


def _refusal(record: Record) -> str | None:
    """SQLSTATE with which PostgreSQL refuses the row, or None."""
    for name in Record.__dataclass_fields__:
        value = getattr(record, name)
        if isinstance(value, str):
            state = _text_refusal(value)
        elif isinstance(value, Mapping):
            state = next(filter(None, (_text_refusal(text) for pair in value.items() for text in pair)), None)
        elif isinstance(value, Decimal):
            state = None if value.is_finite() and 0 <= value <= MAX_COST_USD else "23514"
        elif isinstance(value, int):
            most = MAX_TOKENS if name.endswith("_tokens") else _MAX_BIGINT
            state = None if 0 <= value <= most else "23514"
        else:
            state = None
        if state is not None:
            return state
    return None


def _text_refusal(text: str) -> str | None:
    if "\0" in text:
        return "22P05"
    return None if text.isascii() or text.encode("utf-8", "replace").decode() == text else "22023"
