"""The viewer's book in PostgreSQL: tokens and sessions by their hashes, and an account that only grows.

Refuses to say by any other clock than the database's what has expired. An account's line is written in the transaction
of what it tells, where that changes anything.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine, Row

from steward.adapters.postgres_connection import mapped
from steward.ports import ViewAct, ViewBook, ViewEntry, ViewSession, ViewToken, key_name

_TOKEN: Final = "id, org_id, name, created_at, expires_at, revoked_at"  # noqa: S105
_SESSION: Final = "id, who, org_ids, expires_at"

CREATE_TOKEN: Final = f"""
    INSERT INTO view_tokens (id, org_id, name, token_hash, expires_at)
    VALUES (:id, :org_id, :name, :token_hash, clock_timestamp() + make_interval(secs => :lasts_s))
    RETURNING {_TOKEN}
"""

TOKENS: Final = f"SELECT {_TOKEN} FROM view_tokens ORDER BY created_at DESC, id DESC"

REVOKE_TOKEN: Final = f"""
    UPDATE view_tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = :id RETURNING {_TOKEN}
"""

OPEN_BY_TOKEN: Final = f"""
    INSERT INTO view_sessions (id, session_hash, who, org_ids, token_id, expires_at)
    SELECT :id, :session_hash, 'token ' || t.name, jsonb_build_array(t.org_id), t.id,
        least(t.expires_at, clock_timestamp() + make_interval(secs => :lasts_s))
    FROM view_tokens AS t
    WHERE t.token_hash = :token_hash AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp()
    RETURNING {_SESSION}
"""

OPEN_BY_PERSON: Final = f"""
    INSERT INTO view_sessions (id, session_hash, who, org_ids, expires_at)
    VALUES (:id, :session_hash, :who, CAST(:org_ids AS jsonb), clock_timestamp() + make_interval(secs => :lasts_s))
    RETURNING {_SESSION}
"""

FIND_SESSION: Final = f"""
    SELECT {_SESSION} FROM view_sessions AS s
    WHERE session_hash = :session_hash AND ended_at IS NULL AND expires_at > clock_timestamp()
        AND (token_id IS NULL OR EXISTS (
            SELECT 1 FROM view_tokens AS t
            WHERE t.id = s.token_id AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp()
        ))
"""

END_SESSION: Final = """
    UPDATE view_sessions SET ended_at = clock_timestamp()
    WHERE session_hash = :session_hash AND ended_at IS NULL
    RETURNING id, who
"""

FORGET_SESSIONS: Final = "DELETE FROM view_sessions WHERE expires_at < clock_timestamp() - interval '1 day'"

NOTE: Final = """
    INSERT INTO view_audit (act, who, peer, session_id, org_id, request_id, code)
    VALUES (:act, :who, :peer, :session_id, :org_id, :request_id, :code)
"""

NOTES: Final = """
    SELECT at, act, who, peer, session_id, org_id, request_id, code FROM view_audit ORDER BY id DESC LIMIT :limit
"""


class PostgresViewBook(ViewBook):
    """Rows in `view_tokens`, `view_sessions` and `view_audit`."""

    def __init__(self, engine: Engine, noted: Callable[[ViewAct], None] = lambda act: None) -> None:
        """`noted`: told of each line of `note` that stands in the account."""
        self._engine = engine
        self._noted = noted

    def create_token(self, org_id: UUID, name: str, token_hash: str, lasts: timedelta) -> ViewToken:
        facts = {
            "id": uuid4(),
            "org_id": org_id,
            "name": key_name(name),
            "token_hash": token_hash,
            "lasts_s": lasts.total_seconds(),
        }
        with mapped(), self._engine.begin() as connection:
            return _token(connection.execute(_CREATE_TOKEN, facts).one())

    def tokens(self) -> list[ViewToken]:
        with mapped(), self._engine.begin() as connection:
            return [_token(row) for row in connection.execute(_TOKENS)]

    def revoke_token(self, token_id: UUID) -> ViewToken | None:
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_REVOKE_TOKEN, {"id": token_id}).one_or_none()
        return None if row is None else _token(row)

    def sign_in_with_token(self, token_hash: str, session_hash: str, peer: str, lasts: timedelta) -> ViewSession | None:
        facts = {
            "id": uuid4(),
            "session_hash": session_hash,
            "token_hash": token_hash,
            "lasts_s": lasts.total_seconds(),
        }
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_OPEN_BY_TOKEN, facts).one_or_none()
            return None if row is None else _began(connection, _session(row), peer)

    def sign_in(self, who: str, org_ids: Sequence[UUID], session_hash: str, peer: str, lasts: timedelta) -> ViewSession:
        facts = {
            "id": uuid4(),
            "session_hash": session_hash,
            "who": who,
            "org_ids": orjson.dumps(list(org_ids)).decode(),
            "lasts_s": lasts.total_seconds(),
        }
        with mapped(), self._engine.begin() as connection:
            return _began(connection, _session(connection.execute(_OPEN_BY_PERSON, facts).one()), peer)

    def session(self, session_hash: str) -> ViewSession | None:
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_FIND_SESSION, {"session_hash": session_hash}).one_or_none()
        return None if row is None else _session(row)

    def sign_out(self, session_hash: str, peer: str) -> None:
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_END_SESSION, {"session_hash": session_hash}).one_or_none()
            if row is not None:
                _note(connection, ViewEntry(ViewAct.SIGNED_OUT, row.who, peer, row.id))

    def note(self, entry: ViewEntry) -> None:
        with mapped(), self._engine.begin() as connection:
            _note(connection, entry)
        self._noted(entry.act)

    def notes(self, limit: int) -> list[ViewEntry]:
        with mapped(), self._engine.begin() as connection:
            return [_entry(row) for row in connection.execute(_NOTES, {"limit": limit})]


def _began(connection: Connection, session: ViewSession, peer: str) -> ViewSession:
    connection.execute(_FORGET_SESSIONS)
    _note(connection, ViewEntry(ViewAct.SIGNED_IN, session.who, peer, session.id))
    return session


def _note(connection: Connection, entry: ViewEntry) -> None:
    facts = {
        "act": entry.act.value,
        "who": entry.who,
        "peer": entry.peer,
        "session_id": entry.session_id,
        "org_id": entry.org_id,
        "request_id": entry.request_id,
        "code": entry.code,
    }
    connection.execute(_NOTE, facts)


def _token(row: Row[Any]) -> ViewToken:
    return ViewToken(**row._mapping)


def _session(row: Row[Any]) -> ViewSession:
    said = row.org_ids
    org_ids = orjson.loads(said) if isinstance(said, str) else said
    return ViewSession(row.id, row.who, tuple(UUID(each) for each in org_ids), row.expires_at)


def _entry(row: Row[Any]) -> ViewEntry:
    values = dict(row._mapping)
    return ViewEntry(act=ViewAct(values.pop("act")), **values)


_CREATE_TOKEN, _TOKENS, _REVOKE_TOKEN = text(CREATE_TOKEN), text(TOKENS), text(REVOKE_TOKEN)
_OPEN_BY_TOKEN, _OPEN_BY_PERSON = text(OPEN_BY_TOKEN), text(OPEN_BY_PERSON)
_FIND_SESSION, _END_SESSION, _FORGET_SESSIONS = text(FIND_SESSION), text(END_SESSION), text(FORGET_SESSIONS)
_NOTE, _NOTES = text(NOTE), text(NOTES)
