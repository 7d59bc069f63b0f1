"""A Steward as it runs in production: a process of its own, on real services.

Settings go in by the environment, rows are read from PostgreSQL and bodies from the store's folder. What the process
writes is kept for searches. The database is a copy of a migrated one, and the key is made through the directory: the
commands take a second each. That they do it is shown by `tests/test_cli.py` and `tests/test_packaging.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import LOCAL_ORG, BodyState, Outcome, Record
from steward.words import Secret
from tests.servers.plain_http import Ended, Message, Request, call
from tests.servers.postgres import COPIED, ENCRYPTION_KEY, KEYRING, TEMPLATE
from tests.servers.socket_provider import Provider
from tests.servers.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
START_WITHIN_S = 60.0
STOP_WITHIN_S = 60.0
COMMAND = (sys.executable, "-m", "steward")
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
_LISTENING = re.compile(rb'"port": ?(\d+)')
_numbers = count()


@dataclass(frozen=True)
class Installation:
    """A database, a store and a key; who serves it is another matter."""

    key: str
    """`mdm_sk_...`"""
    key_id: UUID
    environ: Mapping[str, str]
    """What it was set up with, for commands on the installation."""
    bodies: Path
    """The store's folder."""
    log: Path
    """All that who serves it wrote, stdout and stderr."""
    ledger: PostgresLedger

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """A `steward` command on this installation."""
        return run_command(self.environ, *arguments)

    def said(self) -> bytes:
        """What the process has written so far."""
        return self.log.read_bytes()

    def rows(self, limit: int = 1000) -> list[Record]:
        """The newest rows, newest first."""
        return [row.record for row in self.ledger.newest(LOCAL_ORG, limit)]

    def settled(self, request_id: str | bytes, within_s: float = 15.0) -> Record:
        """The row of a call, by the answer's `x-majordomo-request-id`, once nothing about it will change."""
        ident = UUID(request_id.decode() if isinstance(request_id, bytes) else request_id)
        found: list[Record] = []

        def done() -> bool:
            row = self.ledger.get(LOCAL_ORG, ident)
            if row is None or row.record.outcome is Outcome.INTERRUPTED or row.record.body_state is BodyState.PENDING:
                return False
            found.append(row.record)
            return True

        eventually(done, within_s)
        return found[0]

    def body(self, record: Record) -> Any:
        """The body object of a row, read from the folder."""
        assert record.body_key is not None, f"no body: {record.body_state}"
        return orjson.loads(gzip.decompress((self.bodies / record.body_key).read_bytes()))


@dataclass(frozen=True)
class RunningSteward(Installation):
    """One `steward serve`, ready for calls."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """What a base URL points at."""
        return f"http://127.0.0.1:{self.port}"

    def call(self, request: Request) -> Message:
        """One request with the key, over a connection of its own."""
        return call(self.port, replace(request, fields=[*request.fields, (b"X-Majordomo-Key", self.key.encode())]))


def run_command(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """One `steward` command, to its end, away from any `.env`."""
    return subprocess.run([*COMMAND, *arguments], env=dict(environ), cwd="/", capture_output=True, check=False)


Start = Callable[[Mapping[str, str], Path], AbstractContextManager[subprocess.Popen[bytes]]]


def _by_command(environ: Mapping[str, str], log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return serving(environ, log)


@contextmanager
def running_steward(
    server: LocalPostgres,
    folder: Path,
    provider_url: str,
    settings: Mapping[str, str] | None = None,
    start: Start = _by_command,
) -> Iterator[RunningSteward]:
    """A new database with a key, and who serves on it until the block ends; then it must end well by itself.

    `settings` win over what is set here. A process that the block itself ended is left at that. `start`: see `served`.
    """
    with installed(server, folder, provider_url, settings) as made, served(made, start) as running:
        yield running


@contextmanager
def served(made: Installation, start: Start = _by_command) -> Iterator[RunningSteward]:
    """What serves an installation, until the block ends; it names its port in the log, or has the one of its PORT."""
    with start(made.environ, made.log) as process:
        known = {each.name: getattr(made, each.name) for each in fields(made)}
        port = _port_once_ready(process, made.log, int(made.environ["PORT"]))
        yield RunningSteward(**known, port=port, process=process)


@contextmanager
def installed(
    server: LocalPostgres,
    folder: Path,
    provider_url: str,
    settings: Mapping[str, str] | None = None,
    tcp: bool = False,
) -> Iterator[Installation]:
    """A new database with a key, which nobody serves. `settings` win over what is set here.

    `tcp`: by 127.0.0.1, whose port stays the same when the server is started again.
    """
    address = new_database(server, TEMPLATE)
    if tcp:
        assert server.tcp_port is not None
        address = replace(address, host="127.0.0.1", port=server.tcp_port)
    key, engine = "mdm_sk_" + secrets.token_urlsafe(32), open_engine(address)
    try:
        digest = hashlib.sha256(key.encode()).hexdigest()
        yield Installation(
            key=key,
            key_id=PostgresDirectory(engine, KEYRING).create_key(LOCAL_ORG, "tests", digest).id,
            environ={**_environ(address, folder, provider_url), "ENCRYPTION_KEY": ENCRYPTION_KEY, **(settings or {})},
            bodies=folder / "bodies",
            log=folder / "steward.log",
            ledger=PostgresLedger(engine),
        )
    finally:
        engine.dispose()


def new_database(server: LocalPostgres, template: str = "template1") -> PostgresAddress:
    """Nothing is in it, or what is in the template."""
    name = f"steward_{next(_numbers)}"
    address = PostgresAddress(server.host, server.port, server.user, server.password, server.database, "disable")
    engine, create = open_engine(address), f"CREATE DATABASE {name} TEMPLATE {template} {COPIED}"
    try:
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(create))
    finally:
        engine.dispose()
    return replace(address, database=name)


def _environ(address: PostgresAddress, folder: Path, provider_url: str) -> dict[str, str]:
    bodies = folder / "bodies"
    bodies.mkdir(parents=True, exist_ok=True)
    password = address.password.reveal() if isinstance(address.password, Secret) else address.password
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "ENCRYPTION_KEY": secrets.token_hex(32),
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_PASSWORD": str(password),
        "POSTGRES_DB": address.database,
        "BODY_STORE_URL": bodies.as_uri(),
        "SPOOL_DIR": str(folder / "spool"),
        "OPENAI_BASE_URL": provider_url,
        "ANTHROPIC_BASE_URL": provider_url,
        "GEMINI_BASE_URL": provider_url,
        "PRICING_REMOTE_URL": "",
        "HOST": "127.0.0.1",
        "PORT": "0",
        "SHUTDOWN_DELAY": "0",
        "LOG_LEVEL": "debug",
    }


@contextmanager
def serving(
    environ: Mapping[str, str], log: Path, command: Sequence[str] = (*COMMAND, "serve")
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=dict(environ), cwd="/", stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_WITHIN_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _port_once_ready(process: subprocess.Popen[bytes], log: Path, given: int) -> int:
    """The given port, or the one that the log names, once `/readyz` there is 200."""

    def port() -> int:
        named = _LISTENING.search(log.read_bytes())
        return given or (int(named[1]) if named is not None else 0)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return bool(port()) and call(port(), Request(b"GET", b"/readyz")).status == 200
        except (OSError, Ended):
            return False

    eventually(ready, START_WITHIN_S)
    return port()


@pytest.fixture(scope="session")
def steward_server(
    postgres_server: LocalPostgres, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningSteward]:
    """One Steward for the whole run, in front of `provider` for all three dialects."""
    with running_steward(postgres_server, tmp_path_factory.mktemp("steward"), provider.url) as running:
        yield running


@pytest.fixture
def make_steward(postgres_server: LocalPostgres, tmp_path: Path) -> Iterator[Callable[..., RunningSteward]]:
    """Starts Stewards of a test's own: `make_steward(provider_url, SETTING="value")`; each has its own database."""
    with ExitStack() as undo:
        numbers = count()

        def make(provider_url: str, **settings: str) -> RunningSteward:
            folder = tmp_path / f"steward-{next(numbers)}"
            folder.mkdir()
            return undo.enter_context(running_steward(postgres_server, folder, provider_url, settings))

        yield make
