"""Fixtures: a Butler over a real, migrated database, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from argon2 import PasswordHasher

from migrations import migrate_butler
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.butler.nouns import Actor, Role
from steward.butler.passwords import Passwords
from steward.butler.services import Services, Site, over
from steward.butler.store_people import NewPerson
from steward.butler.store_stewards import Bearer
from steward.seal import Keyring
from steward.words import Secret
from tests.servers.postgres import Database, _administer, _database, address_of

BUTLER_KEYRING = Keyring(Secret(bytes(range(100, 132))))
PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
_TEMPLATE = "butler_template"
_NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Stands still until it is moved."""

    at: datetime = _NOON

    def __call__(self) -> datetime:
        return self.at

    def forward(self, by: timedelta) -> datetime:
        self.at += by
        return self.at


@dataclass
class Tenant:
    """An organisation with its owner, and one Steward of it."""

    owner: Actor
    bearer: Bearer
    token: Secret[str]

    @property
    def org_id(self) -> object:
        return self.owner.org_id


@dataclass
class ButlerBench:
    """A Butler's services, and what a test needs to make things in it."""

    services: Services
    postgres: Database
    clock: Clock
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def tenant(self, name: str) -> Tenant:
        """A fresh organisation `name` with the owner `owner@name.example`."""
        person = NewPerson(f"owner@{name}.example", f"Owner of {name}", Secret(PASSWORD))
        owner = self.services.people.found(name, person)
        made = self.services.stewards.create(owner, "prod")
        bearer = self.services.stewards.bearer(made.plaintext, "majordomo-steward/1.2.3", self.clock())
        assert bearer is not None
        return Tenant(owner, bearer, made.plaintext)

    def member(self, tenant: Tenant, role: Role) -> Actor:
        """A person more in the organisation."""
        email = f"{role.value}{next(self._numbers)}@{tenant.bearer.org_name}.example"
        link = self.services.people.invite(tenant.owner, email, role, self.clock())
        return self.services.people.accept(link.plaintext, role.value.title(), Secret(PASSWORD), self.clock())


@pytest.fixture(scope="session")
def butler_server(postgres_server: LocalPostgres) -> LocalPostgres:
    """The embedded server, with a template that holds Butler's schema."""
    _administer(postgres_server, f"CREATE DATABASE {_TEMPLATE}")
    engine = open_engine(address_of(postgres_server, _TEMPLATE))
    migrate_butler(engine, BUTLER_KEYRING)
    engine.dispose()
    return postgres_server


@pytest.fixture
def butler_postgres(butler_server: LocalPostgres) -> Iterator[Database]:
    """A fresh database with Butler's schema alone."""
    yield from _database(butler_server, _TEMPLATE)


@pytest.fixture
def butler(butler_postgres: Database) -> ButlerBench:
    """A Butler without a listener."""
    return bench_over(butler_postgres)


def bench_over(database: Database) -> ButlerBench:
    """A Butler over a database that has its schema."""
    clock = Clock()
    services = over(database.engine, BUTLER_KEYRING, Site("http://127.0.0.1:7690"), Passwords(CHEAP), clock)
    return ButlerBench(services, database, clock)
