"""Transactions on Butler's database. The one file of Butler that knows how the Steward connects to PostgreSQL.

Every statement of a store names its schema and its columns, and is bound by parameters alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection, Engine, Row

from steward.adapters.postgres_connection import RowsRefused, mapped
from steward.butler.errors import InTheWay
from steward.errors import SchemaTooOld

__all__ = ["SCHEMA_VERSION", "Database", "RowsRefused"]

UNIQUE_VIOLATION: Final = "23505"
SCHEMA_VERSION: Final = "0001"
"""What this release needs."""

_TOO_OLD: Final = "Butler's schema is too old. Run: steward butler migrate"
_SCHEMA: Final = text("SELECT version_num FROM butler.butler_schema")


class Database:
    """A pool of connections. Raises LedgerUnavailable when there is no database, SchemaTooOld before `migrate`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One transaction. A row that stands there already is InTheWay."""
        try:
            with _mapped(), self._engine.begin() as connection:
                yield connection
        except RowsRefused as fault:
            if fault.sqlstate == UNIQUE_VIOLATION:
                raise InTheWay from None
            raise

    def rows(self, statement: TextClause, **values: object) -> list[Row[Any]]:
        """What one statement answers."""
        with _mapped(), self._engine.begin() as connection:
            return list(connection.execute(statement, values))

    def one(self, statement: TextClause, **values: object) -> Row[Any] | None:
        """The only row, or None."""
        return next(iter(self.rows(statement, **values)), None)

    def ready(self) -> None:
        """Raises LedgerUnavailable, and SchemaTooOld before `steward butler migrate`."""
        version = self.one(_SCHEMA)
        if version is None or version.version_num < SCHEMA_VERSION:
            raise SchemaTooOld(_TOO_OLD)

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


@contextmanager
def _mapped() -> Iterator[None]:
    """As the Steward maps its database's errors, with the command that mends ours."""
    try:
        with mapped():
            yield
    except SchemaTooOld:
        raise SchemaTooOld(_TOO_OLD) from None
