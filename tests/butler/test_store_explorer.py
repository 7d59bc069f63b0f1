"""The explorer: filters, pages in both directions, one call; and what PostgreSQL does for a page of a million rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from steward.butler.errors import NotThere
from steward.butler.partitions import ensure_month
from steward.butler.store_explorer import statement_of
from steward.butler.views import Cursor, Filter
from tests.butler.calls import received
from tests.servers.butler import ButlerBench, Tenant, bench_over
from tests.servers.postgres import Database, _database

SINCE = datetime(2026, 11, 1, tzinfo=UTC)
UNTIL = datetime(2026, 12, 1, tzinfo=UTC)
ALL = Filter(SINCE, UNTIL)
PAGE = 50

MAKE = """
    CREATE TABLE butler.requests_{name}
        (LIKE butler.requests INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)
"""
FILL = """
    INSERT INTO butler.requests_{name} (org_id, id, requested_at, revision, steward_id, received_at, api_key_id,
        provider, model, request_path, request_method, response_time_ms, status_code, outcome, error_message,
        usage_source, input_tokens, output_tokens, total_cost, model_alias_found, tags, body_state)
    SELECT CASE WHEN mod(n, 10) = 0 THEN CAST(:other AS uuid) ELSE CAST(:org AS uuid) END,
        CAST(lpad(to_hex(n), 32, '0') AS uuid), at, 1,
        CAST(:org AS uuid), at, CAST(lpad(to_hex(mod(n, 1000)), 32, '0') AS uuid),
        CASE WHEN mod(n, 100) = 7 THEN 'gemini' ELSE 'openai' END, 'model-' || mod(n, 500), '/v1/chat/completions',
        'POST', mod(n, 5000), CASE WHEN mod(n, 200) = 3 THEN 429 ELSE 200 END,
        CASE WHEN mod(n, 1000) = 9 THEN 'client_cancelled' ELSE 'complete' END,
        CASE WHEN mod(n, 200) = 3 THEN 'rate_limited' END, 'provider', 100, 10, 0.01, true,
        jsonb_build_object('Team', 'team-' || mod(n, 300)), 'stored'
    FROM generate_series(1, 1000000) AS n
    CROSS JOIN LATERAL (SELECT CAST('2026-08-20' AS timestamptz) + n * interval '10 seconds' AS at) AS clock
    WHERE at >= :low AND at < :high
"""
ATTACH = "ALTER TABLE butler.requests ATTACH PARTITION butler.requests_{name} FOR VALUES FROM ('{low}') TO ('{high}')"
TAGS = """
    INSERT INTO butler.request_tags (org_id, name, value, requested_at, id)
    SELECT org_id, 'Team', tags ->> 'Team', requested_at, id FROM butler.requests
    WHERE requested_at >= '2026-10-25' AND requested_at < '2026-11-30'
"""


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

ORG, OTHER = UUID(int=0xA), UUID(int=0xB)


@pytest.fixture(scope="module")
def million(butler_server: Any) -> Iterator[Database]:
    for database in _database(butler_server, "butler_template"):
        with database.engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.connection.driver_connection.wait_at_most(300)  # type: ignore[union-attr]
            for month in (8, 9, 10, 11, 12):  # filled before they have indexes: a third of the time
                low, high = (
                    datetime(2026, month, 1, tzinfo=UTC),
                    datetime(2026 + month // 12, month % 12 + 1, 1, tzinfo=UTC),
                )
                named = {"name": f"2026_{month:02}", "low": low.isoformat(), "high": high.isoformat()}
                connection.execute(text(MAKE.format(**named)))
                connection.execute(text(FILL.format(**named)), {"org": ORG, "other": OTHER, "low": low, "high": high})
                connection.execute(text(ATTACH.format(**named)))
        services = bench_over(database).services
        for month in (8, 9, 10, 11, 12):
            ensure_month(services.database, (2026, month), UNTIL)
        with database.engine.begin() as connection:
            connection.execute(text(TAGS))
        with database.engine.connect() as connection:
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            alone.execute(text("VACUUM ANALYZE butler.requests"))
            alone.execute(text("VACUUM ANALYZE butler.request_tags"))
        yield database


def explained(database: Database, which: Filter, cursor: Cursor | None) -> str:
    statement, facts = statement_of(ORG, which, cursor, PAGE + 1)
    rows = database.run(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {statement}", **facts)
    return "\n".join(str(row[0]) for row in rows)


def rows_read(plan: str) -> int:
    """Rows that scans of tables and indexes gave, and those that a filter threw away after reading them."""
    read = 0
    for line in plan.splitlines():
        scan = re.search(r"(?:Index|Seq|Bitmap Heap)[\w ]* Scan.*actual (?:time=\S+ )?rows=([0-9.]+) loops=(\d+)", line)
        if scan:
            read += round(float(scan[1]) * int(scan[2]))
        thrown = re.search(r"Rows Removed by Filter: (\d+)", line)
        read += int(thrown[1]) if thrown else 0
    return read


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
    plan = explained(million, QUESTIONS[question], where)
    assert "Seq Scan on requests_2026" not in plan, plan
    assert not re.search(r"(?:requests|request_tags)_2026_(?:08|09|10|12)", plan.replace("never executed", "")), plan
    assert re.search(r"Index (?:Only )?Scan", plan), plan
    assert rows_read(plan) <= 5 * (PAGE + 1) + 5, plan
