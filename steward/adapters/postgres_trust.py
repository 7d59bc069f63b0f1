"""Storage configs, provider keys and approvals in PostgreSQL: the directory's part of the trust book.

Refuses to believe its own tables: what does not open under its own facts, or bears no MAC of ours, is said and left
out. Every statement carries the organisation, but for those that operators and the poll of the stores list all with.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine, Row

from steward import log
from steward.adapters.postgres_connection import mapped
from steward.adapters.postgres_sync import hold_in_force
from steward.adapters.postgres_trust_rows import Approval, broken_config, config_row, kept_config, key_facts, sound
from steward.arriving import MOST_PINNED, Circumstances, approved_already, arrived, pending
from steward.arriving import said as as_said
from steward.errors import LedgerFault, SealBroken
from steward.policy import NOTHING_SAID, Local, belongs, key_fingerprint, may_use_key, names
from steward.seal import Keyring, Purpose
from steward.sent import KeptConfig, OwnerType, Pending, ProviderKey, SentProviderKey, StorageConfig, Wanted
from steward.trust_book import NO_APPROVAL_HELPS, TrustBook, pending_key, usable
from steward.words import Secret

if TYPE_CHECKING:
    from steward.ports import Registration

_CONFIG: Final = (
    "org_id, id, owner_type, owner_id, vendor, bucket, region, endpoint, project, principal, sealed, is_current, "
    "said_at"
)
_KEY: Final = "org_id, id, source, owner_type, owner_id, provider, fingerprint, sealed, kept_at"
_APPROVAL: Final = "org_id, kind, fingerprint, how, approved_by, approved_at, names, mac"

LOCK_ORG: Final = "SELECT pg_advisory_xact_lock(hashtextextended('steward trust ' || CAST(:org_id AS text), 0))"
"""One set at a time for an organisation, whoever registers or pulls it meanwhile."""

CONFIGS: Final = f"SELECT {_CONFIG} FROM storage_configs WHERE org_id = :org_id"

ALL_CONFIGS: Final = f"SELECT {_CONFIG} FROM storage_configs"

KEEP_CONFIGS: Final = """
    DELETE FROM storage_configs
    WHERE org_id = :org_id AND id NOT IN (SELECT CAST(jsonb_array_elements_text(CAST(:ids AS jsonb)) AS uuid))
"""

PUT_CONFIGS: Final = f"""
    INSERT INTO storage_configs ({_CONFIG})
    SELECT :org_id, b.id, b.owner_type, b.owner_id, b.vendor, b.bucket, b.region, b.endpoint, b.project, b.principal,
        decode(b.sealed, 'hex'), b.is_current, b.said_at
    FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(id uuid, owner_type text, owner_id uuid, vendor text,
        bucket text, region text, endpoint text, project text, principal text, sealed text, is_current boolean,
        said_at timestamptz)
    ON CONFLICT (org_id, id) DO UPDATE SET
        owner_type = excluded.owner_type, owner_id = excluded.owner_id, vendor = excluded.vendor,
        bucket = excluded.bucket, region = excluded.region, endpoint = excluded.endpoint, project = excluded.project,
        principal = excluded.principal, sealed = excluded.sealed, is_current = excluded.is_current,
        said_at = excluded.said_at
"""

MARK: Final = """
    SELECT md5(coalesce(string_agg(words.word, ',' ORDER BY words.word), ''))
    FROM (
        SELECT concat_ws(':', org_id, id, CAST(xmin AS text)) AS word FROM storage_configs
        UNION ALL
        SELECT concat_ws(':', org_id, id, CAST(xmin AS text)) FROM provider_keys
        UNION ALL
        SELECT concat_ws(':', org_id, kind, fingerprint, CAST(xmin AS text)) FROM approvals
    ) AS words
"""
"""Every change of a row gives it another `xmin`, also one that commits late, and one that nobody of ours made."""

APPROVALS: Final = f"SELECT {_APPROVAL} FROM approvals WHERE org_id = :org_id"

ALL_APPROVALS: Final = f"SELECT {_APPROVAL} FROM approvals"

PUT_APPROVAL: Final = f"""
    INSERT INTO approvals ({_APPROVAL})
    VALUES (:org_id, :kind, :fingerprint, :how, :approved_by, :approved_at, :names, :mac)
    ON CONFLICT (org_id, kind, fingerprint) DO UPDATE SET
        how = excluded.how, approved_by = excluded.approved_by, approved_at = excluded.approved_at,
        names = excluded.names, mac = excluded.mac
"""

NOW: Final = "SELECT clock_timestamp()"

KEYS: Final = f"SELECT {_KEY} FROM provider_keys WHERE org_id = :org_id"

ALL_KEYS: Final = f"SELECT {_KEY} FROM provider_keys"

PUT_KEY: Final = f"""
    INSERT INTO provider_keys ({_KEY})
    VALUES (:org_id, :id, :source, :owner_type, :owner_id, :provider, :fingerprint, :sealed, :kept_at)
    ON CONFLICT (org_id, id) DO UPDATE SET
        owner_type = excluded.owner_type, owner_id = excluded.owner_id, provider = excluded.provider,
        fingerprint = excluded.fingerprint, sealed = excluded.sealed, kept_at = excluded.kept_at
    WHERE provider_keys.source = excluded.source
"""

KEEP_KEYS: Final = """
    DELETE FROM provider_keys
    WHERE org_id = :org_id AND source = 'butler'
        AND id NOT IN (SELECT CAST(jsonb_array_elements_text(CAST(:ids AS jsonb)) AS uuid))
"""

CLEAR_KEYS: Final = "DELETE FROM provider_keys WHERE org_id = :org_id AND provider = :provider"

REMOVE_KEY: Final = """
    DELETE FROM provider_keys WHERE org_id = :org_id AND provider = :provider AND source = 'local' RETURNING id
"""


class PostgresTrust(TrustBook):
    """The tables `storage_configs`, `provider_keys` and `approvals`."""

    def __init__(self, engine: Engine, keyring: Keyring, local: Local = NOTHING_SAID) -> None:
        """`local`: what this network's settings say; it decides what is pinned, and what may be approved."""
        self._engine = engine
        self._keyring = keyring
        self._local = local

    def replace_storage_configs(self, registration: Registration, configs: Sequence[StorageConfig]) -> None:
        org_id = registration.org_id
        with mapped(), self._engine.begin() as connection:
            connection.execute(_LOCK_ORG, {"org_id": org_id})
            hold_in_force(connection, registration)
            now: datetime = connection.execute(_NOW).scalar_one()
            approvals = self._sound(connection.execute(_APPROVALS, {"org_id": org_id}))
            approved = _fingerprints(approvals, Wanted.STORAGE)
            before = self._opened(connection.execute(_CONFIGS, {"org_id": org_id}), approved)
            since_s = _since_registered(approvals, registration, now)
            room = max(0, MOST_PINNED - sum(row.how == "window" for row in approvals))
            under = Circumstances(self._local, lambda printed: (org_id, printed) in approved, now, since_s, room)
            new = arrived(org_id, configs, before, under)
            unchanged = {_known(each) for each in before}
            changed = [config_row(self._keyring, each) for each in new.kept if _known(each) not in unchanged]
            ids = orjson.dumps([each.id for each in new.kept]).decode()
            connection.execute(_KEEP_CONFIGS, {"org_id": org_id, "ids": ids})
            if changed:
                connection.execute(_PUT_CONFIGS, {"org_id": org_id, "batch": orjson.dumps(changed).decode()})
            for each in new.pinned:
                named = orjson.dumps(dict(names(as_said(each)))).decode()
                self._approve(connection, Approval(org_id, "storage", each.fingerprint, "window", "", now, named))

    def replace_provider_keys(self, registration: Registration, keys: Sequence[SentProviderKey]) -> None:
        org_id = registration.org_id
        with mapped(), self._engine.begin() as connection:
            connection.execute(_LOCK_ORG, {"org_id": org_id})
            hold_in_force(connection, registration)
            now: datetime = connection.execute(_NOW).scalar_one()
            rows = connection.execute(_KEYS, {"org_id": org_id}).all()
            won = {row.provider for row in rows if row.source == "local"}
            known = {row.id: row for row in rows}
            mine = [each for each in keys if belongs(org_id, each) and each.provider not in won]
            ids = orjson.dumps([each.id for each in mine]).decode()
            connection.execute(_KEEP_KEYS, {"org_id": org_id, "ids": ids})
            for each in mine:
                row = self._key_row(org_id, each, now)
                if not _same_key(known.get(each.id), row) or self._kept_key(known[each.id], set()) is None:
                    connection.execute(_PUT_KEY, row)

    def storage_mark(self) -> str:
        with mapped(), self._engine.begin() as connection:
            mark: str = connection.execute(_MARK).scalar_one()
        return mark

    def kept_configs(self) -> list[KeptConfig]:
        with mapped(), self._engine.begin() as connection:
            approved = _fingerprints(self._sound(connection.execute(_ALL_APPROVALS)), Wanted.STORAGE)
            return self._opened(connection.execute(_ALL_CONFIGS), approved)

    def pending_approvals(self, org_id: UUID | None = None) -> list[Pending]:
        configs = [each for each in self.kept_configs() if org_id in (None, each.org_id)]
        keys = [pending_key(each) for each in self.provider_keys(org_id) if not each.usable]
        return [*pending(configs, self._local), *keys]

    def approve(self, fingerprint: str, by: str) -> Pending | None:
        waiting = next((each for each in self.pending_approvals() if each.fingerprint == fingerprint), None)
        if waiting is None:
            done = [each for each in self.kept_configs() if each.fingerprint == fingerprint and each.approved]
            keys = [each for each in self.provider_keys() if each.fingerprint == fingerprint]
            return next((approved_already(each) for each in done), next(map(pending_key, keys), None))
        if not waiting.approvable:
            raise LedgerFault(NO_APPROVAL_HELPS[waiting.reason])
        named = orjson.dumps(dict(waiting.names)).decode()
        with mapped(), self._engine.begin() as connection:
            now = connection.execute(_NOW).scalar_one()
            made = Approval(waiting.org_id, waiting.wanted.value, fingerprint, "person", by, now, named)
            self._approve(connection, made)
        return waiting

    def provider_keys(self, org_id: UUID | None = None) -> list[ProviderKey]:
        found = [kept for kept, _ in self._usable_rows(org_id)]
        return sorted(found, key=lambda each: (each.org_id, each.provider, each.owner_id))

    def set_provider_key(self, org_id: UUID, provider: str, key: Secret[str]) -> ProviderKey:
        with mapped(), self._engine.begin() as connection:
            connection.execute(_LOCK_ORG, {"org_id": org_id})
            now = connection.execute(_NOW).scalar_one()
            entered = SentProviderKey(uuid4(), OwnerType.ORG, org_id, provider, key)
            row = self._key_row(org_id, entered, now, "local")
            connection.execute(_CLEAR_KEYS, {"org_id": org_id, "provider": provider})
            connection.execute(_PUT_KEY, row)
        printed = str(row["fingerprint"])
        return ProviderKey(org_id, provider, True, OwnerType.ORG, org_id, printed, True, now)

    def remove_provider_key(self, org_id: UUID, provider: str) -> bool:
        with mapped(), self._engine.begin() as connection:
            connection.execute(_LOCK_ORG, {"org_id": org_id})
            gone = connection.execute(_REMOVE_KEY, {"org_id": org_id, "provider": provider}).all()
        return bool(gone)

    def job_key(self, org_id: UUID, provider: str, user_id: UUID | None = None) -> Secret[str] | None:
        rows = self._usable_rows(org_id)
        chosen = usable((kept for kept, _ in rows), provider, user_id)
        return next((self._open_key(row) for kept, row in rows if kept is chosen), None)

    def note_registration(self, connection: Connection, registration: Registration) -> None:
        """A person inside registered it, now: the day in which destinations are pinned as they arrive begins."""
        at, name = registration.registered_at, registration.id.hex
        self._approve(connection, Approval(registration.org_id, "registration", name, "register", "", at, ""))

    def _approve(self, connection: Connection, approval: Approval) -> None:
        facts = {name: getattr(approval, name) for name in Approval.__slots__}
        mac = approval.mac(self._keyring.subkey(Purpose.APPROVALS))
        connection.execute(_PUT_APPROVAL, facts | {"mac": mac})

    def _sound(self, rows: Iterable[Row[Any]]) -> list[Row[Any]]:
        subkey = self._keyring.subkey(Purpose.APPROVALS)
        found, forged = _parted(rows, lambda row: sound(row, subkey))
        for row in forged:
            log.say("approval_forged", logging.ERROR, org=row.org_id)
        return found

    def _opened(self, rows: Iterable[Row[Any]], approved: set[tuple[UUID, str]]) -> list[KeptConfig]:
        kept = []
        mine: dict[UUID, set[str]] = {}
        for org_id, printed in approved:
            mine.setdefault(org_id, set()).add(printed)
        for row in rows:
            try:
                kept.append(kept_config(self._keyring, row, mine.get(row.org_id, set())))
            except SealBroken as exc:
                log.error("storage_config_broken", exc, org=row.org_id, id=row.id)
                kept.append(broken_config(row))
        return kept

    def _usable_rows(self, org_id: UUID | None) -> list[tuple[ProviderKey, Row[Any]]]:
        with mapped(), self._engine.begin() as connection:
            keys, approvals = (_ALL_KEYS, _ALL_APPROVALS) if org_id is None else (_KEYS, _APPROVALS)
            whose = {} if org_id is None else {"org_id": org_id}
            rows, said = connection.execute(keys, whose).all(), connection.execute(approvals, whose)
            approved = _fingerprints(self._sound(said), Wanted.PROVIDER_KEY)
        return [(kept, row) for row in rows if (kept := self._kept_key(row, approved)) is not None]

    def _kept_key(self, row: Row[Any], approved: set[tuple[UUID, str]]) -> ProviderKey | None:
        """None for one that was tampered with: the key is opened, and its fingerprint made anew."""
        try:
            key = self._open_key(row)
        except SealBroken as exc:
            log.error("provider_key_broken", exc, org=row.org_id, id=row.id)
            return None
        printed = key_fingerprint(self._keyring.subkey(Purpose.APPROVALS), row.org_id, row.provider, key)
        local = row.source == "local"
        may = may_use_key(local, (row.org_id, printed) in approved)
        owner = OwnerType(row.owner_type)
        return ProviderKey(row.org_id, row.provider, local, owner, row.owner_id, printed, may, row.kept_at)

    def _open_key(self, row: Row[Any]) -> Secret[str]:
        facts = key_facts(row.org_id, row.id, row.source, f"{row.owner_type}/{row.owner_id}", row.provider)
        return Secret(self._keyring.open(Purpose.SECRETS, bytes(row.sealed), facts).reveal().decode())

    def _key_row(self, org_id: UUID, sent: SentProviderKey, now: datetime, source: str = "butler") -> dict[str, object]:
        facts = key_facts(org_id, sent.id, source, f"{sent.owner_type}/{sent.owner_id}", sent.provider)
        subkey = self._keyring.subkey(Purpose.APPROVALS)
        return {
            "org_id": org_id,
            "id": sent.id,
            "source": source,
            "owner_type": sent.owner_type.value,
            "owner_id": sent.owner_id,
            "provider": sent.provider,
            "fingerprint": key_fingerprint(subkey, org_id, sent.provider, sent.key),
            "sealed": self._keyring.seal(Purpose.SECRETS, sent.key.reveal().encode(), facts),
            "kept_at": now,
        }


def _known(config: KeptConfig) -> tuple[object, ...]:
    """What a row of it holds: approvals stand elsewhere."""
    return (config.id, config.fingerprint, config.destination, config.current, config.said_at)


def _same_key(row: Row[Any] | None, new: dict[str, object]) -> bool:
    columns = ("source", "owner_type", "owner_id", "provider", "fingerprint")
    return row is not None and all(getattr(row, column) == new[column] for column in columns)


def _fingerprints(approvals: Iterable[Row[Any]], wanted: Wanted) -> set[tuple[UUID, str]]:
    return {(row.org_id, row.fingerprint) for row in approvals if row.kind == wanted.value}


def _since_registered(approvals: Iterable[Row[Any]], registration: Registration, now: datetime) -> float | None:
    """By the database's clock, from a row that bears our MAC: `registered_at` alone anybody there could renew."""
    name = registration.id.hex
    made = [row.approved_at for row in approvals if (row.kind, row.fingerprint) == ("registration", name)]
    return max(((now - at).total_seconds() for at in made), default=None)


def _parted(rows: Iterable[Row[Any]], good: Callable[[Row[Any]], bool]) -> tuple[list[Row[Any]], list[Row[Any]]]:
    found: list[Row[Any]] = []
    others: list[Row[Any]] = []
    for row in rows:
        (found if good(row) else others).append(row)
    return found, others


_LOCK_ORG, _NOW, _MARK = text(LOCK_ORG), text(NOW), text(MARK)
_CONFIGS, _ALL_CONFIGS, _KEEP_CONFIGS, _PUT_CONFIGS = (
    text(CONFIGS),
    text(ALL_CONFIGS),
    text(KEEP_CONFIGS),
    text(PUT_CONFIGS),
)
_APPROVALS, _ALL_APPROVALS, _PUT_APPROVAL = text(APPROVALS), text(ALL_APPROVALS), text(PUT_APPROVAL)
_KEYS, _ALL_KEYS, _PUT_KEY, _KEEP_KEYS = text(KEYS), text(ALL_KEYS), text(PUT_KEY), text(KEEP_KEYS)
_CLEAR_KEYS, _REMOVE_KEY = text(CLEAR_KEYS), text(REMOVE_KEY)
