"""How fast a full spool is settled: one process on one core, PostgreSQL and the store on another.

It measures the settling process as it runs, log lines and all; refuses to say a figure for a run after which a row, a
body or an empty spool is missing. Run as a program, it is that process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from handlers.settler import rest_garbage_collector
from migrations import migrate
from steward import log
from steward.adapters.files import FilesBodyStore
from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.adapters.s3 import S3BodyStore
from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.body_object import build
from steward.destination import FilesDestination, S3Destination, S3Keys
from steward.exchange import LOCAL_ORG, Body, BodyState, Exchange, Intent, uuid7
from steward.ports import BodyStore
from steward.price import bundled
from steward.seal import Keyring
from steward.settle import Settler
from steward.settling import AT_ONCE, AT_ONCE_FILES, RoundLimits, Rounds
from steward.stores import OneStore
from steward.words import Secret
from tests.exchanges import exchange, route
from tests.servers.postgres import KEYRING, address_of
from tests.servers.stores import s3

ROOT = Path(__file__).parents[2]
CHAT = route("/v1/chat/completions")
BODY_BYTES = 2048
_DATABASE = "bench"


@dataclass(frozen=True)
class Settled:
    """One full spool, settled."""

    exchanges: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Exchanges a second, on the one core the process had."""
        return self.exchanges / self.wall_s

    built_us: float
    """CPU for building one of their objects alone, in the same process: what this machine takes for a known work."""

    @property
    def cpu_us(self) -> float:
        """CPU of the process for one exchange."""
        return self.cpu_s / self.exchanges * 1e6


class Settling:
    """A database and an S3 server, kept for several runs."""

    def __init__(self, postgres: LocalPostgres, bucket: S3Destination, folder: Path) -> None:
        self._postgres = postgres
        self._bucket = bucket
        self._folder = folder

    def files(self, count: int) -> Settled:
        """With bodies in files."""
        return self._run(count, {"folder": str(self._folder / f"bodies-{uuid4()}")})

    def s3(self, count: int) -> Settled:
        """With bodies in a bucket of a server on this machine."""
        keys = self._bucket.credentials
        assert isinstance(keys, S3Keys)
        to = self._bucket
        return self._run(
            count,
            {
                "bucket": to.bucket,
                "prefix": f"{to.prefix}/{uuid4()}",
                "endpoint": to.endpoint or "",
                "id": keys.access_key_id,
                "secret": keys.secret_access_key.reveal(),
            },
        )

    def _run(self, count: int, store: dict[str, str]) -> Settled:
        spool, key = self._folder / f"spool-{uuid4()}", secrets.token_bytes(32)
        spool.mkdir(mode=0o700)
        ids = _fill(spool, Keyring(Secret(key)), count)
        job = {
            "host": self._postgres.host,
            "port": self._postgres.port,
            "user": self._postgres.user,
            "password": self._postgres.password.reveal(),
            "spool": str(spool),
            "key": key.hex(),
            "store": store,
        }
        command = [sys.executable, "-m", "tests.bench.settling"]
        cores = sorted(os.sched_getaffinity(0))
        ran = subprocess.run(
            [*(["taskset", "-c", str(cores[0])] if shutil.which("taskset") else []), *command],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        self._check(ids)
        said = json.loads(ran.stdout)
        shutil.rmtree(spool)
        return Settled(count, said["wall_s"], said["cpu_s"], said["built_us"])

    def _check(self, ids: set[UUID]) -> None:
        engine = open_engine(address_of(self._postgres, _DATABASE))
        try:
            rows = PostgresLedger(engine).newest(LOCAL_ORG, 2 * len(ids))
        finally:
            engine.dispose()
        stored = {row.record.id for row in rows if row.record.body_state is BodyState.STORED}
        assert ids <= stored, f"{len(ids - stored)} of {len(ids)} were not stored; {len(rows)} rows"


@contextlib.contextmanager
def settling_bench() -> Iterator[Settling]:
    """Starts the servers; ends them. They share what cores the settling process is not pinned to with it."""
    with LocalPostgres(for_tests=True) as postgres, s3() as server, tempfile.TemporaryDirectory() as folder:
        admin = open_engine(address_of(postgres))
        with admin.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(f"CREATE DATABASE {_DATABASE}")
        admin.dispose()
        engine = open_engine(address_of(postgres, _DATABASE))
        migrate(engine, KEYRING)
        engine.dispose()
        yield Settling(postgres, server.bucket(), Path(folder))


def _fill(spool: Path, keyring: Keyring, count: int) -> set[UUID]:
    """As one relay would have, that ended since."""
    writer = Spool(spool, keyring, SpoolLimits())
    ids = set()
    for _ in range(count):
        call = _call()
        ids.add(call.id)
        writer.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))
        writer.submit(call)
    asyncio.run(writer.close())
    return ids


def _call() -> Exchange:
    """A chat completion whose sides have `BODY_BYTES` together, unlike every other's."""
    words = secrets.token_urlsafe(BODY_BYTES // 4)
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": words}]}
    message = {"role": "assistant", "content": words[::-1]}
    usage = {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300}
    answer = {
        "id": "c",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message}],
        "usage": usage,
    }
    now = datetime.now(UTC)
    made = exchange(CHAT, answer, asked=asked)
    request, response = (Body(each.data, None, len(each.data)) for each in (made.request, made.response))
    return replace(
        made,
        id=uuid7(int(now.timestamp() * 1000), os.urandom(10)),
        requested_at=now,
        request=request,
        response=response,
    )


def _store(facts: dict[str, str]) -> BodyStore:
    if "folder" in facts:
        return FilesBodyStore(FilesDestination(facts["folder"]))
    keys = S3Keys(facts["id"], Secret(facts["secret"]))
    return S3BodyStore(S3Destination(facts["bucket"], facts["prefix"], keys, endpoint=facts["endpoint"]))


def _built_us(count: int = 300) -> float:
    calls = [_call() for _ in range(count)]
    cpu = time.process_time()
    for call in calls:
        build(call)
    return (time.process_time() - cpu) / count * 1e6


def main() -> int:
    """The settling process: settles one spool, and says how long it took."""
    job = json.loads(sys.stdin.read())
    log.configure("info")
    password = Secret(job["password"])
    address = PostgresAddress(job["host"], job["port"], job["user"], password, _DATABASE, "disable", max_conns=4)
    ledger = PostgresLedger(open_engine(address))
    store, book = _store(job["store"]), bundled({})
    reader = SpoolReader(Path(job["spool"]), Keyring(Secret(bytes.fromhex(job["key"]))))
    assert reader.acquire()
    at_once = AT_ONCE_FILES if isinstance(store, FilesBodyStore) else AT_ONCE
    rounds = Rounds(reader, Settler(ledger, OneStore(store), lambda: book), ledger, RoundLimits(at_once=at_once))
    ledger.ready()
    rest_garbage_collector()
    built_us = _built_us()
    begun, cpu = time.monotonic(), time.process_time()
    while not (rounds.run_once() and not rounds.in_hand()):
        pass
    wall_s, cpu_s = time.monotonic() - begun, time.process_time() - cpu
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "built_us": built_us}))
    rounds.close()
    reader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
