"""The explorer: filters, pages in both directions, one call; and what PostgreSQL does for a page of a million rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from steward.butler.errors import NotThere
from steward.butler.views import Cursor, Filter
from tests.butler import many_calls
from tests.butler.calls import received
from tests.butler.many_calls import SINCE, UNTIL
from tests.servers.butler import ButlerBench, Tenant, bench_over
from tests.servers.postgres import Database, _database

ALL = Filter(SINCE, UNTIL)
PAGE = 50


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    return butler.tenant("acme")


def fill(butler: ButlerBench, tenant: Tenant, count: int) -> list[UUID]:
    """Calls a minute apart, newest first; every third of another model."""
    batch = [
        received(
            requested_at=butler.clock() - timedelta(minutes=number),
            model="gpt-5" if number % 3 else "o9",
            status_code=500 if number == 4 else 200,
            tags={"Team": f"t{number % 2}", "Tier": "a" if number < 6 else "b"},
        )
        for number in range(count)
    ]
    butler.services.records.ingest(tenant.bearer, batch, butler.clock())
    return [each.id for each in batch]


def ids(butler: ButlerBench, tenant: Tenant, which: Filter, **options: Any) -> list[UUID]:
    return [row.id for row in butler.services.explorer.page(tenant.bearer.org_id, which, **options).rows]


def test_pages_follow_each_other_both_ways_without_a_gap(butler: ButlerBench, acme: Tenant) -> None:
    made, explorer = fill(butler, acme, 23), butler.services.explorer
    first = explorer.page(acme.bearer.org_id, ALL, limit=10)
    second = explorer.page(acme.bearer.org_id, ALL, first.older, 10)
    third = explorer.page(acme.bearer.org_id, ALL, second.older, 10)
    seen = [row.id for page in (first, second, third) for row in page.rows]
    assert seen == made
    assert (first.newer, third.older) == (None, None)
    back = explorer.page(acme.bearer.org_id, ALL, third.newer, 10)
    assert back.rows == second.rows
    assert explorer.page(acme.bearer.org_id, ALL, back.newer, 10).rows == first.rows
    assert explorer.page(acme.bearer.org_id, ALL, Cursor(SINCE, UUID(int=0)), 10).rows == ()


def test_each_filter_narrows(butler: ButlerBench, acme: Tenant) -> None:
    made = fill(butler, acme, 12)
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    butler.services.metadata_keys.activate(acme.owner, "Tier", butler.clock())
    while butler.services.metadata_keys.backfill():
        pass
    assert ids(butler, acme, replace(ALL, model="o9")) == made[::3]
    assert ids(butler, acme, replace(ALL, failed=True)) == [made[4]]
    assert ids(butler, acme, replace(ALL, failed=False)) == made[:4] + made[5:]
    assert ids(butler, acme, replace(ALL, status_code=500)) == [made[4]]
    assert ids(butler, acme, replace(ALL, status_code=200, provider="openai")) == made[:4] + made[5:]
    assert ids(butler, acme, replace(ALL, tags=(("Team", "t1"),))) == made[1::2]
    assert ids(butler, acme, replace(ALL, tags=(("Team", "t1"), ("Tier", "a")))) == made[1:6:2]
    assert ids(butler, acme, replace(ALL, since=butler.clock() - timedelta(minutes=2))) == made[:3]
    assert ids(butler, acme, replace(ALL, outcome="timed_out", error="timeout", body_state="lost")) == []
    assert ids(butler, acme, replace(ALL, api_key_id=uuid4())) == []


def test_no_page_and_no_call_of_another_organisation(butler: ButlerBench, acme: Tenant) -> None:
    (mine,) = fill(butler, acme, 1)
    other = butler.tenant("other")
    assert ids(butler, other, ALL) == []
    assert butler.services.explorer.get(acme.bearer.org_id, mine).id == mine
    with pytest.raises(NotThere):
        butler.services.explorer.get(other.bearer.org_id, mine)


def test_pickers_offer_what_there_is(butler: ButlerBench, acme: Tenant) -> None:
    fill(butler, acme, 4)
    assert butler.services.explorer.choices(acme.bearer.org_id, ALL) == [("openai", "gpt-5"), ("openai", "o9")]
    assert butler.services.explorer.values(acme.bearer.org_id, ALL, "Team") == []
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    while butler.services.metadata_keys.backfill():
        pass
    assert butler.services.explorer.values(acme.bearer.org_id, ALL, "Team") == [("t0", 2), ("t1", 2)]
    assert butler.services.explorer.values(acme.bearer.org_id, ALL, "Team", "t1") == [("t1", 2)]


# A million rows, once for all the questions about them


@pytest.fixture(scope="module")
def million(butler_server: Any) -> Iterator[Database]:
    for database in _database(butler_server, "butler_template"):
        many_calls.fill(database.engine, bench_over(database).services, 1_000_000)
        yield database


MIDDLE = Cursor(datetime(2026, 11, 15, 12, tzinfo=UTC), UUID(int=500_000))
QUESTIONS = {
    "all": ALL,
    "a model": replace(ALL, model="model-17"),
    "a provider": replace(ALL, provider="gemini"),
    "a key": replace(ALL, api_key_id=UUID(int=17)),
    "failed": replace(ALL, failed=True),
    "a status": replace(ALL, status_code=429),
    "200": replace(ALL, status_code=200),
    "an error": replace(ALL, error="rate_limited"),
    "an outcome": replace(ALL, outcome="client_cancelled"),
    "a tag": replace(ALL, tags=(("Team", "team-17"),)),
    "a day": replace(ALL, since=datetime(2026, 11, 15, tzinfo=UTC), until=datetime(2026, 11, 16, tzinfo=UTC)),
}


@pytest.mark.parametrize("where", [None, MIDDLE, replace(MIDDLE, newer=True)], ids=["newest", "older", "newer"])
@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_a_page_of_a_million_reads_little_more_than_its_rows(
    million: Database, question: str, where: Cursor | None
) -> None:
    plan = many_calls.explained(million.engine, QUESTIONS[question], where, PAGE + 1)
    assert "Seq Scan on requests_2026" not in plan, plan
    assert not re.search(r"(?:requests|request_tags)_2026_(?:08|09|10|12)", plan.replace("never executed", "")), plan
    assert re.search(r"Index (?:Only )?Scan", plan), plan
    assert many_calls.rows_read(plan) <= 5 * (PAGE + 1) + 5, plan
    # An index entry that a condition throws away is no row, but its page is read: a row and some of the way to it each.
    assert many_calls.pages_read(plan) <= 10 * (PAGE + 1), plan
