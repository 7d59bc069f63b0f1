"""Fixtures: real PostgreSQL servers, and a fresh, migrated database for each test, cloned from a template."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from migrations import migrate
from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.seal import Keyring
from steward.words import Secret

ENCRYPTION_KEY = bytes(range(32)).hex()
"""The key of every test database."""
KEYRING = Keyring(Secret(bytes.fromhex(ENCRYPTION_KEY)))

INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian keeps PostgreSQL, a folder a version."""

MEMORY = Path("/dev/shm")  # noqa: S108 - what is made in it has a random name
ROOM_BYTES = 6 << 30
"""What must be free of it, and of the machine's memory: a suite's servers take a tenth."""

TEMPLATE = "steward_template"
"""Migrated, and nothing more."""
COPIED = "STRATEGY FILE_COPY"
"""With what a first connection looks up; not before PostgreSQL 15."""
_numbers = count()


@dataclass(frozen=True)
class Database:
    """One test's own database."""

    address: PostgresAddress
    """By the socket folder, as the superuser."""
    engine: Engine
    keyring: Keyring
    server: LocalPostgres

    @property
    def tcp(self) -> PostgresAddress:
        """The same by 127.0.0.1, with a password, without TLS."""
        assert self.server.tcp_port is not None
        return replace(self.address, host="127.0.0.1", port=self.server.tcp_port, sslmode="disable")

    def run(self, sql: str, **values: object) -> list[tuple[object, ...]]:
        """What a person at `psql` would see."""
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []


def address_of(server: LocalPostgres, database: str | None = None) -> PostgresAddress:
    """The address of a server of ours."""
    name = server.database if database is None else database
    return PostgresAddress(server.host, server.port, server.user, server.password, name, "disable", max_conns=4)


def _administer(server: LocalPostgres, *statements: str) -> None:
    """Statements that no transaction may hold, on the server's own database."""
    engine = open_engine(address_of(server))
    try:
        with engine.connect() as connection:
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in statements:
                alone.execute(text(statement))
    finally:
        engine.dispose()


def _with_template(server: LocalPostgres) -> LocalPostgres:
    _administer(server, f"CREATE DATABASE {TEMPLATE}")
    engine = open_engine(address_of(server, TEMPLATE))
    migrate(engine, KEYRING)
    engine.dispose()
    return server


def _database(server: LocalPostgres, template: str, how: str = COPIED) -> Iterator[Database]:
    name = f"test_{next(_numbers)}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template} {how}")
    address = address_of(server, name)
    engine = open_engine(address)
    yield Database(address, engine, KEYRING, server)
    pool = engine.pool
    busy = pool.checkedout()  # type: ignore[attr-defined]
    engine.dispose()
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")
    assert busy == 0, "a connection was not given back"


def _memory() -> Path | None:
    """Where files cost no disk, if there is room: each test makes and removes a database, three hundred of them."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    free = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    return MEMORY if free >= ROOM_BYTES else None


@contextmanager
def _reachable_folder() -> Iterator[Path]:
    """An empty folder that a server's user can reach: pytest's own are closed to all but us."""
    with tempfile.TemporaryDirectory(prefix="steward-pg-test-", dir=_memory() or "/tmp") as made:  # noqa: S108
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """The embedded server, with a migrated template."""
    with _reachable_folder() as folder, LocalPostgres(folder, tcp=True, for_tests=True) as server:
        yield _with_template(server)


@pytest.fixture(scope="session")
def installed_postgres_server() -> Iterator[LocalPostgres]:
    """The oldest PostgreSQL that this machine has installed: another version than the embedded one."""
    found = sorted(INSTALLED.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip(f"no PostgreSQL is installed below {INSTALLED}")
    with _reachable_folder() as folder, LocalPostgres(folder, for_tests=True, binaries=found[0].parent) as server:
        yield _with_template(server)


@pytest.fixture
def postgres(postgres_server: LocalPostgres) -> Iterator[Database]:
    """A fresh, migrated database on the embedded server."""
    yield from _database(postgres_server, TEMPLATE)


@pytest.fixture
def installed_postgres(installed_postgres_server: LocalPostgres) -> Iterator[Database]:
    """The same on the installed server."""
    yield from _database(installed_postgres_server, TEMPLATE, how="")


@pytest.fixture
def empty_postgres(postgres_server: LocalPostgres) -> Iterator[Database]:
    """A database in which nothing was ever migrated."""
    yield from _database(postgres_server, "template1")


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """An empty folder that a server's user can reach."""
    with _reachable_folder() as folder:
        yield folder


@pytest.fixture
def local_postgres() -> Iterator[Callable[..., LocalPostgres]]:
    """Makes servers of a test's own, to stop and start; each is stopped in the end."""
    made: list[LocalPostgres] = []

    def make(folder: Path | None = None, **options: object) -> LocalPostgres:
        made.append(LocalPostgres(folder, for_tests=True, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.stop()
