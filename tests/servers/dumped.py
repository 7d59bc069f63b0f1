"""A running installation's database as somebody sees it who may read all of it. Asserts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.engine import Engine

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.words import Secret

_TABLES = text("""
    SELECT table_name FROM information_schema.tables WHERE table_schema = :schema AND table_type = 'BASE TABLE'
""")


@contextmanager
def database_of(environ: Mapping[str, str]) -> Iterator[Engine]:
    """Of a Steward's or a Butler's settings."""
    address = PostgresAddress(
        environ["POSTGRES_HOST"],
        int(environ["POSTGRES_PORT"]),
        environ["POSTGRES_USER"],
        Secret(environ["POSTGRES_PASSWORD"]),
        environ["POSTGRES_DB"],
        "disable",
        max_conns=2,
    )
    engine = open_engine(address)
    try:
        yield engine
    finally:
        engine.dispose()


def dumped(engine: Engine, schema: str) -> dict[str, list[str]]:
    """Every row of every table of a schema, each as one line of all its columns; bytea in hexadecimal."""
    with engine.connect() as connection:
        tables = connection.execute(_TABLES, {"schema": schema}).scalars().all()
        lines = {table: f'SELECT CAST(t AS text) FROM "{schema}"."{table}" t' for table in tables}  # noqa: S608
        return {table: list(connection.execute(text(asked)).scalars()) for table, asked in lines.items()}


def asked(environ: Mapping[str, str], statement: str, **values: object) -> list[tuple[object, ...]]:
    """What a person at `psql` would see."""
    with database_of(environ) as engine, engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []
