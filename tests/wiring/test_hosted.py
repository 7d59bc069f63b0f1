"""A process between its host's calls: what it does when it is called, and that it does nothing by itself."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from steward.adapters.postgres_directory import PostgresDirectory
from steward.app import create_app
from steward.errors import SettingError
from steward.exchange import LOCAL_ORG, BodyState, Outcome
from steward.queue_values import sqs_queue
from steward.settings import Settings
from steward.wiring.hosted import Elapsed, Hosted, LookedAt, build_hosted
from steward.words import Secret
from tests.contracts.records import a_record, new_id
from tests.said import Said, listening
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.postgres import Database
from tests.servers.provider import Provider
from tests.services import settings

KEY = b"mdm_sk_hosted_0123456789abcdef"
TOKEN = "mdm_st_0" + "t" * 32
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
HEADERS = {"X-Majordomo-Key": KEY.decode(), "authorization": "Bearer sk-test"}


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.fixture
def found(postgres: Database, provider: Provider, tmp_path: Path) -> Settings:
    """Of a host with one connection, bodies in a folder, the stand-in for a provider."""
    directory = PostgresDirectory(postgres.engine, postgres.keyring, None)  # type: ignore[arg-type]
    directory.create_key(LOCAL_ORG, "tests", hashlib.sha256(KEY).hexdigest())
    return settings(
        postgres,
        POSTGRES_MAX_CONNS="1",
        OPENAI_BASE_URL=provider.url,
        BODY_STORE_URL=f"file://{tmp_path}/bodies",
        AFTER_RESPONSE_BUDGET="20s",
    )


def tell(hosted: Hosted, story: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        transport = httpx.ASGITransport(create_app(hosted.services))  # type: ignore[arg-type]
        async with asyncio.timeout(60), httpx.AsyncClient(transport=transport, base_url="http://steward") as client:
            await story(client)
            await hosted.close()

    asyncio.run(told())


async def asked(hosted: Hosted, client: httpx.AsyncClient) -> httpx.Response:
    await hosted.prepare()
    return await client.post("/v1/chat/completions", json=CHAT, headers=HEADERS)


def states(hosted: Hosted) -> list[tuple[Outcome, BodyState]]:
    return [(row.record.outcome, row.record.body_state) for row in hosted.services.ledger.newest(LOCAL_ORG, 100)]


def test_a_call_leaves_its_intent_and_its_turn_settles_it(found: Settings) -> None:
    hosted = build_hosted(found, caller_waits=False)

    async def story(client: httpx.AsyncClient) -> None:
        answer = await asked(hosted, client)
        assert answer.status_code == 200, answer.text
        assert states(hosted) == [(Outcome.INTERRUPTED, BodyState.LOST)]
        hosted.turn()
        assert states(hosted) == [(Outcome.COMPLETE, BodyState.STORED)]
        assert hosted.services.ready() == "ready"

    tell(hosted, story)


def test_where_callers_wait_nothing_is_left_to_do(found: Settings) -> None:
    for given, waits in ((None, True), (True, True), (False, False)):
        hosted = build_hosted(replace(found, after_response_wait=given), caller_waits=True)

        async def story(client: httpx.AsyncClient, hosted: Hosted = hosted, waits: bool = waits) -> None:
            assert (await asked(hosted, client)).status_code == 200
            assert hosted.by_call.waiting() == (0 if waits else 1)

        tell(hosted, story)


def test_a_row_is_exported_in_its_turn_without_a_schedule(found: Settings, postgres: Database) -> None:
    with serving(IngestButler([Organisation(TOKEN)])) as butler:
        hosted = build_hosted(found, caller_waits=False)
        hosted.services.directory.register(butler.organisations[0].identity, butler.url, Secret(TOKEN))

        async def story(client: httpx.AsyncClient) -> None:
            await asked(hosted, client)
            hosted.turn()
            (record,) = butler.organisations[0].records.values()
            assert record["status_code"] == 200
            assert butler.heard[-1][0].endswith("/metadata")

        tell(hosted, story)


@pytest.mark.parametrize("after", ["inline", "sqs"])
def test_with_a_queue_a_turn_leaves_the_export_to_its_consumer(found: Settings, after: str) -> None:
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/calls"
    given = replace(found, after_response=after, sqs_queue_url=sqs_queue(url))  # type: ignore[arg-type]
    with serving(IngestButler([Organisation(TOKEN)])) as butler:
        hosted = build_hosted(given, caller_waits=False)
        hosted.services.directory.register(butler.organisations[0].identity, butler.url, Secret(TOKEN))
        now = datetime.now(UTC)
        hosted.services.ledger.record([a_record(id=new_id(now), org_id=LOCAL_ORG, requested_at=now)])
        hosted.turn()
        assert len(butler.organisations[0].records) == (1 if after == "inline" else 0)
        hosted.sweep(time.monotonic() + 60)
        assert len(butler.organisations[0].records) == 1
        asyncio.run(hosted.close())


def test_nothing_runs_by_itself_and_nothing_is_connected_to_before_the_first_call(
    found: Settings, postgres: Database
) -> None:
    before = set(threading.enumerate())
    hosted = build_hosted(found, caller_waits=False)
    assert set(threading.enumerate()) == before
    assert hosted.services.held().database_in_use == hosted.services.held().database_idle == 0
    assert hosted.services.background == () and hosted.services.clockwork.tasks == ()

    async def story(client: httpx.AsyncClient) -> None:
        await asked(hosted, client)
        hosted.turn()
        held = hosted.services.held()
        assert held.database_in_use + held.database_idle == 1

    tell(hosted, story)


def test_a_revoked_key_is_refused_although_nothing_polls(found: Settings) -> None:
    hosted = build_hosted(found, caller_waits=False)
    now = [1000.0]
    hosted.services.authenticator._now = lambda: now[0]  # noqa: SLF001 - the clock is the process's own

    async def story(client: httpx.AsyncClient) -> None:
        assert (await asked(hosted, client)).status_code == 200
        (key,) = hosted.services.directory.list_keys(LOCAL_ORG)
        hosted.services.directory.revoke_key(LOCAL_ORG, key.id)
        now[0] += 6.0
        assert (await asked(hosted, client)).status_code == 401

    tell(hosted, story)


def test_a_process_that_slept_uses_no_connection_of_before(found: Settings, provider: Provider) -> None:
    hosted = build_hosted(found, caller_waits=False)

    async def story(client: httpx.AsyncClient) -> None:
        await asked(hosted, client)
        hosted.turn()
        assert hosted.services.held().upstream == 1
        await hosted.prepare()
        assert hosted.services.held().upstream == 1  # nobody slept
        hosted._last[:] = [hosted._last[0] - 60.0]  # noqa: SLF001 - as after a freeze of a minute
        await hosted.prepare()
        await asyncio.sleep(0)
        assert hosted.services.held().upstream == 0
        assert (await asked(hosted, client)).status_code == 200

    tell(hosted, story)


def test_without_a_database_a_call_gets_its_503_and_the_process_recovers(found: Settings) -> None:
    hosted = build_hosted(replace(found, postgres_host="127.0.0.1", postgres_port=1), caller_waits=False)

    async def story(client: httpx.AsyncClient) -> None:
        answer = await asked(hosted, client)
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert hosted.services.ready() == "database"

    tell(hosted, story)


def test_a_sweep_does_all_that_is_due(found: Settings, postgres: Database, said: Said) -> None:
    old = new_id(a_record().requested_at - timedelta(days=40))
    with serving(IngestButler([Organisation(TOKEN)])) as butler:
        hosted = build_hosted(found, caller_waits=False)
        services = hosted.services
        services.directory.register(butler.organisations[0].identity, butler.url, Secret(TOKEN))
        services.ledger.record([a_record(id=old, org_id=LOCAL_ORG, body_state=BodyState.PENDING)])
        hosted.sweep(time.monotonic() + 60)
        heard = {path.split("?")[0].rsplit("/", 1)[-1] for path, _ in butler.heard}
        assert {"api-keys", "me"} <= heard  # it was synced, and exported to
        row = services.ledger.get(LOCAL_ORG, old)
        assert row is not None and row.record.body_state is BodyState.FAILED
        assert "bodies_given_up" in said.events()
        asyncio.run(hosted.close())


def test_a_sweep_begins_nothing_after_its_time(found: Settings, said: Said) -> None:
    hosted = build_hosted(found, caller_waits=False)
    hosted.sweep(time.monotonic() - 1)
    assert said.events() == ["sweep_cut"]
    asyncio.run(hosted.close())


def test_what_one_task_of_a_sweep_meets_ends_no_other(found: Settings, said: Said) -> None:
    hosted = build_hosted(replace(found, postgres_host="127.0.0.1", postgres_port=1), caller_waits=False)
    hosted.sweep(time.monotonic() + 60)
    assert {line["task"] for line in said.lines("task_failed")} >= {"keep", "bodies", "export"}
    asyncio.run(hosted.close())


def test_a_spool_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(SettingError, match="AFTER_RESPONSE"):
        build_hosted(settings(AFTER_RESPONSE="spool"), caller_waits=False)


def test_threads_that_look_together_ask_once() -> None:
    class Slow:
        asked = 0

        def look(self) -> bool:
            self.asked += 1
            together.wait(0.05)
            return False

    stores, together = Slow(), threading.Event()
    looked = LookedAt(stores, lambda: 0.0)  # type: ignore[arg-type]
    threads = [threading.Thread(target=looked.look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores.asked == 1


def test_time_passes_while_a_clock_stands_still() -> None:
    monotonic, wall = [0.0], [100.0]
    elapsed = Elapsed(lambda: monotonic[0], lambda: wall[0])
    monotonic[0] += 1
    wall[0] += 60  # frozen for the rest
    assert elapsed() == 60
    wall[0] -= 1000  # set back
    monotonic[0] += 2
    assert elapsed() == 62
