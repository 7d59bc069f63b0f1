"""Three exporting replicas and two organisations into our own Butler, which is killed, over a way that loses calls.

Half of what is lost was never heard, half was applied already: every row is there once all the same, in its newest
revision, and every sum that Butler keeps is the sum of those rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from steward.adapters.butler import HttpButler
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState, Outcome, Record, UsageSource
from steward.export import ExportLimits
from steward.ports import Registration
from steward.registering import whose
from steward.words import Secret
from tests.said import listening
from tests.servers.bad_weather import BadWeather, bad_weather
from tests.servers.dumped import asked
from tests.servers.export_replicas import Replica, a_call, replicas
from tests.servers.postgres import KEYRING, Database
from tests.servers.running_butler import PASSWORD, RunningButler, running_butler
from tests.servers.waiting import eventually

IN_BUTLER = "SELECT count(*) FROM butler.requests"
LEDGER = """
    SELECT id, org_id, revision, requested_at, outcome, body_state, model, request_path, input_tokens, total_cost
    FROM llm_requests ORDER BY id
"""
HELD = LEDGER.replace("llm_requests", "butler.requests")
SUMMED = "SELECT org_id, sum(calls) FROM butler.hours GROUP BY org_id ORDER BY org_id"
EACH = 200
"""Calls of each organisation."""


@pytest.fixture
def butler(postgres_server: LocalPostgres, tmp_path: Path) -> Iterator[RunningButler]:
    with running_butler(postgres_server, tmp_path) as made:
        yield made


def second(butler: RunningButler) -> RunningButler:
    """The same Butler in the hands of another organisation's owner."""
    email = "owner@other.example"
    made = butler.run(
        *("create-admin", "--email", email, "--org", "Other", "--password", "-", "--json"),
        said=PASSWORD.encode() + b"\n",
    )
    assert made.returncode == 0, made.stderr
    other = replace(butler, email=email, org_id=UUID(orjson.loads(made.stdout)["org_id"]), token="")
    other.sign_in()
    return other


def register(postgres: Database, owner: RunningButler, weather: BadWeather) -> Registration:
    """With a token that its owner made in Butler."""
    owner.confirm()
    token = Secret(owner.ask("POST", "/stewards", {"name": "prod"})["token"])
    said = whose(lambda url, shown: HttpButler(url, shown, None, 5.0), owner.url, token)
    assert said.org_id == owner.org_id
    return PostgresDirectory(postgres.engine, KEYRING).register(said, weather.url, token)


def held(butler: RunningButler, more_than: int = 0) -> bool:
    """Whether Butler holds more rows than that."""
    return asked(butler.environ, IN_BUTLER) > [(more_than,)]


def answered(record: Record) -> Record:
    """What is known of a call once its caller has his answer."""
    return replace(record, outcome=Outcome.COMPLETE, body_state=BodyState.PENDING)


def ended(record: Record, number: int) -> Record:
    """What is known of it in the end."""
    state = (BodyState.STORED, BodyState.FAILED)[number % 2]
    told = {"body_state": state, "usage_source": UsageSource.PROVIDER, "input_tokens": number}
    return replace(record, outcome=Outcome.COMPLETE, **told)


def goes_on(postgres: Database, butler: RunningButler, owners: list[Registration]) -> None:
    """Calls come and change while Butler is killed twice, in the middle of what it is told."""
    ledger = PostgresLedger(postgres.engine)
    made: list[Record] = []
    for _ in range(EACH // 50):
        batch = [a_call(owner) for owner in owners for _ in range(50)]
        assert ledger.record(batch) == []
        made += batch
    eventually(lambda: held(butler, 100), 40)
    butler.kill()
    assert ledger.record([answered(record) for record in made[::3]]) == []
    butler.start()
    eventually(lambda: held(butler, 200), 40)
    assert ledger.record([ended(record, number) for number, record in enumerate(made)]) == []
    butler.kill()
    butler.start()


@pytest.mark.faults
def test_every_row_is_there_once_and_nothing_of_one_organisation_in_the_other(
    postgres: Database, butler: RunningButler
) -> None:
    limits = ExportLimits(batch=30, every_s=0.01, lease_s=2.0, patience_s=0.2, look_s=0.1)
    with listening(), bad_weather(butler.port, 0.3) as weather, replicas(postgres) as start:
        owners = [register(postgres, each, weather) for each in (butler, second(butler))]
        three: list[Replica] = [start(limits) for _ in range(3)]
        for each in three:
            each.clockwork.start()
        goes_on(postgres, butler, owners)
        waiting = "SELECT count(*) FROM llm_requests WHERE revision > exported_revision"
        eventually(lambda: postgres.run(waiting) == [(0,)], 60)
        for each in three:
            each.stop()
    rows = postgres.run(LEDGER)
    assert len(rows) == 2 * EACH
    assert asked(butler.environ, HELD) == rows
    assert {row[2] for row in rows} == {2, 3}
    assert asked(butler.environ, SUMMED) == sorted((owner.org_id, EACH) for owner in owners)
    assert {row[1] for row in rows} == {owner.org_id for owner in owners}
    assert postgres.run("SELECT DISTINCT exported_revision = revision, export_state FROM llm_requests") == [
        (True, None)
    ]
    told = weather.met
    assert min(told["before"], told["after"], told["away"], told["passed"]) > 0, told
    assert PostgresEgressLog(postgres.engine, KEYRING).walked().first_broken is None
    assert postgres.run("SELECT count(*) FROM egress_log") == [(told["heard"],)], "one row for each call"
