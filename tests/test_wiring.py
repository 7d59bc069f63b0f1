"""One process put together from settings: what it opens and when, when it is ready, and that it gives all back."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from migrations import migrate
from steward.adapters.files import FilesBodyStore
from steward.adapters.gcs import GcsBodyStore
from steward.adapters.httpx_upstream import HttpxUpstream
from steward.adapters.memory import MemoryDirectory
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.adapters.postgres_ledger import SCHEMA_VERSION, PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.adapters.s3 import S3BodyStore
from steward.destination import Destination
from steward.egress import Me
from steward.errors import ButlerUnavailable, KeyCheckUnavailable, SettingError
from steward.exchange import LOCAL_ORG, Caller, Intent
from steward.forward import Pool
from steward.policy import Local
from steward.ports import BodyStore, Directory, Identity, Lane, Waiting
from steward.registering import register
from steward.sent import Pending
from steward.settings import Settings, load
from steward.wiring import (
    Health,
    Services,
    build,
    build_settler,
    butler_opener,
    check,
    decided_stores,
    maintain,
    open_database,
    open_directory,
    open_egress_log,
    open_managed,
    open_outbox,
    open_quarantine,
    open_register,
    open_store,
    open_syncer,
    price_book,
    relay_conns,
    settler_conns,
    watch_pending,
    whole_sets,
)
from steward.words import Secret
from tests.contracts.records import ORG, a_record, new_id
from tests.contracts.test_egress_log import a_question
from tests.exchanges import exchange, route
from tests.said import Said, listening
from tests.servers.butler_stub import Organisation as Dashboard
from tests.servers.butler_stub import stub_butler
from tests.servers.butler_wire import says, wire_butler
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.postgres import KEYRING, Database, address_of
from tests.servers.waiting import eventually, eventually_async
from tests.wanted import USER, for_org, for_user, provider_key, s3

ROOT = Path(__file__).parents[1]
ENCRYPTION_KEY = bytes(range(32)).hex()
OTHER_KEY = bytes(range(1, 33)).hex()


def settings(database: Database | None = None, /, **given: str) -> Settings:
    """As from an environment that holds nothing else."""
    environ = {"ENCRYPTION_KEY": ENCRYPTION_KEY, "PRICING_REMOTE_URL": "", "AFTER_RESPONSE": "inline", **given}
    if database is not None:
        address = database.address
        environ |= {"POSTGRES_HOST": address.host, "POSTGRES_PORT": str(address.port)}
        environ |= {"POSTGRES_USER": address.user, "POSTGRES_DB": address.database}
    return load(environ, None)


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    """What the log says."""
    with listening() as heard:
        yield heard


def run(services: Services, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The story while the services run; they are stopped in the end, whatever it does."""

    async def told() -> None:
        await services.start()
        try:
            async with asyncio.timeout(60):
                await story()
        finally:
            await services.stop()

    asyncio.run(told())


async def becomes(services: Services, word: str) -> None:
    await eventually_async(lambda: services.ready() == word, 20)


class Closing:
    """Notes when it is closed."""

    def __init__(self, name: str, closed: list[str], inner: Any) -> None:
        self._name, self._closed, self._inner = name, closed, inner

    async def close(self) -> None:
        self._closed.append(self._name)
        await self._inner.close()


def test_who_takes_exchanges_ends_after_those_who_make_them() -> None:
    """A call that is cut by the end of its upstream must still be handed over."""
    services, closed = build(settings(POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1")), list[str]()
    (pool,) = services.upstreams
    services = replace(
        services,
        upstreams=(Closing("upstream", closed, pool),),  # type: ignore[arg-type]
        after_response=Closing("after", closed, services.after_response),  # type: ignore[arg-type]
    )
    asyncio.run(services.stop())
    assert closed == ["upstream", "after"]


# put together


def test_it_connects_to_nothing_and_imports_no_vendor_it_does_not_use() -> None:
    program = """
import json, sys
def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"): raise SystemExit(event)
sys.addaudithook(guard)
from steward.settings import load
from steward.wiring import build
build(load(json.loads(sys.argv[1]), None))
print(json.dumps(sorted({"boto3", "botocore", "google.cloud.storage", "steward.adapters.gcs", "steward.adapters.files",
    "steward.adapters.s3", "steward.adapters.httpx_upstream", "steward.adapters.memory"} & set(sys.modules))))
"""

    def imported(**given: str) -> list[str]:
        environ = {"ENCRYPTION_KEY": ENCRYPTION_KEY, "POSTGRES_HOST": "db.example.com", **given}
        environ.setdefault("AFTER_RESPONSE", "inline")
        command = [sys.executable, "-c", program, json.dumps(environ)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        found: list[str] = json.loads(ran.stdout)
        return found

    assert imported() == []
    assert imported(BODY_STORE_URL="file:///bodies") == ["steward.adapters.files"]
    assert "google.cloud.storage" not in imported(BODY_STORE_URL="s3://bucket/prefix")


def test_without_the_key_nothing_is_put_together() -> None:
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: "):
        build(load({}, None))
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: "):
        open_directory(load({}, None))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", None),
        ("s3://bucket/prefix", S3BodyStore),
        ("gs://bucket", GcsBodyStore),
        ("file:///tmp/bodies", FilesBodyStore),
    ],
)
def test_each_destination_has_its_store(url: str, kind: type[BodyStore] | None) -> None:
    destination: Destination | None = settings(BODY_STORE_URL=url).body_store
    store = open_store(destination)
    assert store is None if kind is None else isinstance(store, kind)
    if store is not None:
        store.close()


def test_an_alias_file_that_is_none_is_one_line_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_text('{"my-deployment": "gpt-4o"}')
    assert price_book(settings(PRICING_ALIASES_FILE=str(file))).knows("my-deployment")
    found = settings(PRICING_ALIASES_FILE=str(file))
    for content in (b"", b"CANARY", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(SettingError) as refused:
            build(found)
        assert refused.value.message.startswith("PRICING_ALIASES_FILE")
        assert "CANARY" not in refused.value.message
    file.unlink()
    with pytest.raises(SettingError, match="PRICING_ALIASES_FILE"):
        build(found)


def test_what_syncs_has_its_settings_and_a_connection_of_its_own(postgres: Database) -> None:
    found = settings(postgres, WORK_TICK_INTERVAL="2s", WORK_TICK_LIMIT="7")
    acme = Dashboard()
    with stub_butler(acme) as butler:
        directory, close = open_directory(found)
        directory.register(Identity(acme.steward_id, acme.id, "Acme"), butler.url, Secret(acme.token))
        acme.key("shop")
        opener = butler_opener(found)
        acme.storage.append({"owner_type": "user", "owner_id": str(acme.steward_id), "provider": "s3"})
        sets = whole_sets(directory)  # type: ignore[arg-type]
        syncer = open_syncer(found, directory, lambda each, token: opener(each.butler_url, token), sets)
        syncer.run_once()
        syncer.finish(10)
        kept = [each.owner_id for each in directory.kept_configs()]  # type: ignore[attr-defined]
        assert kept == [acme.steward_id]
        close()
        assert butler.targets("/work") == ["/api/v1/steward/work?limit=7"]
        assert [key.name for key in PostgresDirectory(postgres.engine, postgres.keyring).list_keys(acme.id)] == ["shop"]


def test_managed_mode_is_there_when_it_is_set() -> None:
    directory, opener = MemoryDirectory(), butler_opener(settings())
    assert open_managed(settings(), directory, opener) is None
    given = {"MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32, "MANAGED_BUTLER_URL": "https://butler.example"}
    assert open_managed(settings(**given), directory, opener) is None
    made = open_managed(settings(**given, MANAGED_ENABLED="on", MANAGED_POLL_INTERVAL="7s"), directory, opener)
    assert made is not None
    assert (made.url, made.every_s, made.master.reveal()) == (
        "https://butler.example",
        7,
        given["MANAGED_MASTER_TOKEN"],
    )


def test_the_database_gets_the_connections_of_the_setting_shared_by_the_processes() -> None:
    """Inline, the relaying ones have all but one; with the spool two each, and the settling one the rest but one.

    That one tells which process syncs what.
    """
    for most, workers, each in ((10, 1, 9), (10, 3, 2), (10, 10, 1), (2, 64, 1)):
        found = settings(POSTGRES_MAX_CONNS=str(most), WORKERS=str(workers))
        assert relay_conns(found) == each
        engine, _ = open_database(found, relay_conns(found))
        assert engine.pool.size() == each  # type: ignore[attr-defined]
        engine.dispose()
    for most, workers, rest in ((10, 1, 7), (10, 4, 1), (9, 4, 1), (2, 64, 1)):
        found = settings(AFTER_RESPONSE="spool", POSTGRES_MAX_CONNS=str(most), WORKERS=str(workers))
        assert (relay_conns(found), settler_conns(found)) == (2, rest)


def test_calls_go_through_the_egress_proxy_but_for_hosts_that_are_spared() -> None:
    found = settings(
        HTTPS_PROXY="http://proxy.internal:3128",
        NO_PROXY="anthropic.com",
        OPENAI_BASE_URL="https://api.openai.com",
        ANTHROPIC_BASE_URL="https://api.anthropic.com",
        GEMINI_BASE_URL="http://127.0.0.1:9/gemini",
    )
    services = build(found)
    kinds = {name: type(services.stages.upstream(origin)) for name, origin in found.origins.items()}
    assert kinds["openai"] is HttpxUpstream
    assert kinds["anthropic"] is Pool
    assert set(map(type, services.upstreams)) == {HttpxUpstream, Pool}

    async def story() -> None:
        assert services.ready() == "database"

    run(services, story)
    direct = build(settings())
    assert [type(upstream) for upstream in direct.upstreams] == [Pool]
    run(direct, story)


def test_butler_is_spoken_to_through_the_egress_proxy_but_where_it_is_spared() -> None:
    """The way itself: nothing listens at the proxy's port, and at Butler's somebody does."""
    with wire_butler([says(200, {"org_name": "Acme"})]) as wire, socket.create_server(("127.0.0.1", 0)) as unused:
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        unused.close()
        token = Secret("mdm_st_" + "t" * 32)
        spared = butler_opener(settings(HTTPS_PROXY=dead))(wire.url, token)
        assert spared.ask(Me()) == {"org_name": "Acme"}
        through = butler_opener(settings(HTTPS_PROXY=dead))("https://butler.example", token)
        with pytest.raises(ButlerUnavailable) as refused:
            through.ask(Me())
        assert isinstance(refused.value.__cause__, httpx.ConnectError)
        assert "111" in str(refused.value.__cause__)
        for each in (spared, through):
            each.close()


# the spool


def test_with_the_spool_a_relay_needs_no_database_and_no_bucket_to_hand_a_call_over(tmp_path: Path) -> None:
    """It opens neither; what it hands over is there for the process that settles."""
    found = settings(
        **{"AFTER_RESPONSE": "spool", "SPOOL_DIR": str(tmp_path / "spool"), "BODY_STORE_URL": "s3://bucket/prefix"},
        **{"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", "SPOOL_MAX_BYTES": "64MiB", "WORKERS": "2"},
    )
    services = build(found)
    call = replace(exchange(route("/v1/chat/completions"), {"a": 1}), id=uuid4())

    async def story() -> None:
        services.after_response.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))
        accepted = services.after_response.submit(call)
        if accepted is not None:
            await accepted

    assert services.prices is None
    run(services, story)
    settler = build_settler(found)
    assert settler.acquire()
    assert settler.rounds.depth().items == 1
    other = build_settler(found)
    assert not other.acquire()
    settler.close()
    assert other.acquire()
    other.close()


def test_who_relays_has_his_spool_written_by_the_turns_of_his_loop(tmp_path: Path) -> None:
    """Services that only look (no loop runs) write each record by itself."""
    found = settings(
        **{"AFTER_RESPONSE": "spool", "SPOOL_DIR": str(tmp_path / "spool"), "SPOOL_MAX_BYTES": "64MiB"},
        **{"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"},
    )
    call = replace(exchange(route("/v1/chat/completions"), {"a": 1}), id=uuid4())
    intent = Intent(call.id, call.caller, call.route, call.requested_at, call.method)

    async def story() -> bool:
        services = build(found)
        assert services.after_response.intend(intent) is None
        held = services.after_response.submit(call) is not None
        await services.stop()
        return held

    assert asyncio.run(story())


def test_one_who_relays_and_spools_imports_no_vendor_and_no_models(tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from steward.settings import load\n"
        "from steward.wiring import build\n"
        "build(load(json.loads(sys.argv[1]), None))\n"
        "late = {'steward.egress', 'steward.export', 'steward.adapters.butler', 'steward.adapters.inline'}\n"
        "print(sorted({'boto3', 'botocore', 'google.cloud.storage', *late} & set(sys.modules)))\n"
    )
    environ = {
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "SPOOL_DIR": str(tmp_path / "spool"),
        "BODY_STORE_URL": "s3://bucket/x",
    }
    command = [sys.executable, "-c", program, json.dumps(environ)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr


def test_what_is_on_a_schedule_runs_where_calls_are_settled(tmp_path: Path) -> None:
    away = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", "SPOOL_DIR": str(tmp_path / "spool")}
    (tmp_path / "spool").mkdir(mode=0o700)
    relay, inline = build(settings(**away, AFTER_RESPONSE="spool")), build(settings(**away))
    settler = build_settler(settings(**away, AFTER_RESPONSE="spool"))
    assert [[task.name for task in each.clockwork.tasks] for each in (relay, inline, settler)] == [
        [],
        ["export", "sync"],
        ["export", "sync"],
    ]
    for each in (relay, inline, settler):
        each.close()
    master = {"MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32, "MANAGED_BUTLER_URL": "https://butler.example"}
    managing = build_settler(settings(**away, **master, AFTER_RESPONSE="spool", MANAGED_ENABLED="on"))
    assert [task.name for task in managing.clockwork.tasks] == ["export", "sync", "managed"]
    managing.close()


def test_a_butler_s_certificate_that_is_none_is_told_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----\n")
    with pytest.raises(SettingError, match="^BUTLER_CA_FILE: "):
        check(settings(BUTLER_CA_FILE=str(file)))


def test_what_settles_here_exports_here_and_ends_with_it(postgres: Database) -> None:
    """From a registration by the command's own means to the record at Butler, in one process."""
    butler = IngestButler([Organisation("mdm_st_0" + "t" * 32)])
    with serving(butler), ExitStack() as undo:
        given = settings(postgres, BATCH_INTERVAL="50ms")
        directory, opener = open_register(given, undo)
        token = Secret(butler.organisations[0].token)
        made = register(directory, opener, butler.url, token)
        record = a_record(id=new_id(datetime.now(UTC)), org_id=LOCAL_ORG, model="gpt-4o")
        services = build(given)

        async def story() -> None:
            assert isinstance(services.ledger, PostgresLedger)
            await asyncio.to_thread(services.ledger.record, [record])
            await eventually_async(lambda: butler.taken() == 1)

        run(services, story)
        (sent,) = butler.organisations[0].records.values()
        assert (sent["id"], sent["org_id"]) == (str(record.id), str(made.org_id))
        assert [path for path, _ in butler.heard].count("/api/v1/steward/me") == 2
        log = open_egress_log(given, undo)
        told = [(row.kind, row.answer, row.registration_id) for row in log.newest(50)]
        assert [each for each in told if each[0] in {"Me", "Ingest"}] == [
            ("Me", "ok", None),
            ("Me", "ok", made.id),
            ("Ingest", "ok", made.id),
        ]
        assert open_outbox(given, undo).waiting(Lane(made.id, made.org_id, local=True), 9) == Waiting()


def test_in_managed_mode_calls_of_keys_made_inside_are_exported_nowhere(postgres: Database) -> None:
    """Also while one organisation alone is registered: what is the operator's is not that one's."""
    butler = IngestButler([Organisation("mdm_st_0" + "t" * 32)])
    master = {"MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32, "MANAGED_BUTLER_URL": "https://butler.example"}
    with serving(butler), ExitStack() as undo:
        given = settings(postgres, **master, MANAGED_ENABLED="on", BATCH_INTERVAL="50ms")
        directory, opener = open_register(given, undo)
        register(directory, opener, butler.url, Secret(butler.organisations[0].token))
        record = a_record(id=new_id(datetime.now(UTC)), org_id=LOCAL_ORG, model="gpt-4o")
        PostgresLedger(postgres.engine).record([record])
        services = build(given)
        export = next(task for task in services.clockwork.tasks if task.name == "export")
        for _ in range(5):
            export.run_once()
        export.finish(5)
        services.close()
        assert butler.taken() == 0
        assert postgres.run("SELECT export_state FROM llm_requests") == [("local",)]


def test_a_quarantine_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="^SPOOL_DIR: "):
        open_quarantine(settings(SPOOL_DIR=str(tmp_path / "missing")))
    assert not (tmp_path / "missing").exists()
    (tmp_path / "spool").mkdir(mode=0o700)
    quarantine = open_quarantine(settings(SPOOL_DIR=str(tmp_path / "spool")))
    assert quarantine.entries() == []
    quarantine.close()


# ready


def test_it_is_ready_once_it_can_serve_and_gives_everything_back(postgres: Database, tmp_path: Path) -> None:
    services = build(settings(postgres, BODY_STORE_URL=tmp_path.as_uri()))
    before = set(threading.enumerate())

    async def story() -> None:
        with pytest.raises(KeyCheckUnavailable):
            services.stages.credential_hash()
        assert services.ready() == "database"
        await becomes(services, "ready")
        assert services.stages.credential_hash() is services.stages.credential_hash()
        assert services.ledger.newest(LOCAL_ORG, 1) == []
        services.health.draining = True
        assert services.ready() == "draining"

    run(services, story)
    ours = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in ours if name.startswith("steward")}
    mine = "application_name = 'majordomo-steward' AND datname = current_database()"
    eventually(lambda: postgres.run(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}") == [(1,)], 20)
    assert all(task.done() for task in services.tasks)


def test_what_waits_for_a_person_is_counted_and_what_is_allowed_is_where_bodies_go(postgres: Database) -> None:
    services = build(settings(postgres, BODY_STORE_ALLOW="s3://acme-prompts@eu-west-1", AFTER_RESPONSE="inline"))
    directory = PostgresDirectory(postgres.engine, postgres.keyring, Local(window_s=0))
    token = Secret("mdm_st_" + "t" * 32)
    made = directory.register(Identity(ORG, ORG, "Acme"), "https://butler.example", token)
    directory.replace_storage_configs(made, [for_org(s3()), for_user(s3("other"))])
    directory.replace_provider_keys(made, [provider_key()])
    stores = decided_stores(services.settings, directory)

    async def story() -> None:
        await eventually_async(lambda: services.health.approvals_pending == 1, 20)
        assert services.relay_state(0, 0).approvals_pending == 1, "the other bucket is refused, and waits for nobody"

    run(services, story)
    assert stores.look()
    place = stores.of(Caller(uuid4(), ORG, USER))
    assert place is not None
    assert isinstance(place.store, S3BodyStore)
    assert place.store.url("k") == "s3://acme-prompts/k"
    stores.close()


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


def test_every_directory_knows_what_the_settings_say_of_trust() -> None:
    """One that does not would pin what BODY_STORE_ALLOW does not name."""
    made = re.findall(r"PostgresDirectory\(.*", (ROOT / "steward" / "wiring.py").read_text())
    assert len(made) >= 5
    assert not [line for line in made if not line.startswith("PostgresDirectory(engine, keyring, trust_of(settings))")]


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


def test_a_database_that_comes_later_is_waited_for(
    server_folder: Path, local_postgres: Callable[..., LocalPostgres], said: Said
) -> None:
    """The process starts without it, says so once, and is ready without a restart."""
    server = local_postgres(server_folder, tcp=True)
    server.start()
    engine = open_engine(address_of(server))
    migrate(engine, KEYRING)
    engine.dispose()
    found = settings(
        POSTGRES_HOST="127.0.0.1",
        POSTGRES_PORT=str(server.tcp_port),
        POSTGRES_USER=server.user,
        POSTGRES_DB=server.database,
        POSTGRES_PASSWORD=server.password.reveal(),
    )
    server.stop()
    services = build(found)

    async def story() -> None:
        await eventually_async(lambda: said.lines("key_poll_failing"), 20)
        assert services.ready() == "database"
        await asyncio.to_thread(server.start)
        await becomes(services, "ready")
        assert services.stages.credential_hash() is not None

    run(services, story)
    assert len(said.lines("key_poll_failing")) == len(said.lines("key_poll_recovered")) == 1


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


@pytest.mark.parametrize("after", ["inline", "spool"])
def test_whoever_settles_keeps_the_egress_log_as_long_as_the_settings_say(
    after: str, postgres: Database, tmp_path: Path
) -> None:
    (spool := tmp_path / "spool").mkdir(mode=0o700)
    egress_log = PostgresEgressLog(postgres.engine, postgres.keyring)
    for _ in range(3):
        egress_log.leaving(a_question())
    year = egress_log.newest(1)[0].at + timedelta(days=365)
    for given, at, left in (
        ({"EGRESS_LOG_RETENTION": "0"}, year + timedelta(days=3000), 3),
        ({}, year - timedelta(days=1), 3),
        ({"EGRESS_LOG_RETENTION": "30d"}, year - timedelta(days=1), 1),
    ):
        found = settings(postgres, AFTER_RESPONSE=after, SPOOL_DIR=str(spool), **given)
        if after == "inline":
            relay = build(found)
            [kept] = [each.args[0] for each in relay.background if isinstance(each, partial) and each.func is maintain]
            kept(at)
            relay.close()
        else:
            settler = build_settler(found)
            settler.maintain(at)
            settler.close()
        assert len(egress_log.newest(10)) == left
    assert egress_log.walked().first_broken is None


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


def test_the_budget_of_the_setting_is_what_a_caller_waits(postgres: Database) -> None:
    """While someone holds the table, the last piece waits no longer than that."""
    services = build(settings(postgres, AFTER_RESPONSE_BUDGET="50ms"))

    async def story() -> None:
        await becomes(services, "ready")
        with postgres.engine.connect() as other:
            other.execute(text("LOCK TABLE llm_requests IN ACCESS EXCLUSIVE MODE"))
            call = replace(exchange(route("/v1/chat/completions"), {}), id=uuid4())
            services.after_response.intend(
                Intent(call.id, call.caller, call.route, call.requested_at, call.method),
            )
            waits = services.after_response.submit(call)
            assert waits is not None
            await waits
            assert postgres.run("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(0,)]
            other.rollback()
        await eventually_async(lambda: services.ledger.get(LOCAL_ORG, call.id), 20)

    run(services, story)


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


def test_the_directory_alone_can_be_opened_and_closed(postgres: Database) -> None:
    opened: tuple[Directory, Callable[[], None]] = open_directory(settings(postgres))
    directory, close = opened
    assert directory.list_keys(LOCAL_ORG) == []
    close()


def test_no_secret_shows_in_what_the_process_is(postgres: Database) -> None:
    """Services are handed around; their description must not hold the key, the token or the password."""
    services = build(settings(postgres, STEWARD_ADMIN_TOKEN="t" * 40, POSTGRES_PASSWORD="p" * 20))

    async def story() -> None:
        await becomes(services, "ready")
        for secret in (ENCRYPTION_KEY, "t" * 40, "p" * 20, repr(bytes(range(32)))[2:-1]):
            assert secret not in repr(services)

    run(services, story)
