"""What left for Butler, in PostgreSQL: a row is there, and bound to all before it, before the call leaves.

Refuses to be changed: the table's triggers allow an answer once and the letting go of a body, and no more. Writers
take turns by one lock, so that the chain has no fork.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine, Row

from steward.adapters.postgres_connection import mapped
from steward.egress_chain import bound, first_broken
from steward.ports import Departed, Departure, EgressLog
from steward.seal import Keyring, Purpose

LOCK: Final = 0x5354_5744_0003
"""Advisory lock: one writer at a time."""

BODIES: Final = 200
"""Of so many calls that sent something, the newest, what was sent is kept."""

_PAGE: Final = 1000
_BOUND: Final = "number, at, registration_id, kind, target, count, bytes, sha256, first_id, last_id, chain"
_NAMES: Final = f"{_BOUND}, answer, body IS NOT NULL AS has_body"

_TURN: Final = text(f"SELECT pg_advisory_xact_lock({LOCK})")
_LAST: Final = text(f"SELECT {_NAMES} FROM egress_log ORDER BY number DESC LIMIT 1")
_NOW: Final = text("SELECT clock_timestamp()")
_ADD: Final = text(f"""
    INSERT INTO egress_log ({_BOUND}, body)
    VALUES ({", ".join(f":{name}" for name in _BOUND.split(", "))}, :body)
""")
_LET_GO: Final = text("""
    UPDATE egress_log SET body = NULL WHERE body IS NOT NULL AND number <= (
        SELECT number FROM egress_log WHERE body IS NOT NULL ORDER BY number DESC OFFSET :kept LIMIT 1
    )
""")
_ANSWERED: Final = text("UPDATE egress_log SET answer = :answer WHERE number = :number AND answer IS NULL")
_NEWEST: Final = text(f"SELECT {_NAMES} FROM egress_log ORDER BY number DESC LIMIT :limit")
_AFTER: Final = text(f"SELECT {_NAMES} FROM egress_log WHERE number > :number ORDER BY number LIMIT :limit")
_BODY: Final = text("SELECT body FROM egress_log WHERE number = :number")
_ALTERED: Final = text("""
    SELECT min(number) FROM egress_log
    WHERE body IS NOT NULL AND (encode(sha256(body), 'hex') <> sha256 OR octet_length(body) <> bytes)
""")


class PostgresEgressLog(EgressLog):
    """The table `egress_log`."""

    def __init__(self, engine: Engine, keyring: Keyring) -> None:
        self._engine = engine
        self._key = keyring.subkey(Purpose.EGRESS_LOG)

    def leaving(self, departure: Departure) -> int:
        with mapped(), self._engine.begin() as connection:
            connection.execute(_TURN)
            last = connection.execute(_LAST).one_or_none()
            at = connection.execute(_NOW).scalar_one()
            row = bound(self._key, None if last is None else _departed(last), at, departure)
            facts = asdict(row)
            connection.execute(_ADD, {**{name: facts[name] for name in _BOUND.split(", ")}, "body": departure.body})
            if departure.body is not None:
                connection.execute(_LET_GO, {"kept": BODIES})
        return row.number

    def answered(self, number: int, answer: str) -> None:
        with mapped(), self._engine.begin() as connection:
            connection.execute(_ANSWERED, {"number": number, "answer": answer})

    def newest(self, limit: int) -> list[Departed]:
        with mapped(), self._engine.begin() as connection:
            return [_departed(row) for row in connection.execute(_NEWEST, {"limit": limit})][::-1]

    def after(self, number: int, limit: int) -> list[Departed]:
        with mapped(), self._engine.begin() as connection:
            return _page(connection, number, limit)

    def body(self, number: int) -> bytes | None:
        with mapped(), self._engine.begin() as connection:
            found = connection.execute(_BODY, {"number": number}).scalar_one_or_none()
        return None if found is None else bytes(found)

    def first_broken(self) -> int | None:
        with mapped(), self._engine.connect() as connection:
            altered = connection.execute(_ALTERED).scalar_one_or_none()
            before: Departed | None = None
            while page := _page(connection, 0 if before is None else before.number, _PAGE):
                broken = first_broken(self._key, page, before)
                if broken is not None:
                    return broken if altered is None else min(broken, altered)
                before = page[-1]
        return None if altered is None else int(altered)


def _page(connection: Connection, number: int, limit: int) -> list[Departed]:
    return [_departed(row) for row in connection.execute(_AFTER, {"number": number, "limit": limit})]


def _departed(row: Row[Any]) -> Departed:
    return Departed(**row._mapping)
