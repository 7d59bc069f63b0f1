"""Butler's own line: beside the Steward's in one database, once, by two at once, and under its own key alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from migrations import MigrateResult, migrate, migrate_butler
from steward.adapters.postgres_connection import open_engine
from steward.butler.database import SCHEMA_VERSION, Database
from steward.butler.views import Filter, Span
from steward.errors import SealBroken
from steward.seal import Keyring
from steward.words import Secret
from tests.butler.calls import received
from tests.servers.butler import BUTLER_KEYRING, bench_over
from tests.servers.postgres import KEYRING
from tests.servers.postgres import Database as Served


def dump(database: Served, schema: str) -> list[tuple[object, ...]]:
    return database.run(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = CAST(:schema AS regnamespace) ORDER BY 1, 2",
        schema=schema,
    )


def test_from_nothing_to_all_and_again(empty_postgres: Served) -> None:
    assert migrate_butler(empty_postgres.engine, BUTLER_KEYRING) == MigrateResult(None, SCHEMA_VERSION)
    Database(empty_postgres.engine).ready()
    before = dump(empty_postgres, "butler")
    assert migrate_butler(empty_postgres.engine, BUTLER_KEYRING) == MigrateResult(SCHEMA_VERSION, SCHEMA_VERSION)
    assert dump(empty_postgres, "butler") == before
    assert dump(empty_postgres, "public") == []


def test_both_halves_in_one_database_leave_each_other_alone(empty_postgres: Served) -> None:
    migrate(empty_postgres.engine, KEYRING)
    stewards = dump(empty_postgres, "public")
    migrate_butler(empty_postgres.engine, BUTLER_KEYRING)
    assert dump(empty_postgres, "public") == stewards
    butlers = dump(empty_postgres, "butler")
    migrate(empty_postgres.engine, KEYRING)
    assert dump(empty_postgres, "butler") == butlers


def test_two_at_once_make_one(empty_postgres: Served) -> None:
    found: list[MigrateResult] = []

    def make() -> None:
        engine = open_engine(empty_postgres.address)
        found.append(migrate_butler(engine, BUTLER_KEYRING))
        engine.dispose()

    makers = [threading.Thread(target=make) for _ in range(2)]
    for each in makers:
        each.start()
    for each in makers:
        each.join()
    assert sorted(str(each.before) for each in found) == [SCHEMA_VERSION, "None"]


def test_another_key_is_told_at_once(empty_postgres: Served) -> None:
    migrate_butler(empty_postgres.engine, BUTLER_KEYRING)
    with pytest.raises(SealBroken):
        migrate_butler(empty_postgres.engine, Keyring(Secret(bytes(range(50, 82)))))


def test_a_newer_schema_is_left_as_it_is(empty_postgres: Served) -> None:
    migrate_butler(empty_postgres.engine, BUTLER_KEYRING)
    empty_postgres.run("UPDATE butler.butler_schema SET version_num = '9999'")
    assert migrate_butler(empty_postgres.engine, BUTLER_KEYRING) == MigrateResult("9999", "9999")
    Database(empty_postgres.engine).ready()


def test_on_another_version_of_postgresql_it_keeps_a_call_too(installed_postgres: Served) -> None:
    migrate_butler(installed_postgres.engine, BUTLER_KEYRING)
    butler = bench_over(installed_postgres)
    acme = butler.tenant("acme")
    call = received(requested_at=butler.clock(), tags={"Team": "a"})
    assert butler.services.records.ingest(acme.bearer, [call], butler.clock()).added == 1
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    while butler.services.metadata_keys.backfill():
        pass
    hour = timedelta(hours=1)
    which = Filter(butler.clock() - hour, butler.clock() + hour, tags=(("Team", "a"),))
    (row,) = butler.services.explorer.page(acme.bearer.org_id, which).rows
    assert row.id == call.id
    span = Span(butler.clock() - hour, butler.clock() + hour, hour)
    assert [point.sums.calls for point in butler.services.overview.series(acme.bearer.org_id, span)] == [1]
    assert butler.services.overview.series(acme.bearer.org_id, replace(span, step=hour / 4))[0].sums.calls == 1
    assert butler.services.overview.totals(acme.bearer.org_id, span).whole.p50 is not None
