"""The engine to PostgreSQL: a bounded pool of pg8000 connections, and what its errors mean to us.

Refuses to let a driver's or the server's own words out: they may quote a row (SECURITY F4). What leaves is one of our
errors, with the SQLSTATE and nothing else of its cause.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection as SqlConnection
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from steward.adapters.postgres_driver import Connection, Error
from steward.adapters.postgres_tls import PostgresAddress, dial
from steward.errors import LedgerFault, LedgerUnavailable, SchemaTooOld, StewardError
from steward.words import Secret, SignIn

__all__ = ["PostgresAddress", "RowsRefused", "mapped", "open_engine", "patient", "sqlstate"]

STATEMENT_TIMEOUT_S: Final = 30
READ_TIMEOUT_S: Final = STATEMENT_TIMEOUT_S + 5
"""Silence of the server on a statement; its own timeout comes first, this one is for a peer that vanished."""
POOL_TIMEOUT_S: Final = 5.0
CONNECTION_AGE_S: Final = 1800
RESTED_S: Final = 5.0
"""A connection unused for longer is asked for a word before it is used: the other side may have gone without one, and
of a process that was frozen meanwhile nobody would have known."""
PING_TIMEOUT_S: Final = 2.0

_SESSION: Final = f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'; SET idle_in_transaction_session_timeout = '60s'"

_REFUSED: Final = "28P01"
_TOO_OLD: Final = frozenset({"42P01", "42703", "3F000", "42883", "42P10", "42704"})
_ROW_CLASSES: Final = ("22", "23", "54")
_NO_LONGER_PRIMARY: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
_SENTENCES: Final = {
    _REFUSED: "The database refused POSTGRES_USER or POSTGRES_PASSWORD.",
    "28000": "The database refused POSTGRES_USER, or the connection's mode (POSTGRES_SSLMODE).",
    "3D000": "The database that POSTGRES_DB names does not exist.",
    "42501": "The database role may not do this.",
    "53300": "The database has no connection to spare.",
}


class RowsRefused(LedgerFault):
    """The server will not take these values: a limit, a type, a constraint."""

    code = "rows_refused"
    message = "The database refused the values."

    def __init__(self, sqlstate: str) -> None:
        super().__init__()
        self.sqlstate = sqlstate


class ServerSaid(Exception):
    """Stands for a driver's error as the cause of ours: its SQLSTATE, none of its words."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__({"C": sqlstate})


def open_engine(
    address: PostgresAddress, pool_timeout_s: float = POOL_TIMEOUT_S, now: Callable[[], float] = time.time
) -> Engine:
    """A pool of at most `max_conns` connections, none opened yet. Prints no parameters, also not in errors.

    Who finds all of them taken waits `pool_timeout_s`, then gets LedgerUnavailable. `now`: a clock that goes on while
    the process is frozen; one that is set costs a word with the server at most.
    """
    engine = create_engine(
        "postgresql+pg8000://",
        creator=lambda: _connect(address),
        hide_parameters=True,
        pool_size=address.max_conns,
        max_overflow=0,
        pool_timeout=pool_timeout_s,
        pool_recycle=CONNECTION_AGE_S,
        pool_use_lifo=True,
    )
    idle = _Idle(now)
    event.listen(engine, "checkin", idle.begins)
    event.listen(engine, "checkout", idle.ends)
    event.listen(engine, "handle_error", _discard_after_error)
    return engine


@contextmanager
def mapped() -> Iterator[None]:
    """Around every use of the engine: its errors, the driver's and the socket's become ours.

    Raises RowsRefused for values the server will not take, SchemaTooOld for missing tables or columns, and
    LedgerUnavailable for all else: nothing that a retry might mend is ever held against a row.
    """
    try:
        yield
    except (SQLAlchemyError, Error, OSError) as exc:
        state = sqlstate(exc)
        raise _meaning(state) from ServerSaid(state)


@contextmanager
def patient(connection: SqlConnection) -> Iterator[None]:
    """Within it, an answer may take as long as it takes: for a migration, which waits for locks and moves rows."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, Connection):
        raise TypeError("not a connection of this engine")
    driver.wait_at_most(None)
    try:
        yield
    finally:
        if not connection.invalidated:
            driver.wait_at_most(READ_TIMEOUT_S)


def sqlstate(exc: BaseException) -> str | None:
    """Five characters that the server sent, also from inside SQLAlchemy's wrapper; None when none came."""
    origin = getattr(exc, "orig", None) or exc
    first = origin.args[0] if origin.args else None
    state = first.get("C") if isinstance(first, dict) else None
    return state if isinstance(state, str) else None


def _meaning(state: str | None) -> LedgerFault:
    if state is None:
        return LedgerUnavailable()
    if state in _TOO_OLD:
        return SchemaTooOld()
    if state.startswith(_ROW_CLASSES):
        return RowsRefused(state)
    return LedgerUnavailable(_SENTENCES.get(state))


def _connect(address: PostgresAddress) -> Connection:
    """One connection, ready. Raises LedgerUnavailable, whatever the other side is and says.

    A password that is refused is asked for again, once: it may have been changed where it is kept.
    """
    sign_in = address.sign_in
    if sign_in is None:
        return _connected(address, address.password)
    password = _asked(sign_in)
    try:
        return _connected(address, password)
    except LedgerUnavailable as fault:
        if sqlstate(fault.__cause__ or fault) != _REFUSED or not sign_in.refused(password):
            raise
    return _connected(address, _asked(sign_in))


def _asked(sign_in: SignIn) -> Secret[str]:
    try:
        return sign_in()
    except StewardError:
        raise
    except Exception:  # a vendor's SDK may ask others for what it signs with, and fail in words of its own
        raise LedgerUnavailable from ServerSaid(None)


def _connected(address: PostgresAddress, password: Secret[str]) -> Connection:
    dialled = dial(address)
    try:
        connection = Connection(address.user, password, address.database, dialled.sock, dialled.private)
        connection.execute_simple(_SESSION)
        connection.wait_at_most(READ_TIMEOUT_S)
    except StewardError:
        _hang_up(dialled.sock)
        raise
    except Exception as exc:  # whatever speaks there may be no PostgreSQL at all
        _hang_up(dialled.sock)
        state = sqlstate(exc)
        raise LedgerUnavailable(_SENTENCES.get(state or "")) from ServerSaid(state)
    return connection


def _hang_up(sock: socket.socket) -> None:
    """Ends the stream now: closing alone would wait for every reference that a traceback still holds."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class _Idle:
    """Looks at a connection that rested before it is used: what is broken is discarded, and the pool opens another."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def begins(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """It comes back."""
        record.info["rests_since"] = self._now()

    def ends(self, connection: Connection, record: ConnectionPoolEntry, _proxy: object) -> None:
        """It is wanted. One on which something arrived was closed by the server; one that rested long must answer."""
        if connection.spoke_while_idle():
            raise DisconnectionError
        since = record.info.get("rests_since")
        if since is None or abs(self._now() - since) <= RESTED_S:
            return
        if not connection.answers(PING_TIMEOUT_S):
            raise DisconnectionError
        connection.wait_at_most(READ_TIMEOUT_S)


def _discard_after_error(context: ExceptionContext) -> None:
    """Errors after which the connection must not be used again, beyond those SQLAlchemy knows."""
    origin = context.original_exception
    if isinstance(origin, OSError) or sqlstate(origin) in _NO_LONGER_PRIMARY:
        context.is_disconnect = True
