"""What left for Butler, in PostgreSQL: a row is there, and bound to all before it, before the call leaves.

Refuses to be changed: the table's triggers allow an answer once, the letting go of a body, and of the oldest rows as
far as the checkpoint says. Writers take turns by one lock, so that the chain has no fork.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine, Row

from steward.adapters.postgres_connection import mapped
from steward.egress_chain import bound, going, moved, walk
from steward.errors import EgressLogBroken
from steward.ports import Checkpoint, Departed, Departure, EgressLog, Walked
from steward.seal import Keyring, Purpose

LOCK: Final = 0x5354_5744_0003
"""Advisory lock: one writer at a time."""

LOCK_LETTING_GO: Final = 0x5354_5744_0004
"""Advisory lock: one process at a time lets rows go, and no writer waits for it."""

BODIES: Final = 200
"""Of so many calls that sent something, the newest, what was sent is kept."""

_PAGE: Final = 1000
_LEAST: Final = -(2**63)
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
    WHERE body IS NOT NULL AND number <= :last
        AND (encode(sha256(body), 'hex') <> sha256 OR octet_length(body) <> bytes)
""")
_ANY: Final = 2**63 - 1
_ONE_MOMENT: Final = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
_POINT: Final = "number, chain, first_at, last_at, made_at, mac"
_CHECKPOINT: Final = text(f"SELECT {_POINT} FROM egress_log_checkpoint ORDER BY number DESC LIMIT 1")
_FREE: Final = text(f"SELECT pg_try_advisory_xact_lock({LOCK_LETTING_GO})")
_MOVE: Final = text(f"""
    INSERT INTO egress_log_checkpoint (id, {_POINT})
    VALUES (1, {", ".join(f":{name}" for name in _POINT.split(", "))})
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _POINT.split(", "))}
""")
_DELETE: Final = text("DELETE FROM egress_log WHERE number <= :number")


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

    def walked(self) -> Walked:
        with mapped(), self._engine.begin() as connection:
            connection.execute(_ONE_MOMENT)
            altered = connection.execute(_ALTERED, {"last": _ANY}).scalar_one_or_none()
            found = walk(self._key, _checkpoint(connection), _all(connection))
        numbers = [number for number in (found.first_broken, altered) if number is not None]
        return replace(found, first_broken=min(numbers, default=None))

    def let_go(self, before: datetime, limit: int, now: datetime) -> int:
        with mapped(), self._engine.begin() as connection:
            if not connection.execute(_FREE).scalar_one():
                return 0
            checkpoint = _checkpoint(connection)
            gone = going(self._key, checkpoint, _page(connection, _LEAST, limit + 1), before)
            if not gone:
                return 0
            last = gone[-1].number
            if connection.execute(_ALTERED, {"last": last}).scalar_one_or_none() is not None:
                raise EgressLogBroken
            connection.execute(_MOVE, asdict(moved(self._key, checkpoint, gone, now)))
            if connection.execute(_DELETE, {"number": last}).rowcount != len(gone):
                raise EgressLogBroken
        return len(gone)


def _all(connection: Connection) -> Iterator[Departed]:
    last = _LEAST
    while page := _page(connection, last, _PAGE):
        yield from page
        last = page[-1].number


def _checkpoint(connection: Connection) -> Checkpoint | None:
    row = connection.execute(_CHECKPOINT).one_or_none()
    return None if row is None else Checkpoint(**row._mapping)


def _page(connection: Connection, number: int, limit: int) -> list[Departed]:
    return [_departed(row) for row in connection.execute(_AFTER, {"number": number, "limit": limit})]


def _departed(row: Row[Any]) -> Departed:
    return Departed(**row._mapping)
