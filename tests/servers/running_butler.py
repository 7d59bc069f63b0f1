"""Our Butler as it runs in production: a process of its own, set up by its own commands, spoken to by its own API."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson

from steward.adapters.postgres_local import LocalPostgres
from tests.servers.steward import COMMAND, REPOSITORY, new_database
from tests.servers.waiting import eventually

PASSWORD = "correct horse battery staple"
START_WITHIN_S = 60.0
_LISTENING = re.compile(rb'"port": ?(\d+)')
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


@dataclass
class RunningButler:
    """One `steward butler serve` with one organisation and its owner."""

    environ: Mapping[str, str]
    log: Path
    email: str
    org_id: UUID
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens; the second time on the port it had."""
        environ = {**self.environ, "BUTLER_PORT": str(self.port)}
        told = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "butler", "serve"],
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process, found = self.process, []

        def listening() -> bool:
            assert process.poll() is None, self.log.read_text()
            found.extend(_LISTENING.findall(self.log.read_bytes()[told:]))
            return bool(found)

        eventually(listening, START_WITHIN_S)
        self.port = int(found[0])

    def kill(self) -> None:
        """As a host does that loses it: nothing is ended in order."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As a host does that needs the room; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def sign_in(self) -> None:
        """The owner, as a command line does."""
        said = self.ask("POST", "/login", {"email": self.email, "password": PASSWORD})
        self.token = said["token"]

    def confirm(self) -> None:
        """The password once more: what asks for it is free for five minutes."""
        self.ask("POST", "/password/confirm", {"password": PASSWORD})

    def ask(self, method: str, path: str, said: object = None) -> Any:
        """One call of the management API, which must succeed."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        with httpx.Client(base_url=self.url + "/api/v1", trust_env=False, timeout=30) as client:
            answer = client.request(method, path, json=said, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def run(self, *arguments: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Another `steward butler` command on this installation."""
        command = [*COMMAND, "butler", *arguments]
        return subprocess.run(command, env=dict(self.environ), cwd="/", input=said, capture_output=True, check=False)


@contextmanager
def running_butler(server: LocalPostgres, folder: Path, org: str = "Acme", **settings: str) -> Iterator[RunningButler]:
    """Migrates a new database, makes an organisation with its owner, serves until the block ends."""
    address = new_database(server)
    environ = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environ |= settings | {
        "PYTHONPATH": str(REPOSITORY),
        "BUTLER_ENCRYPTION_KEY": secrets.token_hex(32),
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_PASSWORD": address.password.reveal(),
        "POSTGRES_DB": address.database,
        "LOG_LEVEL": "debug",
    }
    butler = RunningButler(environ, folder / "butler.log", "owner@example.com", UUID(int=0))
    assert butler.run("migrate").returncode == 0
    made = butler.run(
        *("create-admin", "--email", butler.email, "--org", org, "--password", "-", "--json"),
        said=PASSWORD.encode() + b"\n",
    )
    assert made.returncode == 0, made.stderr
    butler.org_id = UUID(orjson.loads(made.stdout)["org_id"])
    butler.start()
    try:
        butler.sign_in()
        yield butler
    finally:
        if butler.process is not None and butler.process.poll() is None:
            assert butler.stop() == 0
