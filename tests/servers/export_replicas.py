"""Exporting replicas on one database, as wiring puts them together, and what they are to export. Asserts nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.engine import Engine

from steward.adapters.butler import HttpButler
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.adapters.postgres_outbox import PostgresOutbox
from steward.clockwork import Clockwork, Task
from steward.exchange import BodyState, Outcome, Record
from steward.export import Clocks, Exporter, ExportLimits, Ways
from steward.export_record import ExportRules
from steward.logged_butler import LoggedButler
from steward.ports import ControlPlane, Registration
from steward.words import Secret
from tests.contracts.records import a_record, new_id
from tests.servers.ingest_butler import Fault, IngestButler
from tests.servers.postgres import KEYRING, Database

HURRY = Clocks(chance=lambda: 0.0)
"""Pauses after a failure are none: the test is as quick as what it tests."""


@dataclass
class Replica:
    """One process's export, as wiring puts it together."""

    engine: Engine
    exporter: Exporter
    clockwork: Clockwork

    def stop(self) -> None:
        """Waits for what is under way."""
        self.clockwork.join(30)
        self.engine.dispose()


Start = Callable[[ExportLimits], Replica]


@contextmanager
def replicas(database: Database) -> Iterator[Start]:
    """Makes them; each is stopped in the end."""
    made: list[Replica] = []

    def one(limits: ExportLimits) -> Replica:
        engine = open_engine(database.address)
        log = PostgresEgressLog(engine, KEYRING)

        def opened(registration: Registration, token: Secret[str]) -> ControlPlane:
            return LoggedButler(HttpButler(registration.butler_url, token, None, 5.0), log, registration.id)

        ways = Ways(PostgresDirectory(engine, KEYRING), PostgresOutbox(engine), opened)
        exporter = Exporter(ways, ExportRules(), limits, clocks=HURRY)
        task = Task("export", 0.01, exporter.run_once, exporter.finish)
        made.append(Replica(engine, exporter, Clockwork([task], HURRY.chance)))
        return made[-1]

    try:
        yield one
    finally:
        for each in made:
            each.stop()


def register(database: Database, butler: IngestButler, number: int) -> Registration:
    """One of Butler's organisations."""
    who = butler.organisations[number]
    directory = PostgresDirectory(database.engine, KEYRING)
    return directory.register(who.identity, butler.url, Secret(who.token))


class Weather:
    """Three calls in ten fail, in one of four ways; the same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.fails = True
        self.met: dict[str, int] = {}

    def fault(self, path: str, token: str) -> Fault | None:
        """For `IngestButler.fault`."""
        with self._lock:
            if not self.fails or self._random.random() >= 0.3:
                return None
            fault: Fault = self._random.choice(["fail", "break", "break_after", "break_after"])
            self.met[fault] = self.met.get(fault, 0) + 1
            return fault


def a_call(owner: Registration) -> Record:
    """One of now, of which only its beginning is known yet."""
    at = datetime.now(UTC)
    facts = {"registration_id": owner.id, "org_id": owner.org_id, "model": "gpt-4o", "requested_at": at}
    return a_record(id=new_id(at), outcome=Outcome.INTERRUPTED, body_state=BodyState.LOST, **facts)


FILL = """
    INSERT INTO llm_requests (id, org_id, api_key_id, registration_id, provider, model, request_path, request_method,
        requested_at, outcome, body_state, usage_source, model_alias_found, streamed, tags, tags_dropped, request_bytes,
        response_bytes, truncated)
    SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) - :count + n), 12, '0')
            || '7000' || lpad(to_hex(n), 16, '8') AS uuid),
        :org_id, :org_id, :registration_id, 'openai', 'gpt-4o', '/v1/chat/completions', 'POST',
        clock_timestamp(), 'complete', 'none', 'none', false, false, '{"Feature": "search"}', 0, 0, 0, false
    FROM generate_series(1, :count) AS n
"""


def fill(database: Database, org_id: UUID, registration_id: UUID | None, count: int) -> None:
    """So many calls, a millisecond apart, the newest of now."""
    database.run(FILL, count=count, org_id=org_id, registration_id=registration_id)
