"""What every book of bodies promises, over the one in memory and the one in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_body_book import MemoryBodyBook
from steward.adapters.postgres_body_book import PostgresBodyBook
from steward.adapters.postgres_ledger import PostgresLedger
from steward.exchange import BodyState, Record
from steward.ports import BodyBook, BodyRow, Ledger
from tests.contracts.records import NOON, ORG, OTHER_ORG, a_record, new_id
from tests.servers.postgres import Database


@dataclass
class Books:
    """A ledger, and the book of its bodies."""

    ledger: Ledger
    book: BodyBook

    def written(self, *records: Record) -> list[Record]:
        """Rows of these."""
        assert self.ledger.record(records) == []
        return list(records)

    def row(self, record: Record) -> tuple[BodyState, int]:
        """What the ledger says of the body, and the row's revision."""
        found = self.ledger.get(record.org_id, record.id)
        assert found is not None
        return found.record.body_state, found.revision


@pytest.fixture(params=["memory", "postgres"])
def books(request: pytest.FixtureRequest) -> Books:
    def memory() -> Books:
        ledger = MemoryLedger()
        return Books(ledger, MemoryBodyBook(ledger))

    def postgres() -> Books:
        database: Database = request.getfixturevalue("postgres")
        return Books(PostgresLedger(database.engine), PostgresBodyBook(database.engine))

    made: dict[str, Callable[[], Books]] = {"memory": memory, "postgres": postgres}
    return made[request.param]()


def stored(**changes: object) -> Record:
    """A row with a body."""
    facts = {"body_state": BodyState.STORED, "body_key": "k/d/i.json.gz", "body_url": "s3://b/k", "body_sha256": "0a"}
    return a_record(**{**facts, "body_bytes": 7, **changes})


def test_a_row_says_all_of_its_body(books: Books) -> None:
    [record] = books.written(stored(org_id=OTHER_ORG))
    assert books.book.of([record.id, new_id()]) == [
        BodyRow(record.id, OTHER_ORG, NOON, BodyState.STORED, "k/d/i.json.gz", "s3://b/k", "0a", 7)
    ]
    assert books.book.of([]) == []


def test_rows_come_in_the_order_of_their_ids_page_by_page_of_all_organisations(books: Books) -> None:
    days = [NOON + timedelta(days=day) for day in range(-3, 3)]
    records = books.written(*(a_record(id=new_id(day), org_id=org) for day in days for org in (ORG, OTHER_ORG)))
    expected = sorted(record.id for record in records[6:])
    found: list[BodyRow] = []
    while page := books.book.since(NOON - timedelta(hours=1), found[-1].id if found else None, 4):
        assert len(page) <= 4
        found += page
    assert [row.id for row in found] == expected
    assert books.book.since(NOON + timedelta(days=9), None, 4) == []


def test_a_mark_changes_the_one_word_and_the_revision(books: Books) -> None:
    gone, other = books.written(stored(), stored(body_key="k/d/j.json.gz"))
    [row] = books.book.of([gone.id])
    assert books.book.mark([row], BodyState.LOST) == 1
    assert books.row(gone) == (BodyState.LOST, 2)
    assert books.row(other) == (BodyState.STORED, 1)
    [after] = books.book.of([gone.id])
    assert (after.key, after.sha256) == (row.key, row.sha256)
    assert books.book.mark([after], BodyState.LOST) == 0
    assert books.row(gone) == (BodyState.LOST, 2)


def test_a_row_that_says_something_else_by_now_is_left(books: Books) -> None:
    [record] = books.written(a_record(body_state=BodyState.PENDING))
    [row] = books.book.of([record.id])
    books.written(stored(id=record.id))
    assert books.book.mark([row], BodyState.FAILED) == 0
    assert books.row(record) == (BodyState.STORED, 2)


def test_what_was_marked_is_stored_when_it_is_found_again(books: Books) -> None:
    [record] = books.written(stored())
    books.book.mark(books.book.of([record.id]), BodyState.LOST)
    books.written(stored(id=record.id))
    assert books.row(record) == (BodyState.STORED, 3)


def test_bodies_that_wait_since_before_a_moment_are_found_oldest_first(books: Books) -> None:
    days = [NOON + timedelta(days=day) for day in (-5, -3, -4, 0)]
    old, late, older, new = books.written(
        *(
            a_record(id=new_id(day), org_id=org, body_state=BodyState.PENDING)
            for day, org in zip(days, [ORG, OTHER_ORG] * 2, strict=True)
        )
    )
    books.written(stored(id=new_id(days[0])), a_record(id=new_id(days[0]), body_state=BodyState.FAILED))
    before = NOON - timedelta(days=1)
    assert [row.id for row in books.book.stuck(before, 10)] == [old.id, older.id, late.id]
    assert [row.id for row in books.book.stuck(before, 1)] == [old.id]
    assert books.book.mark(books.book.stuck(before, 10), BodyState.FAILED) == 3
    assert books.book.stuck(before, 10) == []
    assert books.row(new) == (BodyState.PENDING, 1)
