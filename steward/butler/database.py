"""Transactions on Butler's database. The one file of Butler that knows how the Steward connects to PostgreSQL.

Every statement of a store names its schema and its columns, and is bound by parameters alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import TextClause
from sqlalchemy.engine import Connection, Engine, Row

from steward.adapters.postgres_connection import RowsRefused, mapped
from steward.butler.errors import InTheWay

UNIQUE_VIOLATION = "23505"


class Database:
    """A pool of connections. Raises LedgerUnavailable when there is no database, SchemaTooOld before `migrate`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One transaction. A row that stands there already is InTheWay."""
        try:
            with mapped(), self._engine.begin() as connection:
                yield connection
        except RowsRefused as fault:
            if fault.sqlstate == UNIQUE_VIOLATION:
                raise InTheWay from None
            raise

    def rows(self, statement: TextClause, **values: object) -> list[Row[Any]]:
        """What one statement answers."""
        with mapped(), self._engine.begin() as connection:
            return list(connection.execute(statement, values))

    def one(self, statement: TextClause, **values: object) -> Row[Any] | None:
        """The only row, or None."""
        return next(iter(self.rows(statement, **values)), None)

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()
