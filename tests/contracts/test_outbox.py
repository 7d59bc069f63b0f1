"""What every outbox promises, over the one in memory and the one in PostgreSQL (two versions of it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory import MemoryDirectory, MemoryLedger
from steward.adapters.memory_outbox import MemoryOutbox
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_outbox import PostgresOutbox
from steward.exchange import LOCAL_ORG, BodyState, Outcome, Record
from steward.ports import Directory, Identity, Lane, Ledger, LedgerRow, Outbox, Registration, SetAside, Waiting
from steward.words import Secret
from tests.contracts.records import a_record, new_id

TOKEN = Secret("mdm_st_" + "t" * 32)
LEASE_S = 300.0


@dataclass
class House:
    """One ledger, who is registered, and the way out."""

    ledger: Ledger
    directory: Directory
    outbox: Outbox
    state: Callable[[UUID], tuple[int, str | None, str | None]]

    def register(self, name: str = "Acme") -> Registration:
        return self.directory.register(Identity(uuid4(), uuid4(), name), "https://butler.example", TOKEN)

    def rows(self, owner: Registration | None, count: int, **changes: Any) -> list[Record]:
        """Calls of now, with the owner's keys, or with keys made inside."""
        at = datetime.now(UTC)
        facts = {"registration_id": owner.id, "org_id": owner.org_id} if owner else {"org_id": LOCAL_ORG}
        made = [a_record(**({"id": new_id(at), "requested_at": at} | facts | changes)) for _ in range(count)]
        assert self.ledger.record(made) == []
        return made


@pytest.fixture(params=["memory", "postgres", "installed_postgres"])
def house(request: pytest.FixtureRequest) -> House:
    if request.param == "memory":
        ledger, directory = MemoryLedger(), MemoryDirectory()
        outbox = MemoryOutbox(ledger, directory)
        return House(ledger, directory, outbox, outbox.state)
    database = request.getfixturevalue(request.param)

    def state(row_id: UUID) -> tuple[int, str | None, str | None]:
        sql = "SELECT exported_revision, export_state, export_code FROM llm_requests WHERE id = :id"
        (found,) = database.run(sql, id=row_id)
        return found  # type: ignore[no-any-return]

    engine = database.engine
    return House(PostgresLedger(engine), PostgresDirectory(engine, database.keyring), PostgresOutbox(engine), state)


def lane(registration: Registration, local: bool = False) -> Lane:
    return Lane(registration.id, registration.org_id, local)


def ids(rows: list[LedgerRow]) -> list[UUID]:
    return [row.record.id for row in rows]


def pairs(rows: list[LedgerRow]) -> list[tuple[UUID, int]]:
    return [(row.record.id, row.revision) for row in rows]


def test_an_empty_outbox_has_nothing(house: House) -> None:
    mine = lane(house.register())
    assert house.outbox.claim(mine, 10, LEASE_S) == []
    assert house.outbox.waiting(mine, 10) == Waiting()
    house.outbox.mark(mine, [])
    house.outbox.set_aside(mine, [])
    house.outbox.release(mine, [])
    assert house.outbox.keep_local(10, managed=False) == 0


def test_rows_come_as_the_ledger_has_them_newest_first(house: House) -> None:
    mine = house.register()
    made = house.rows(mine, 3)
    assert house.outbox.claim(lane(mine), 10, LEASE_S) == [LedgerRow(record, 1) for record in made[::-1]]


def test_a_batch_is_half_newest_and_half_oldest(house: House) -> None:
    mine = house.register()
    made = [record.id for record in house.rows(mine, 20)]
    assert ids(house.outbox.claim(lane(mine), 5, LEASE_S)) == [made[i] for i in (19, 18, 17, 1, 0)]
    assert ids(house.outbox.claim(lane(mine), 1, LEASE_S)) == [made[16]]
    assert ids(house.outbox.claim(lane(mine), 100, LEASE_S)) == made[2:16][::-1]
    assert house.outbox.claim(lane(mine), 100, LEASE_S) == []


def test_what_is_claimed_is_nobody_else_s_until_it_is_released_or_the_lease_is_over(house: House) -> None:
    mine = house.register()
    made = [record.id for record in house.rows(mine, 4)]
    assert ids(house.outbox.claim(lane(mine), 2, LEASE_S)) == [made[3], made[0]]
    assert ids(house.outbox.claim(lane(mine), 9, 0.0)) == [made[2], made[1]]
    assert ids(house.outbox.claim(lane(mine), 9, LEASE_S)) == [made[2], made[1]]
    house.outbox.release(lane(mine), [made[0], made[2], uuid4()])
    assert ids(house.outbox.claim(lane(mine), 9, LEASE_S)) == [made[2], made[0]]
    assert house.outbox.waiting(lane(mine), 9).rows == 4


def test_what_is_marked_waits_no_more_until_it_changes(house: House) -> None:
    mine = house.register()
    (record,) = house.rows(mine, 1, outcome=Outcome.INTERRUPTED, body_state=BodyState.LOST)
    house.outbox.mark(lane(mine), pairs(house.outbox.claim(lane(mine), 9, LEASE_S)))
    assert house.outbox.claim(lane(mine), 9, LEASE_S) == []
    assert house.outbox.waiting(lane(mine), 9) == Waiting()
    later = replace(record, outcome=Outcome.COMPLETE, body_state=BodyState.STORED)
    house.ledger.record([later])
    assert house.outbox.claim(lane(mine), 9, LEASE_S) == [LedgerRow(later, 2)]


def test_a_change_while_it_is_under_way_is_not_lost(house: House) -> None:
    mine = house.register()
    (record,) = house.rows(mine, 1, body_state=BodyState.PENDING)
    claimed = house.outbox.claim(lane(mine), 9, LEASE_S)
    later = replace(record, body_state=BodyState.STORED)
    house.ledger.record([later])
    house.outbox.mark(lane(mine), pairs(claimed))
    assert house.outbox.claim(lane(mine), 9, LEASE_S) == [LedgerRow(later, 2)]
    house.outbox.mark(lane(mine), [(record.id, 2)])
    house.outbox.mark(lane(mine), [(record.id, 1)])
    assert house.state(record.id)[0] == 2
    assert house.outbox.claim(lane(mine), 9, LEASE_S) == []


def test_what_is_set_aside_is_tried_again_when_it_changes(house: House) -> None:
    mine = house.register()
    (record,) = house.rows(mine, 1, body_state=BodyState.PENDING)
    house.outbox.claim(lane(mine), 9, LEASE_S)
    house.outbox.set_aside(lane(mine), [SetAside(record.id, 1, "butler_rejected")])
    assert house.state(record.id) == (1, "set_aside", "butler_rejected")
    assert house.outbox.claim(lane(mine), 9, LEASE_S) == []
    house.ledger.record([replace(record, body_state=BodyState.STORED)])
    assert pairs(house.outbox.claim(lane(mine), 9, LEASE_S)) == [(record.id, 2)]
    house.outbox.mark(lane(mine), [(record.id, 2)])
    assert house.state(record.id) == (2, None, None)


def test_what_was_set_aside_waits_again_when_a_person_asks(house: House) -> None:
    mine, other = house.register("One"), house.register("Other")
    made = [*house.rows(mine, 3), *house.rows(other, 1)]
    for owner in (mine, other):
        aside = [
            SetAside(row, revision, "butler_rejected")
            for row, revision in pairs(house.outbox.claim(lane(owner), 2, 0.0))
        ]
        house.outbox.set_aside(lane(owner), aside)
    assert house.outbox.resend(datetime.now(UTC) + timedelta(hours=1), 9) == 0
    assert [house.outbox.resend(datetime.now(UTC) - timedelta(hours=1), 2) for _ in range(3)] == [2, 1, 0]
    assert [house.state(record.id) for record in made] == [(0, None, None)] * 4
    assert len(house.outbox.claim(lane(mine), 9, LEASE_S)) == 3


def test_a_late_no_does_not_undo_a_yes(house: House) -> None:
    mine = house.register()
    (record,) = house.rows(mine, 1)
    house.outbox.mark(lane(mine), [(record.id, 1)])
    house.outbox.set_aside(lane(mine), [SetAside(record.id, 1, "butler_rejected")])
    assert house.state(record.id) == (1, None, None)


def test_registrations_see_their_own_rows_alone(house: House) -> None:
    one, other = house.register("One"), house.register("Other")
    of_one, of_other = house.rows(one, 2), house.rows(other, 3)
    crossed = Lane(one.id, other.org_id)
    assert house.outbox.claim(crossed, 9, LEASE_S) == []
    assert len(house.outbox.claim(lane(one), 9, LEASE_S)) == 2
    assert len(house.outbox.claim(lane(other), 9, LEASE_S)) == 3
    house.outbox.mark(lane(one), [(record.id, 1) for record in of_other])
    house.outbox.set_aside(lane(one), [SetAside(record.id, 1, "butler_rejected") for record in of_other])
    house.outbox.release(lane(one), [record.id for record in of_other])
    assert [house.state(record.id) for record in of_other] == [(0, None, None)] * 3
    assert house.outbox.claim(lane(other), 9, LEASE_S) == []
    assert house.outbox.waiting(lane(one), 9).rows == len(of_one)


def test_a_deregistered_one_has_nothing_until_it_is_back(house: House) -> None:
    mine = house.register()
    house.rows(mine, 2)
    house.rows(None, 2)
    house.directory.deregister(mine.org_id)
    for each in (lane(mine), lane(mine, local=True), Lane(uuid4(), uuid4())):
        assert house.outbox.claim(each, 9, LEASE_S) == []
        assert house.outbox.waiting(each, 9) == Waiting()
    house.directory.register(Identity(uuid4(), mine.org_id, "Acme"), "https://butler.example", TOKEN)
    assert len(house.outbox.claim(lane(mine), 9, LEASE_S)) == 2


def test_calls_with_keys_made_inside_go_to_the_only_registration(house: House) -> None:
    mine = house.register()
    since = [record.id for record in house.rows(None, 3)]
    there = lane(mine, local=True)
    assert ids(house.outbox.claim(there, 9, LEASE_S)) == since[::-1]
    assert house.outbox.claim(lane(mine), 9, LEASE_S) == []
    house.outbox.mark(there, [(record_id, 1) for record_id in since])
    assert [house.state(record_id)[0] for record_id in since] == [1, 1, 1]


def test_with_two_registrations_they_stay_and_are_counted(house: House) -> None:
    one = house.register("One")
    early = house.rows(None, 2)
    house.register("Other")
    late = house.rows(None, 3)
    assert house.outbox.claim(lane(one, local=True), 9, LEASE_S) == []
    assert house.outbox.keep_local(4, managed=False) == 4
    assert house.outbox.keep_local(4, managed=False) == 1
    assert house.outbox.keep_local(4, managed=False) == 0
    assert {house.state(record.id)[1] for record in early + late} == {"local"}


def test_in_managed_mode_they_stay(house: House) -> None:
    house.register()
    house.rows(None, 3)
    assert house.outbox.keep_local(9, managed=True) == 3


def old_rows(house: House, count: int) -> tuple[datetime, list[Record]]:
    """Calls of two days ago, with keys made inside."""
    at = datetime.now(UTC) - timedelta(days=2)
    return at, [house.rows(None, 1, id=new_id(at), requested_at=at)[0] for _ in range(count)]


def test_calls_from_before_the_registration_stay_until_they_are_asked_for(house: House) -> None:
    at, old = old_rows(house, 5)
    mine = house.register()
    there = lane(mine, local=True)
    (new,) = house.rows(None, 1)
    assert ids(house.outbox.claim(there, 9, 0.0)) == [new.id]
    assert house.outbox.keep_local(9, managed=False) == 5
    assert ids(house.outbox.claim(there, 9, 0.0)) == [new.id]
    assert house.outbox.backfill(at + timedelta(hours=1), 9) == 0
    assert house.outbox.keep_local(9, managed=False) == 0
    assert [house.outbox.backfill(at - timedelta(hours=1), 3) for _ in range(3)] == [3, 2, 0]
    assert set(ids(house.outbox.claim(there, 9, LEASE_S))) == {new.id, *(record.id for record in old)}
    assert house.outbox.keep_local(9, managed=False) == 0


def test_backfill_wants_exactly_one_registration(house: House) -> None:
    at, old = old_rows(house, 1)
    assert house.outbox.backfill(at, 9) is None
    one = house.register("One")
    house.register("Other")
    assert house.outbox.keep_local(9, managed=False) == 1
    assert house.outbox.backfill(at, 9) is None
    assert house.state(old[0].id)[1] == "local"
    assert house.outbox.claim(lane(one, local=True), 9, LEASE_S) == []


def test_registering_again_loses_no_call_and_a_new_beginning_takes_none_along(house: House) -> None:
    mine = house.register()
    (between,) = house.rows(None, 1)
    again = house.directory.register(Identity(uuid4(), mine.org_id, "Acme"), "https://butler.example", TOKEN)
    assert again.local_from == mine.local_from
    assert ids(house.outbox.claim(lane(again, local=True), 9, 0.0)) == [between.id]
    at, old = old_rows(house, 1)
    assert house.outbox.backfill(at, 9) == 0
    assert house.outbox.waiting(lane(again, local=True), 9).rows == 2
    house.directory.deregister(mine.org_id)
    back = house.directory.register(Identity(uuid4(), mine.org_id, "Acme"), "https://butler.example", TOKEN)
    assert back.local_from > old[0].id


def test_what_waits_is_counted_as_far_as_is_asked_and_has_its_age(house: House) -> None:
    mine = house.register()
    at = datetime.now(UTC) - timedelta(seconds=500)
    house.rows(mine, 1, id=new_id(at))
    house.rows(mine, 9)
    assert house.outbox.waiting(lane(mine), 100).rows == 10
    told = house.outbox.waiting(lane(mine), 4)
    assert told.rows == 4
    assert 400 < told.oldest_s < 600
