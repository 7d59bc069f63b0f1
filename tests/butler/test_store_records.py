"""Ingest: once each, newest revision, sums that always equal what the rows say, and no line of another organisation."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from steward.butler.store_records import MAX_METADATA_KEYS, Applied
from tests.butler.calls import received
from tests.servers.butler import ButlerBench, Tenant

SUMS_OF_ROWS = """
    SELECT date_trunc('hour', requested_at, 'UTC'), provider, model,
        coalesce(api_key_id, '00000000-0000-0000-0000-000000000000'), count(*), count(*) FILTER (WHERE is_error),
        coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cached_tokens), 0),
        coalesce(sum(total_cost), 0),
        count(*) FILTER (WHERE input_tokens IS NULL AND NOT is_error),
        count(*) FILTER (WHERE total_cost IS NULL AND NOT is_error)
    FROM butler.requests WHERE org_id = :org GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
HOURS = """
    SELECT hour, provider, model, api_key_id, calls, errors, input_tokens, output_tokens, cached_tokens, cost,
        unmetered, unpriced
    FROM butler.hours WHERE org_id = :org AND calls <> 0 ORDER BY 1, 2, 3, 4
"""
LATENCIES_OF_ROWS = """
    SELECT date_trunc('hour', requested_at, 'UTC'), l.kind, provider, model, butler.latency_bucket(l.ms), count(*)
    FROM butler.requests CROSS JOIN LATERAL (VALUES ('whole', response_time_ms), ('first', ttft_ms)) AS l(kind, ms)
    WHERE org_id = :org AND l.ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""
LATENCIES = """
    SELECT hour, kind, provider, model, bucket, calls FROM butler.hour_latencies
    WHERE org_id = :org AND calls <> 0 ORDER BY 1, 2, 3, 4, 5
"""
TAGS_OF_ROWS = """
    SELECT date_trunc('hour', requested_at, 'UTC'), e.key, e.value, count(*), count(*) FILTER (WHERE is_error),
        coalesce(sum(total_cost), 0)
    FROM butler.requests CROSS JOIN LATERAL jsonb_each_text(tags) AS e
    WHERE org_id = :org AND e.key = 'Team' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
TAGS = """
    SELECT hour, name, value, calls, errors, cost FROM butler.tag_hours
    WHERE org_id = :org AND calls <> 0 ORDER BY 1, 2, 3
"""
TAG_INDEX = "SELECT name, value, requested_at, id FROM butler.request_tags WHERE org_id = :org ORDER BY id, name"
TAG_INDEX_OF_ROWS = """
    SELECT e.key, e.value, requested_at, id FROM butler.requests CROSS JOIN LATERAL jsonb_each_text(tags) AS e
    WHERE org_id = :org AND e.key = 'Team' ORDER BY id, 1
"""


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    return butler.tenant("acme")


def agrees(butler: ButlerBench, tenant: Tenant, tags: bool = False) -> bool:
    """The sums equal those of the rows."""
    pairs = [(HOURS, SUMS_OF_ROWS), (LATENCIES, LATENCIES_OF_ROWS)]
    pairs += [(TAGS, TAGS_OF_ROWS), (TAG_INDEX, TAG_INDEX_OF_ROWS)] if tags else []
    for kept, counted in pairs:
        assert butler.postgres.run(kept, org=tenant.bearer.org_id) == butler.postgres.run(
            counted, org=tenant.bearer.org_id
        )
    return True


def ingest(butler: ButlerBench, tenant: Tenant, *batch: Any) -> Applied:
    return butler.services.records.ingest(tenant.bearer, batch, butler.clock())


def test_a_batch_that_is_sent_again_changes_nothing(butler: ButlerBench, acme: Tenant) -> None:
    batch = [received(requested_at=butler.clock() - timedelta(minutes=n)) for n in range(20)]
    assert ingest(butler, acme, *batch) == Applied(20, 0, 0)
    before = butler.postgres.run("SELECT * FROM butler.requests ORDER BY id")
    assert ingest(butler, acme, *reversed(batch)) == Applied(0, 0, 20)
    assert butler.postgres.run("SELECT * FROM butler.requests ORDER BY id") == before
    assert agrees(butler, acme)


def test_only_a_higher_revision_is_applied_and_the_sums_follow(butler: ButlerBench, acme: Tenant) -> None:
    first = received(outcome="interrupted", status_code=None, response_time_ms=None, total_cost=None, ttft_ms=None)
    assert ingest(butler, acme, first).added == 1
    later = received(id=first.id, revision=3, model="gpt-5-mini", tags={"Team": "growth"})
    assert ingest(butler, acme, later) == Applied(0, 1, 0)
    older = received(id=first.id, revision=2, model="never")
    assert ingest(butler, acme, older) == Applied(0, 0, 1)
    call = butler.services.explorer.get(acme.bearer.org_id, first.id)
    assert (call.revision, call.model, call.outcome, call.is_error) == (3, "gpt-5-mini", "complete", False)
    assert agrees(butler, acme)


def test_a_later_revision_does_not_move_a_row_in_time(butler: ButlerBench, acme: Tenant) -> None:
    first = received(requested_at=datetime(2026, 10, 31, 23, 59, tzinfo=UTC))
    ingest(butler, acme, first)
    ingest(butler, acme, received(id=first.id, revision=2, requested_at=datetime(2026, 11, 1, 0, 1, tzinfo=UTC)))
    found = butler.postgres.run("SELECT id, requested_at, revision FROM butler.requests")
    assert found == [(first.id, first.requested_at, 2)]
    assert agrees(butler, acme)


def test_of_one_id_in_a_batch_the_highest_revision_counts(butler: ButlerBench, acme: Tenant) -> None:
    row_id = uuid4()
    batch = [received(id=row_id, revision=revision, model=f"m{revision}") for revision in (2, 5, 1)]
    assert ingest(butler, acme, *batch) == Applied(1, 0, 2)
    assert butler.services.explorer.get(acme.bearer.org_id, row_id).model == "m5"


def test_one_id_in_two_organisations_is_two_calls(butler: ButlerBench, acme: Tenant) -> None:
    other, row_id = butler.tenant("other"), uuid4()
    ingest(butler, acme, received(id=row_id, model="mine"))
    ingest(butler, other, received(id=row_id, revision=9, model="theirs"))
    assert butler.services.explorer.get(acme.bearer.org_id, row_id).model == "mine"
    assert butler.services.explorer.get(other.bearer.org_id, row_id).model == "theirs"
    assert agrees(butler, acme) and agrees(butler, other)


def random_call(chance: random.Random, ids: list[UUID], at: datetime) -> Any:
    return received(
        id=chance.choice(ids),
        revision=chance.randint(1, 6),
        requested_at=at - timedelta(minutes=chance.randint(0, 300)),
        model=chance.choice(["a", "b"]),
        api_key_id=chance.choice([None, UUID(int=7), UUID(int=8)]),
        status_code=chance.choice([200, 429, None]),
        outcome=chance.choice(["complete", "interrupted", None]),
        input_tokens=chance.choice([None, 0, 5]),
        total_cost=chance.choice([None, Decimal("0.000000000001"), Decimal("1.5")]),
        response_time_ms=chance.choice([None, 0, 1, 977, 61000]),
        tags=chance.choice([{}, {"Team": "x"}, {"Team": "y", "User": "u"}]),
    )


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_the_sums_are_those_of_the_rows(butler: ButlerBench, acme: Tenant, seed: int) -> None:
    chance, ids = random.Random(seed), [uuid4() for _ in range(15)]
    ingest(butler, acme, *[random_call(chance, ids, butler.clock()) for _ in range(10)])
    ingest(butler, acme, received(tags={"Team": "x"}))
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    for turn in range(12):
        ingest(butler, acme, *[random_call(chance, ids, butler.clock()) for _ in range(8)])
        if turn == 6:
            while butler.services.metadata_keys.backfill():
                pass
    assert agrees(butler, acme, tags=True)


def test_two_senders_at_once_keep_each_row_once(butler: ButlerBench, acme: Tenant) -> None:
    batch = [received(requested_at=butler.clock() - timedelta(seconds=n), tags={"Team": "x"}) for n in range(100)]
    found: list[Applied] = []
    senders = [threading.Thread(target=lambda: found.append(ingest(butler, acme, *batch))) for _ in range(3)]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    assert sorted(each.added for each in found) == [0, 0, 100]
    assert agrees(butler, acme)


def test_metadata_keys_are_discovered_within_bounds(butler: ButlerBench, acme: Tenant) -> None:
    batch = [received(tags={f"Tag-{n * 60 + m}": str(m) for m in range(60)}) for n in range(10)]
    ingest(butler, acme, *batch)
    keys = butler.services.metadata_keys.all(acme.bearer.org_id)
    assert len(keys) == MAX_METADATA_KEYS
    ingest(butler, acme, *[received(tags={"Tag-1": f"v{n}"}) for n in range(400)])
    (one,) = [key for key in butler.services.metadata_keys.all(acme.bearer.org_id) if key.name == "Tag-1"]
    assert one.calls == 401
    assert 370 <= one.distinct_values <= 430


def test_a_call_of_any_time_is_kept_and_found(butler: ButlerBench, acme: Tenant) -> None:
    times = [datetime(2019, 1, 1, tzinfo=UTC), datetime(2026, 9, 30, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)]
    batch = [received(requested_at=at) for at in times]
    assert ingest(butler, acme, *batch).added == 3
    assert ingest(butler, acme, *batch).ignored == 3
    found = butler.postgres.run("SELECT requested_at, tableoid::regclass::text FROM butler.requests ORDER BY 1")
    assert [row[1] for row in found] == [
        "butler.requests_default",
        "butler.requests_2026_09",
        "butler.requests_default",
    ]


def test_the_steward_is_noted_with_what_it_sent(butler: ButlerBench, acme: Tenant) -> None:
    newest = butler.clock() - timedelta(seconds=3)
    ingest(butler, acme, received(requested_at=newest), received(requested_at=newest - timedelta(hours=1)))
    (seen,) = butler.services.stewards.all(acme.bearer.org_id)
    assert (seen.records, seen.last_ingest_at, seen.newest_record_at) == (2, butler.clock(), newest)


def test_a_clock_that_is_ahead_hides_no_lag(butler: ButlerBench, acme: Tenant) -> None:
    ingest(butler, acme, received(requested_at=datetime(2999, 1, 1, tzinfo=UTC)))
    (seen,) = butler.services.stewards.all(acme.bearer.org_id)
    assert seen.newest_record_at == butler.clock()


def test_a_batch_reads_what_is_known_of_its_own_tags_alone(butler: ButlerBench, acme: Tenant) -> None:
    for number in range(0, MAX_METADATA_KEYS, 50):
        tags = {f"Tag-{number + each}": "x" for each in range(50)}
        butler.services.records.ingest(acme.bearer, [received(tags=tags)], butler.clock())
    read: list[int] = []

    def noted(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "registers" in statement and statement.lstrip().startswith("SELECT"):
            read.append(cursor.rowcount)

    event.listen(butler.postgres.engine, "after_cursor_execute", noted)
    batch = [received(tags={"Tag-3": "y", "Beyond": "z"})]
    butler.services.records.ingest(acme.bearer, batch, butler.clock())
    assert read == [1]
    known = {key.name: key for key in butler.services.metadata_keys.all(acme.bearer.org_id)}
    assert len(known) == MAX_METADATA_KEYS and "Beyond" not in known
    assert (known["Tag-3"].calls, known["Tag-3"].distinct_values, known["Tag-4"].calls) == (2, 2, 1)
