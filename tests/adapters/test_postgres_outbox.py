"""The way out of PostgreSQL under load: replicas that share it, a Butler that fails, and a long backlog."""

from __future__ import annotations

import itertools
import json
import re
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from steward.adapters import postgres_outbox
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_outbox import PostgresOutbox
from steward.exchange import LOCAL_ORG, BodyState, Outcome
from steward.export import ExportLimits
from steward.ports import Lane
from tests.said import listening
from tests.servers.export_replicas import Start, Weather, a_call, fill, register, replicas
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.postgres import KEYRING, Database
from tests.servers.waiting import eventually

NOBODY = Lane(UUID(int=1), UUID(int=2))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with listening():
        yield


@pytest.fixture
def butler() -> Iterator[IngestButler]:
    made = IngestButler([Organisation(f"mdm_st_{number}" + "t" * 32) for number in range(2)])
    with serving(made):
        yield made


@pytest.fixture
def start(postgres: Database) -> Iterator[Start]:
    with replicas(postgres) as made:
        yield made


def test_three_replicas_and_two_organisations_through_everything(
    postgres: Database, butler: IngestButler, start: Start
) -> None:
    """30 % of calls fail, some after Butler applied them; Butler restarts; a replica dies with rows in its hands."""
    owners = [register(postgres, butler, number) for number in range(2)]
    ledger = PostgresLedger(postgres.engine)
    weather = Weather(7)
    butler.fault = weather.fault
    limits = ExportLimits(batch=40, every_s=0.01, lease_s=2.0, patience_s=0.2, look_s=0.1)
    three = [start(limits) for _ in range(3)]
    made = []
    for _ in range(8):
        made += [a_call(owner) for owner in owners for _ in range(50)]
        ledger.record(made[-100:])
    # A process that was killed: what it claimed is nobody's until its lease is over.
    dead = PostgresOutbox(postgres.engine).claim(Lane(owners[0].id, owners[0].org_id), 30, 2.0)
    assert len(dead) == 30
    for each in three:
        each.clockwork.start()
    eventually(lambda: butler.taken() > 100, 60)
    ledger.record([replace(record, outcome=Outcome.COMPLETE, body_state=BodyState.STORED) for record in made[::2]])
    three[2].stop()
    three[2] = start(limits)
    three[2].clockwork.start()
    eventually(lambda: butler.taken() > 400, 60)
    ledger.record([replace(record, outcome=Outcome.COMPLETE, body_state=BodyState.FAILED) for record in made[1::2]])
    waiting = "SELECT count(*) FROM llm_requests WHERE revision > exported_revision"
    eventually(lambda: postgres.run(waiting) == [(0,)], 120)
    for each in three:
        each.stop()
    for owner, organisation in zip(owners, butler.organisations, strict=True):
        mine = {str(record.id) for record in made if record.registration_id == owner.id}
        assert set(organisation.records) == mine
        assert {record["revision"] for record in organisation.records.values()} == {2}
        assert {record["body_state"] for record in organisation.records.values()} == {"stored", "failed"}
        assert {record["org_id"] for record in organisation.records.values()} == {str(owner.org_id)}
    states = "SELECT DISTINCT exported_revision, export_state, claimed_until FROM llm_requests"
    assert postgres.run(states) == [(2, None, None)]
    assert set(weather.met) == {"fail", "break", "break_after"}
    log = PostgresEgressLog(postgres.engine, KEYRING)
    assert log.walked().first_broken is None
    logged = postgres.run("SELECT count(*) FROM egress_log")
    assert logged == [(len(butler.heard),)], "one row for each call, and no call without one"


def test_a_butler_that_is_restarted_gets_what_it_missed(postgres: Database, start: Start) -> None:
    butler = IngestButler([Organisation("mdm_st_0" + "t" * 32)])
    limits = ExportLimits(batch=20, every_s=0.01, lease_s=5.0, patience_s=0.2)
    with serving(butler):
        owner = register(postgres, butler, 0)
        port = int(butler.url.rpartition(":")[2])
        PostgresLedger(postgres.engine).record([a_call(owner) for _ in range(20)])
        it = start(limits)
        it.clockwork.start()
        eventually(lambda: butler.taken() == 20)
    missed = [a_call(owner) for _ in range(30)]
    PostgresLedger(postgres.engine).record(missed)
    heard = "SELECT count(*) FROM egress_log WHERE answer = 'butler_unavailable'"
    eventually(lambda: postgres.run(heard) > [(0,)])
    with serving(butler, port):
        eventually(lambda: butler.taken() == 50, 60)


# a backlog

BACKLOG = 200_000


def explained(database: Database, statement: str, facts: dict[str, object]) -> str:
    with database.engine.begin() as connection:
        postgres_outbox._by_index(connection)
        lines = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}"), facts).scalars()
        return "\n".join(lines)


def test_claims_go_by_the_index_however_much_waits(postgres: Database, butler: IngestButler) -> None:
    """With and without statistics, from both ends, and for rows of keys made inside."""
    owner = register(postgres, butler, 0)
    fill(postgres, owner.org_id, owner.id, 20_000)
    postgres.run("UPDATE registrations SET local_from = '00000000-0000-0000-0000-000000000000'")
    fill(postgres, LOCAL_ORG, None, 20_000)
    for analyzed in (False, True):
        if analyzed:
            postgres.run("ANALYZE llm_requests")
        for local in (False, True):
            lane = Lane(owner.id, owner.org_id, local)
            claim = {**postgres_outbox._whose(lane), "newest": 250, "oldest": 250, "lease_s": 0.0}
            plan = explained(postgres, postgres_outbox.CLAIM_LOCAL if local else postgres_outbox.CLAIM, claim)
            assert not re.search(r"Seq Scan on llm_requests|-> +(?:Incremental )?Sort\b", plan), plan
            assert _most_rows(plan) <= 2 * 500, plan
            count = {**postgres_outbox._whose(lane), "most": 1000}
            plan = explained(postgres, postgres_outbox.WAITING_LOCAL if local else postgres_outbox.WAITING, count)
            assert not re.search(r"Seq Scan on llm_requests|-> +(?:Incremental )?Sort\b", plan), plan
            assert _most_rows(plan) <= 1000, plan
    marked = {"rows": _some_rows(postgres), "org_id": owner.org_id}
    for statement in (postgres_outbox.MARK, postgres_outbox.SET_ASIDE):
        plan = explained(postgres, statement, marked)
        assert not re.search(r"Seq Scan on llm_requests", plan), plan


def _some_rows(database: Database) -> str:
    found = database.run("SELECT id::text, revision FROM llm_requests WHERE registration_id IS NOT NULL LIMIT 500")
    return json.dumps([{"id": row_id, "revision": revision, "code": "not_exportable"} for row_id, revision in found])


def _most_rows(plan: str) -> int:
    """The most rows that any step read or threw away."""
    read = [int(rows) * int(loops) for rows, loops in re.findall(r"actual time=\S+ rows=(\d+)\S* loops=(\d+)", plan)]
    return max(read + [int(rows) for rows in re.findall(r"Rows Removed by \w+: (\d+)", plan)])


@pytest.mark.faults
def test_a_backlog_of_two_hundred_thousand(postgres: Database, butler: IngestButler, start: Start) -> None:
    """The newest are there within three batches, memory stays flat and claims stay quick. (`make faults` drains it.)"""
    owner = register(postgres, butler, 0)
    fill(postgres, owner.org_id, owner.id, BACKLOG)
    organisation = butler.organisations[0]
    newest = [str(row[0]) for row in postgres.run("SELECT id FROM llm_requests ORDER BY id DESC LIMIT 250")]
    it = start(ExportLimits(every_s=0.0, patience_s=30.0, look_s=1.0))
    for _ in range(3):
        it.exporter.run_once()
    assert set(newest) <= set(itertools.chain.from_iterable(organisation.batches))
    assert len(organisation.batches) == 3
    lane = Lane(owner.id, owner.org_id)
    outbox = PostgresOutbox(postgres.engine)
    assert outbox.waiting(lane, 10_000).rows == 10_000
    tracemalloc.start()
    try:
        for _ in range(3):
            it.exporter.run_once()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(12):
            it.exporter.run_once()
            organisation.records.clear()
            organisation.batches.clear()
            butler.bodies.clear()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 4 << 20
    took = []
    for _ in range(5):
        began = time.monotonic()
        outbox.release(lane, [row.record.id for row in outbox.claim(lane, 500, 60.0)])
        took.append(time.monotonic() - began)
    assert min(took) < 0.5, took
    assert outbox.claim(NOBODY, 10, 1.0) == []
