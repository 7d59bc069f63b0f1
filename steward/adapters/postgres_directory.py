"""The directory in PostgreSQL: keys by their hash, and the installation's own secrets, sealed.

Refuses to delete a key, to revive one, or to give it another hash, organisation or user: the table's triggers say so
too (SECURITY F11). Every statement on keys carries the organisation, but for three that find out whose a key is.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection, Row

from steward.adapters.postgres_connection import RowsRefused, mapped
from steward.adapters.postgres_sync import apply_keys, heard, rest_missing, sync_state
from steward.adapters.postgres_trust import PostgresTrust
from steward.errors import LedgerFault, SchemaTooOld
from steward.ports import (
    REGISTERED_ELSEWHERE,
    ApiKey,
    AppliedKeys,
    ButlerWord,
    Directory,
    Identity,
    Registration,
    SentKey,
    SyncKind,
    SyncState,
    key_name,
)
from steward.seal import Purpose, SealFacts
from steward.words import Secret

_COLUMNS: Final = (
    "id, org_id, key_hash, name, is_active, created_at, updated_at, description, user_id, registration_id, "
    "revoked_at, deprecated_model_behavior"
)

CREATE_KEY: Final = f"""
    INSERT INTO api_keys (id, org_id, key_hash, name, description)
    VALUES (:id, :org_id, :key_hash, :name, :description)
    RETURNING {_COLUMNS}
"""

LIST_KEYS: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE org_id = :org_id ORDER BY created_at DESC, id DESC"

REVOKE_KEY: Final = """
    UPDATE api_keys SET is_active = false, revoked_at = clock_timestamp()
    WHERE org_id = :org_id AND id = :id AND revoked_at IS NULL
"""

GET_KEY: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE org_id = :org_id AND id = :id"

FIND_KEY: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE key_hash = :key_hash"

CHANGED_KEYS: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE updated_at > clock_timestamp() - interval '60 seconds'"
"""An overlap by the database's clock, not a watermark: no clock of ours and no late commit can hide a revocation."""

CONFIRM_KEYS: Final = f"""
    SELECT {_COLUMNS} FROM api_keys
    WHERE key_hash IN (SELECT jsonb_array_elements_text(CAST(:key_hashes AS jsonb)))
"""

_REGISTRATION: Final = (
    "id, org_id, org_name, steward_id, butler_url, registered_at, deregistered_at, local_from, heard_at, fault"
)

REGISTERED: Final = "SELECT id, butler_url, deregistered_at FROM registrations WHERE org_id = :org_id FOR UPDATE"

REGISTER: Final = f"""
    INSERT INTO registrations AS known (id, org_id, org_name, steward_id, butler_url, token)
    VALUES (:id, :org_id, :org_name, :steward_id, :butler_url, :token)
    ON CONFLICT (org_id) DO UPDATE SET
        id = excluded.id, org_name = excluded.org_name, steward_id = excluded.steward_id,
        butler_url = excluded.butler_url, token = excluded.token, registered_at = clock_timestamp(),
        deregistered_at = NULL, fault = NULL,
        local_from = CASE WHEN known.deregistered_at IS NULL THEN known.local_from ELSE excluded.local_from END
    WHERE known.deregistered_at IS NOT NULL OR (known.id = excluded.id AND known.butler_url = excluded.butler_url)
    RETURNING {_REGISTRATION}
"""
"""One statement decides: of two who register an organisation at once, at two Butlers or both first, one does."""

NEW_TOKEN: Final = f"""
    UPDATE registrations SET org_name = :org_name, steward_id = :steward_id, token = :token
    WHERE org_id = :org_id AND id = :id AND deregistered_at IS NULL
    RETURNING {_REGISTRATION}
"""
"""It was registered when it was: what is granted for a day from then is not granted anew."""

REGISTRATIONS: Final = f"SELECT {_REGISTRATION} FROM registrations ORDER BY org_name, org_id"

FIND_REGISTRATION: Final = f"SELECT {_REGISTRATION} FROM registrations WHERE org_id = :org_id"

FIND_TOKEN: Final = "SELECT id, butler_url, token FROM registrations WHERE org_id = :org_id"  # noqa: S105

DEREGISTER: Final = """
    UPDATE registrations SET token = NULL, deregistered_at = clock_timestamp()
    WHERE org_id = :org_id AND deregistered_at IS NULL
    RETURNING id
"""

REST_KEYS: Final = """
    UPDATE api_keys SET is_active = false
    WHERE org_id = :org_id AND registration_id = :registration_id AND is_active
"""

INSTANCE_SECRET: Final = "SELECT sealed FROM instance_secrets WHERE name = :name"  # noqa: S105


class PostgresDirectory(PostgresTrust, Directory):
    """Keys in the table `api_keys`, secrets in `instance_secrets`; for the rest see `PostgresTrust`."""

    def create_key(self, org_id: UUID, name: str, key_hash: str, description: str | None = None) -> ApiKey:
        facts = {
            "id": uuid4(),
            "org_id": org_id,
            "key_hash": key_hash,
            "name": key_name(name),
            "description": None if description is None else key_name(description),
        }
        try:
            return self._keys(_CREATE_KEY, facts)[0]
        except RowsRefused as fault:
            if fault.sqlstate == "23505":
                raise LedgerFault("There is a key with this hash already.") from None
            raise

    def list_keys(self, org_id: UUID) -> list[ApiKey]:
        return self._keys(_LIST_KEYS, {"org_id": org_id})

    def revoke_key(self, org_id: UUID, key_id: UUID) -> ApiKey | None:
        facts = {"org_id": org_id, "id": key_id}
        with mapped(), self._engine.begin() as connection:
            connection.execute(_REVOKE_KEY, facts)
            row = connection.execute(_GET_KEY, facts).one_or_none()
        return None if row is None else _api_key(row)

    def find_key(self, key_hash: str) -> ApiKey | None:
        return next(iter(self._keys(_FIND_KEY, {"key_hash": key_hash})), None)

    def changed_keys(self) -> list[ApiKey]:
        return self._keys(_CHANGED_KEYS, {})

    def confirm_keys(self, key_hashes: Iterable[str]) -> list[ApiKey]:
        return self._keys(_CONFIRM_KEYS, {"key_hashes": orjson.dumps(list(key_hashes)).decode()})

    def register(self, said: Identity, butler_url: str, token: Secret[str]) -> Registration:
        with mapped(), self._engine.begin() as connection:
            made = self._register(connection, said, butler_url, token)
            if made is not None:
                self.note_registration(connection, made)  # what Butler assigned by itself opens no window
        if made is None:
            raise LedgerFault(REGISTERED_ELSEWHERE)
        return made

    def take_over(self, given: Sequence[tuple[Identity, Secret[str]]], butler_url: str) -> list[Registration]:
        with mapped(), self._engine.begin() as connection:
            in_order = sorted(given, key=lambda each: each[0].org_id)
            made = [self._register(connection, said, butler_url, token, again=False) for said, token in in_order]
        return [each for each in made if each is not None]

    def _register(
        self, connection: Connection, said: Identity, butler_url: str, token: Secret[str], again: bool = True
    ) -> Registration | None:
        """None: it is at another Butler. `again`: what is here already is registered anew, as of now."""
        before = connection.execute(_REGISTERED, {"org_id": said.org_id}).one_or_none()
        same = before is not None and before.butler_url == butler_url
        row_id = before.id if before is not None and same else uuid4()
        facts = {
            "id": row_id,
            "org_id": said.org_id,
            "org_name": said.org_name,
            "steward_id": said.steward_id,
            "butler_url": butler_url,
            "token": self._keyring.seal(
                Purpose.SECRETS, token.reveal().encode(), _token_facts(row_id, said.org_id, butler_url)
            ),
        }
        stands = before is not None and same and before.deregistered_at is None
        row = connection.execute(_NEW_TOKEN if stands and not again else _REGISTER, facts).one_or_none()
        return None if row is None else _registration(row)

    def heard(self, registration: Registration, fault: ButlerWord | None) -> None:
        with mapped(), self._engine.begin() as connection:
            heard(connection, registration, fault)

    def sync_state(self, registration: Registration, kind: SyncKind) -> SyncState:
        with mapped(), self._engine.begin() as connection:
            return sync_state(connection, registration, kind)

    def apply_keys(self, registration: Registration, keys: Sequence[SentKey]) -> AppliedKeys:
        with mapped(), self._engine.begin() as connection:
            return apply_keys(connection, registration, keys)

    def rest_missing(self, registration: Registration, seen: Collection[UUID], since: datetime) -> int:
        with mapped(), self._engine.begin() as connection:
            return rest_missing(connection, registration, seen, since)

    def registrations(self) -> list[Registration]:
        with mapped(), self._engine.begin() as connection:
            return [_registration(row) for row in connection.execute(_REGISTRATIONS)]

    def token(self, org_id: UUID, at: Registration | None = None) -> Secret[str] | None:
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_FIND_TOKEN, {"org_id": org_id}).one_or_none()
        if row is None or row.token is None or (at is not None and at.id != row.id):
            return None
        facts = _token_facts(row.id, org_id, row.butler_url if at is None else at.butler_url)
        return Secret(self._keyring.open(Purpose.SECRETS, bytes(row.token), facts).reveal().decode())

    def deregister(self, org_id: UUID) -> Registration | None:
        with mapped(), self._engine.begin() as connection:
            ended = connection.execute(_DEREGISTER, {"org_id": org_id}).scalar_one_or_none()
            if ended is not None:
                connection.execute(_REST_KEYS, {"org_id": org_id, "registration_id": ended})
            row = connection.execute(_FIND_REGISTRATION, {"org_id": org_id}).one_or_none()
        return None if row is None else _registration(row)

    def instance_secret(self, name: str) -> Secret[bytes]:
        with mapped(), self._engine.begin() as connection:
            sealed = connection.execute(_INSTANCE_SECRET, {"name": name}).scalar_one_or_none()
        if sealed is None:
            raise SchemaTooOld
        return self._keyring.open(Purpose.SECRETS, bytes(sealed), instance_facts(name))

    def _keys(self, statement: TextClause, facts: dict[str, object]) -> list[ApiKey]:
        with mapped(), self._engine.begin() as connection:
            return [_api_key(row) for row in connection.execute(statement, facts)]


def _token_facts(row_id: UUID, org_id: UUID, butler_url: str) -> SealFacts:
    """A token opens for the row, the organisation and the Butler it was sealed for: moved, it is worth nothing."""
    return SealFacts(row_id=str(row_id), org_id=org_id, owner="token", destination=butler_url)


def _registration(row: Row[Any]) -> Registration:
    return Registration(**row._mapping)


def instance_facts(name: str) -> SealFacts:
    """Where an installation's secret belongs."""
    return SealFacts(row_id=name, owner="instance")


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(**row._mapping)


_CREATE_KEY, _LIST_KEYS, _REVOKE_KEY, _GET_KEY = text(CREATE_KEY), text(LIST_KEYS), text(REVOKE_KEY), text(GET_KEY)
_FIND_KEY, _CHANGED_KEYS, _CONFIRM_KEYS = text(FIND_KEY), text(CHANGED_KEYS), text(CONFIRM_KEYS)
_INSTANCE_SECRET = text(INSTANCE_SECRET)
_REGISTER, _REGISTRATIONS, _DEREGISTER, _REST_KEYS = (
    text(REGISTER),
    text(REGISTRATIONS),
    text(DEREGISTER),
    text(REST_KEYS),
)
_NEW_TOKEN = text(NEW_TOKEN)
_REGISTERED, _FIND_REGISTRATION, _FIND_TOKEN = text(REGISTERED), text(FIND_REGISTRATION), text(FIND_TOKEN)
