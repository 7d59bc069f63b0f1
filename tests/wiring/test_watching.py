"""What runs in the background keeps readiness told, counts at little cost, and outlives its own errors."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest

from migrations import migrate
from steward.adapters.memory import MemoryDirectory
from steward.adapters.postgres_ledger import SCHEMA_VERSION
from steward.errors import KeyCheckUnavailable
from steward.sent import Pending
from steward.wiring.relay import Services, build
from steward.wiring.watching import Health, watch_pending
from tests.said import Said
from tests.servers.postgres import KEYRING, Database
from tests.servers.waiting import eventually_async
from tests.services import becomes, run, settings

OTHER_KEY = bytes(range(1, 33)).hex()


def test_counting_what_waits_takes_no_more_than_a_twentieth_of_a_processor() -> None:
    """A Butler that sends 10,000 other rows every tick must not slow calls down."""
    counted: list[float] = []

    class Costly(MemoryDirectory):
        def storage_mark(self) -> str:
            return str(len(counted))

        def pending_approvals(self, org_id: UUID | None = None) -> list[Pending]:
            counted.append(time.monotonic())
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                pass
            return []

    async def story() -> None:
        watching = asyncio.create_task(watch_pending(Costly(), Health(), 0.001))
        await eventually_async(lambda: len(counted) >= 3)
        watching.cancel()

    asyncio.run(story())
    assert min(later - before for before, later in pairwise(counted)) >= 0.4


def test_it_is_not_ready_before_it_knows_what_it_needs(postgres: Database) -> None:
    """The poll alone is not enough: without the installation's secret every call would be 503."""
    [(sealed,)] = postgres.run("DELETE FROM instance_secrets WHERE name = 'provider_key_hash' RETURNING sealed")
    services = build(settings(postgres))

    async def story() -> None:
        await eventually_async(services.authenticator.database_heard, 20)
        await eventually_async(lambda: services.health.schema_looked_at, 20)
        assert services.ready() == "database"
        postgres.run("INSERT INTO instance_secrets (name, sealed) VALUES ('provider_key_hash', :sealed)", sealed=sealed)
        await becomes(services, "ready")

    run(services, story)


def test_a_schema_that_is_missing_is_said_and_becomes_ready_by_migrating(empty_postgres: Database, said: Said) -> None:
    services = build(settings(empty_postgres))

    async def story() -> None:
        await becomes(services, "schema")
        await asyncio.to_thread(migrate, empty_postgres.engine, KEYRING)
        await becomes(services, "ready")

    run(services, story)
    assert len(said.lines("schema_too_old")) == 1


def test_a_schema_that_is_too_old_is_said(postgres: Database) -> None:
    postgres.run("UPDATE steward_schema SET version_num = '0000'")
    services = build(settings(postgres))

    async def story() -> None:
        await becomes(services, "schema")
        postgres.run(f"UPDATE steward_schema SET version_num = '{SCHEMA_VERSION}'")
        await becomes(services, "ready")

    run(services, story)


def test_a_wrong_key_is_said_and_serves_nobody(postgres: Database, said: Said) -> None:
    services = build(settings(postgres, ENCRYPTION_KEY=OTHER_KEY))

    async def story() -> None:
        await becomes(services, "key")
        await eventually_async(services.authenticator.database_heard, 20)
        assert services.ready() == "key"
        with pytest.raises(KeyCheckUnavailable):
            services.stages.credential_hash()

    run(services, story)
    assert len(said.lines("encryption_key_wrong")) == 1
    assert OTHER_KEY not in said.text


def test_the_hash_of_credentials_is_the_installations_and_not_the_processes(postgres: Database) -> None:
    hashes = []
    for _ in range(2):
        services = build(settings(postgres))

        async def story(services: Services = services) -> None:
            await becomes(services, "ready")
            hashes.append(services.stages.credential_hash().of(b"sk-one"))

        run(services, story)
    assert len(hashes) == 2 and hashes[0] is not None and len(set(hashes)) == 1


def test_a_background_task_that_breaks_is_said_and_begun_again(postgres: Database, said: Said) -> None:
    services = build(settings(postgres))
    begun: list[None] = []

    async def breaks() -> None:
        begun.append(None)
        if len(begun) == 1:
            raise ValueError("CANARY")

    broken = replace(services, background=(*services.background, breaks))

    async def story() -> None:
        await becomes(broken, "ready")
        await eventually_async(lambda: len(begun) == 2, 20)

    run(broken, story)
    assert [line["error"] for line in said.lines("background_failed")] == ["ValueError"]
    assert "CANARY" not in said.text


def test_the_next_months_rows_have_their_place(postgres: Database) -> None:
    services = build(settings(postgres))
    postgres.run("DROP TABLE IF EXISTS " + _newest_partition(postgres))
    missing = _partitions(postgres)

    async def story() -> None:
        await eventually_async(lambda: len(_partitions(postgres)) == len(missing) + 1, 20)

    run(services, story)


def _partitions(database: Database) -> list[str]:
    rows = database.run("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'llm_requests'::regclass")
    return sorted(str(name) for (name,) in rows)


def _newest_partition(database: Database) -> str:
    return max(name for name in _partitions(database) if name[-1].isdigit())
