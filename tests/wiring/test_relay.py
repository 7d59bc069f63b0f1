"""A relaying process put together: what it opens and when, when it is ready, and that it gives all back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from migrations import migrate
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.errors import KeyCheckUnavailable, SettingError
from steward.exchange import LOCAL_ORG
from steward.settings import load
from steward.wiring.relay import build, check, threads_end
from tests.said import Said
from tests.servers.postgres import KEYRING, Database, address_of
from tests.servers.waiting import eventually, eventually_async
from tests.services import ENCRYPTION_KEY, becomes, run, settings

ROOT = Path(__file__).parents[2]


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


def test_it_connects_to_nothing_and_imports_no_vendor_it_does_not_use() -> None:
    program = """
import json, sys
def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"): raise SystemExit(event)
sys.addaudithook(guard)
from steward.settings import load
from steward.wiring.relay import build
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


def test_one_who_relays_and_spools_imports_no_vendor_and_no_models(tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from steward.settings import load\n"
        "from steward.wiring.relay import build\n"
        "build(load(json.loads(sys.argv[1]), None))\n"
        "late = {'steward.egress', 'steward.export', 'steward.adapters.butler', 'steward.adapters.inline',"
        " 'steward.settling', 'steward.reconcile'}\n"
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


def test_a_butler_s_certificate_that_is_none_is_told_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----\n")
    with pytest.raises(SettingError, match="^BUTLER_CA_FILE: "):
        check(settings(BUTLER_CA_FILE=str(file)))


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


def test_no_secret_shows_in_what_the_process_is(postgres: Database) -> None:
    """Services are handed around; their description must not hold the key, the token or the password."""
    services = build(settings(postgres, STEWARD_ADMIN_TOKEN="t" * 40, POSTGRES_PASSWORD="p" * 20))

    async def story() -> None:
        await becomes(services, "ready")
        for secret in (ENCRYPTION_KEY, "t" * 40, "p" * 20, repr(bytes(range(32)))[2:-1]):
            assert secret not in repr(services)

    run(services, story)


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_thread_that_hangs_is_left_when_its_time_is_over(loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A database that does not answer, or a sweep under way: the loop goes on, and what comes behind is closed."""
    answers = threading.Event()

    async def story() -> bool:
        hangs = asyncio.get_running_loop().run_in_executor(None, answers.wait, 3.0)
        await threads_end(0.01)
        answers.set()
        return await hangs

    with asyncio.Runner(loop_factory=loops) as runner:
        assert runner.run(story()), "it was not waited for"
