"""Months of the ledger: made ahead, made once, and never at the cost of a row."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from steward.adapters.postgres_connection import mapped
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_partitions import ensure_partitions
from steward.errors import LedgerUnavailable
from tests.contracts.records import ORG, a_full_record, new_id
from tests.servers.postgres import Database

LATER = datetime(2041, 11, 30, 23, 59, 59, 999000, tzinfo=UTC)


def ensure(postgres: Database, now: datetime) -> list[str]:
    with mapped(), postgres.engine.begin() as connection:
        return ensure_partitions(connection, now)


def places(postgres: Database) -> dict[object, object]:
    return dict(postgres.run("SELECT id, tableoid::regclass::text FROM llm_requests"))  # type: ignore[arg-type]


def test_a_fresh_database_has_this_month_and_the_next(postgres: Database) -> None:
    [(now,)] = postgres.run("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    assert ensure(postgres, now) == []


@pytest.mark.parametrize(
    ("now", "names"),
    [
        (datetime(2041, 1, 31, tzinfo=UTC), ["llm_requests_2041_01", "llm_requests_2041_02"]),
        (datetime(2041, 12, 1, tzinfo=UTC), ["llm_requests_2041_12", "llm_requests_2042_01"]),
        (datetime.fromisoformat("2042-01-01T00:30:00+02:00"), ["llm_requests_2041_12", "llm_requests_2042_01"]),
    ],
)
def test_months_are_the_calendars_in_utc(postgres: Database, now: datetime, names: list[str]) -> None:
    assert ensure(postgres, now) == names
    assert ensure(postgres, now) == []


def test_a_row_lies_in_the_month_of_its_admission(postgres: Database) -> None:
    ensure(postgres, LATER)
    last, first = a_full_record(id=new_id(LATER - timedelta(minutes=1))), a_full_record(id=new_id(LATER + timedelta(1)))
    never = a_full_record(id=new_id(datetime(1999, 1, 1, tzinfo=UTC)))
    assert PostgresLedger(postgres.engine).record([last, first, never]) == []
    assert places(postgres) == {
        last.id: "llm_requests_2041_11",
        first.id: "llm_requests_2041_12",
        never.id: "llm_requests_default",
    }


def test_rows_that_came_before_their_month_are_moved_whole(postgres: Database) -> None:
    ledger = PostgresLedger(postgres.engine)
    early = [a_full_record(id=new_id(LATER - timedelta(hours=hour))) for hour in range(1, 5)]
    outside = a_full_record(id=new_id(LATER + timedelta(days=90)))
    ledger.record([*early, outside])
    before = {row.record.id: row for row in ledger.newest(ORG, 10)}
    assert set(places(postgres).values()) == {"llm_requests_default"}
    ensure(postgres, LATER)
    assert {row.record.id: row for row in ledger.newest(ORG, 10)} == before
    where = places(postgres)
    assert [where[record.id] for record in early] == ["llm_requests_2041_11"] * 4
    assert where[outside.id] == "llm_requests_default"
    assert ledger.record([*early, outside]) == []
    assert {row.revision for row in ledger.newest(ORG, 10)} == {1}


def test_two_makers_at_once_make_each_once(postgres: Database) -> None:
    made: list[list[str]] = []
    threads = [threading.Thread(target=lambda: made.append(ensure(postgres, LATER))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(made) == [[], [], ["llm_requests_2041_11", "llm_requests_2041_12"]]


def test_a_busy_table_is_left_for_later_and_nothing_is_half_made(postgres: Database) -> None:
    with postgres.engine.begin() as busy:
        busy.exec_driver_sql("LOCK TABLE llm_requests_default IN ROW EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailable):
            ensure(postgres, LATER)
    assert len(ensure(postgres, LATER)) == 2
