"""Every gap between rows, bodies and spool is found, none is imagined, and what can be closed is closed."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.memory_body_book import MemoryBodyBook
from steward.errors import StoreUnavailable
from steward.exchange import BodyState, Record, uuid7
from steward.ports import BodyRow, Put
from steward.reconcile import Gap, GapKind, NothingKept, Reconcile, Remedy, Report
from tests.contracts.records import KEY, ORG, a_record

NOW = datetime.now(UTC) + timedelta(hours=1)
"""Everything that is stored while these tests run is older than the grace."""
SINCE = NOW - timedelta(days=3)


class Kept:
    """A spool and a quarantine, as sets."""

    def __init__(self) -> None:
        self.waits: set[UUID] = set()
        self.aside: set[UUID] = set()
        self.again: list[UUID] = []

    def waiting(self) -> set[UUID]:
        return self.waits

    def set_aside(self) -> set[UUID]:
        return self.aside

    def try_again(self, request_id: UUID) -> None:
        self.aside.remove(request_id)
        self.again.append(request_id)


class House:
    """A ledger, a store, what is kept, and who compares them."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.book = MemoryBodyBook(self.ledger)
        self.store = MemoryBodyStore()
        self.kept = Kept()
        self.number = 0

    def run(self, fix: bool = False) -> Report:
        return Reconcile(self.book, self.store, self.kept, lambda: NOW).run(SINCE, fix)

    def gaps(self) -> list[tuple[GapKind, UUID]]:
        return [(gap.kind, gap.id) for gap in self.run().gaps]

    def new_id(self, at: datetime) -> UUID:
        self.number += 1
        return uuid7(int(at.timestamp() * 1000), self.number.to_bytes(10, "big"))

    def call(self, state: BodyState = BodyState.STORED, age: timedelta = timedelta(days=1), row: bool = True) -> Record:
        """A call as it should be: with its row and, when that says so, its body."""
        at = NOW - age
        request_id = self.new_id(at)
        record = a_record(id=request_id, requested_at=at, body_state=state)
        if state is BodyState.STORED:
            octets = gzip.compress(request_id.bytes)
            key = f"{KEY}/{at.date().isoformat()}/{request_id}.json.gz"
            digest = hashlib.sha256(octets).hexdigest()
            [result] = self.store.put_many([Put(key, octets, digest, len(octets))])
            assert result.ref is not None
            facts = {"body_key": key, "body_url": result.ref.url, "body_sha256": digest, "body_bytes": len(octets)}
            record = a_record(id=request_id, requested_at=at, body_state=state, **facts)
        if row:
            self.ledger.record([record])
        return record

    def state(self, record: Record) -> BodyState:
        found = self.ledger.get(record.org_id, record.id)
        assert found is not None
        return found.record.body_state


@pytest.fixture
def house() -> House:
    return House()


def test_where_all_is_well_there_is_no_gap(house: House) -> None:
    for state in BodyState:
        if state is not BodyState.PENDING:
            house.call(state)
    house.call(BodyState.PENDING, timedelta(minutes=1))
    report = house.run(fix=True)
    assert (report.gaps, report.rows, report.objects) == ([], 7, 1)


def test_more_rows_and_objects_than_a_page(house: House) -> None:
    for _ in range(2100):
        house.call(age=timedelta(minutes=30))
    report = house.run()
    assert (report.gaps, report.rows, report.objects) == ([], 2100, 2100)


def test_a_body_without_a_row(house: House) -> None:
    house.call()
    orphan = house.call(row=False)
    assert house.gaps() == [(GapKind.NO_ROW, orphan.id)]
    [gap] = house.run(fix=True).gaps
    assert (gap.key, gap.remedy) == (orphan.body_key, Remedy.LEFT)
    assert orphan.body_key in house.store.objects, "no object is ever deleted"


def test_a_body_whose_call_waits_for_its_row_is_no_gap(house: House) -> None:
    orphan = house.call(row=False)
    house.kept.waits = {orphan.id}
    assert house.gaps() == []


def test_a_body_younger_than_ten_minutes_is_no_gap(house: House) -> None:
    house.call(row=False)
    early = Reconcile(house.book, house.store, house.kept, lambda: datetime.now(UTC))
    assert early.run(SINCE, False).gaps == []


def test_a_row_whose_body_is_gone_says_so_after_a_fix_and_is_found_again_when_it_is_put_again(house: House) -> None:
    gone = house.call()
    assert gone.body_key is not None
    octets = house.store.objects.pop(gone.body_key)
    assert house.gaps() == [(GapKind.MISSING, gone.id)]
    assert house.state(gone) is BodyState.STORED
    [gap] = house.run(fix=True).gaps
    assert (gap.remedy, house.state(gone)) == (Remedy.MARKED, BodyState.LOST)
    assert house.gaps() == []
    house.store.objects[gone.body_key] = octets
    house.ledger.record([gone])
    assert (house.state(gone), house.gaps()) == (BodyState.STORED, [])


@pytest.mark.parametrize("other", [b"", b"shorter", b"x" * 36])
def test_a_body_that_is_not_the_one_of_its_row(house: House, other: bytes) -> None:
    changed = house.call()
    assert changed.body_key is not None
    same_length = len(house.store.objects[changed.body_key])
    house.store.objects[changed.body_key] = other if len(other) < 36 else b"x" * same_length
    assert house.gaps() == [(GapKind.DIFFERENT, changed.id)]
    house.run(fix=True)
    assert house.state(changed) is BodyState.LOST
    assert changed.body_key in house.store.objects


def test_a_row_that_is_pending_for_nothing(house: House) -> None:
    stuck, waits = house.call(BodyState.PENDING), house.call(BodyState.PENDING)
    house.kept.waits = {waits.id}
    report = house.run(fix=True)
    assert [(gap.kind, gap.id, gap.remedy) for gap in report.gaps] == [(GapKind.STUCK, stuck.id, Remedy.MARKED)]
    assert report.waiting == 1
    assert (house.state(stuck), house.state(waits)) == (BodyState.FAILED, BodyState.PENDING)
    assert house.gaps() == []


def test_what_the_quarantine_has_is_put_again(house: House) -> None:
    stuck, gone, orphan = house.call(BodyState.PENDING), house.call(), house.call(row=False)
    assert gone.body_key is not None
    del house.store.objects[gone.body_key]
    house.kept.aside = {stuck.id, gone.id, orphan.id}
    report = house.run(fix=True)
    assert {gap.remedy for gap in report.gaps} == {Remedy.AGAIN}
    assert sorted(house.kept.again) == sorted([stuck.id, gone.id, orphan.id])
    assert (house.state(stuck), house.state(gone)) == (BodyState.FAILED, BodyState.LOST)


@pytest.mark.parametrize("state", [BodyState.FAILED, BodyState.LOST])
def test_a_body_that_was_given_up_and_is_kept_is_put_again(house: House, state: BodyState) -> None:
    """However young: it is not on its way. Its row stays as it is until the store has the body."""
    kept = house.call(state, timedelta(minutes=1))
    gone = house.call(state)
    house.kept.aside = {kept.id, house.new_id(NOW)}
    assert house.gaps() == [(GapKind.KEPT, kept.id)]
    assert [gap.remedy for gap in house.run(fix=True).gaps] == [Remedy.AGAIN]
    assert house.kept.again == [kept.id]
    assert {house.state(kept), house.state(gone)} == {state}
    house.kept.waits = {kept.id}
    assert house.gaps() == []


def test_without_a_fix_nothing_changes(house: House) -> None:
    house.call(BodyState.PENDING)
    house.kept.aside = {house.call(row=False).id}
    rows, objects = house.ledger.all_records(), dict(house.store.objects)
    assert len(house.run().gaps) == 2
    assert (house.ledger.all_records(), house.store.objects, house.kept.again) == (rows, objects, [])


def test_rows_of_another_store_are_counted_and_left(house: House) -> None:
    elsewhere = a_record(
        id=house.new_id(NOW - timedelta(days=1)),
        requested_at=NOW - timedelta(days=1),
        body_state=BodyState.STORED,
        body_key=f"{KEY}/2026-11-20/x.json.gz",
        body_url="s3://another/bucket/key",
        body_sha256="0" * 64,
        body_bytes=1,
    )
    key = f"{KEY}/2026-11-20/y.json.gz"
    namesake = replace(
        elsewhere,
        id=house.new_id(NOW - timedelta(days=1)),
        body_key=key,
        body_url=house.store.url(key),
        storage_config_id=ORG,
    )
    house.ledger.record([elsewhere, namesake])
    report = house.run(fix=True)
    assert (report.gaps, house.state(elsewhere), house.state(namesake)) == ([], BodyState.STORED, BodyState.STORED)
    place = house.store.url(key).split("/", 3)
    assert report.elsewhere == {"s3://another": 1, f"{place[0]}//{place[2]} of organisation {ORG}": 1}


def test_what_is_older_than_asked_is_left(house: House) -> None:
    old = house.call(age=timedelta(days=9))
    assert old.body_key is not None
    del house.store.objects[old.body_key]
    house.call(BodyState.PENDING, timedelta(days=9))
    house.call(age=timedelta(days=9), row=False)
    assert house.run().gaps == []


class _Meanwhile(MemoryBodyBook):
    """A book in which a settler goes on writing while others read."""

    def __init__(self, ledger: MemoryLedger, late: Sequence[Record]) -> None:
        super().__init__(ledger)
        self._late = list(late)
        self._writer = ledger

    def of(self, ids: Sequence[UUID]) -> list[BodyRow]:
        found = super().of(ids)
        if self._late:
            self._writer.record(self._late)
            self._late = []
        return found


def test_what_is_settled_meanwhile_is_no_gap(house: House) -> None:
    orphan = house.call(row=False)
    house.book = _Meanwhile(house.ledger, [orphan])
    assert house.gaps() == []
    assert house.state(orphan) is BodyState.STORED


def test_a_store_that_is_away_is_no_gap(house: House) -> None:
    house.call()
    house.store.fail(StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        house.run(fix=True)


def test_where_there_is_no_spool_nothing_is_kept() -> None:
    nothing = NothingKept()
    assert (nothing.waiting(), nothing.set_aside()) == (set(), set())
    with pytest.raises(KeyError):
        nothing.try_again(UUID(int=1))
    assert Gap(GapKind.STUCK, UUID(int=1)).remedy is None
