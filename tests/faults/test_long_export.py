"""A long outage's backlog, drained by three replicas in bad weather while calls go on: every row is there, once."""

from __future__ import annotations

import threading

import pytest

from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.adapters.postgres_ledger import PostgresLedger
from steward.exchange import Record
from steward.export import ExportLimits
from tests.said import listening
from tests.servers.export_replicas import Weather, a_call, fill, register, replicas
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.postgres import KEYRING, Database
from tests.servers.waiting import eventually

pytestmark = pytest.mark.faults

BACKLOG = 40_000
"""Enough for many batches of each replica; a backlog of 200,000 is drained in test_long_butler_down.py."""


def test_a_backlog_arrives_once_while_new_rows_come(postgres: Database) -> None:
    butler = IngestButler([Organisation(f"mdm_st_{number}" + "t" * 32) for number in range(2)])
    weather = Weather(11)
    butler.fault = weather.fault
    with listening(), serving(butler), replicas(postgres) as start:
        owners = [register(postgres, butler, number) for number in range(2)]
        for owner in owners:
            fill(postgres, owner.org_id, owner.id, BACKLOG // 2)
        ended = threading.Event()
        new: list[Record] = []

        def go_on() -> None:
            ledger = PostgresLedger(postgres.engine)
            while not ended.wait(0.1):
                batch = [a_call(owner) for owner in owners for _ in range(3)]
                assert ledger.record(batch) == []
                new.extend(batch)

        writer = threading.Thread(target=go_on)
        writer.start()
        for _ in range(3):
            start(ExportLimits(every_s=0.1)).clockwork.start()
        eventually(lambda: butler.taken() >= BACKLOG, 600)
        ended.set()
        writer.join()
        eventually(lambda: butler.taken() == BACKLOG + len(new), 120)
        waiting = "SELECT count(*) FROM llm_requests WHERE revision > exported_revision"
        eventually(lambda: postgres.run(waiting) == [(0,)], 120)
        states = "SELECT DISTINCT exported_revision, export_state FROM llm_requests"
        assert postgres.run(states) == [(1, None)]
        assert len(new) > 100
        assert set(weather.met) == {"fail", "break", "break_after"}
        assert PostgresEgressLog(postgres.engine, KEYRING).walked().first_broken is None
