"""A Butler as it runs in production: migrated, given an owner and served by its own commands, on a real database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.servers.postgres import Database
from tests.servers.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
KEY = bytes(range(100, 132)).hex()
EMAIL = "owner@acme.example"
_WITHIN_S = 60.0
_LISTENING = re.compile(r'"port":(\d+).*"event":"butler_listening"')


@dataclass
class ServedButler:
    """One `steward butler serve`."""

    url: str
    environ: Mapping[str, str]
    org_id: str
    password: str
    process: subprocess.Popen[bytes]
    log: Path

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Another `steward` command with the same settings."""
        return run(self.environ, "steward", arguments, stdin)

    def stop(self) -> int:
        """Told to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_WITHIN_S)


def run(
    environ: Mapping[str, str], program: str, arguments: Sequence[str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    code = (
        f"import sys; from steward.cli import {'main' if program == 'steward' else 'majordomo'} as run; sys.exit(run())"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=dict(environ), input=stdin, capture_output=True, text=True, timeout=_WITHIN_S)


def environ_of(database: Database) -> dict[str, str]:
    """What a Butler on this database is told."""
    address = database.address
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "BUTLER_ENCRYPTION_KEY": KEY,
        "BUTLER_POSTGRES_HOST": address.host,
        "BUTLER_POSTGRES_PORT": str(address.port),
        "BUTLER_POSTGRES_USER": address.user,
        "BUTLER_POSTGRES_PASSWORD": address.password.reveal(),
        "BUTLER_POSTGRES_DB": address.database,
        "BUTLER_PORT": "0",
    }


@pytest.fixture
def served_butler(empty_postgres: Database, tmp_path: Path) -> Iterator[ServedButler]:
    """A fresh Butler with one organisation, `Acme`, and its owner."""
    environ = environ_of(empty_postgres)
    assert run(environ, "steward", ["butler", "migrate"]).returncode == 0
    made = run(environ, "steward", ["butler", "create-admin", "--email", EMAIL, "--org", "Acme", "--json"])
    said = json.loads(made.stdout)
    log = tmp_path / "butler.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "steward", "butler", "serve"], env=environ, stdout=written, stderr=written
        )
    try:
        eventually(lambda: process.poll() is not None or _LISTENING.search(log.read_text()), _WITHIN_S)
        found = _LISTENING.search(log.read_text())
        assert found, log.read_text()
        url = f"http://127.0.0.1:{found[1]}"
        eventually(lambda: answers(url), _WITHIN_S)
        yield ServedButler(url, environ, said["org_id"], said["password"], process, log)
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether it is ready."""
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def line(served_butler: ServedButler, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `majordomo ...` as a person whose home is a folder of the test's."""
    environ = {**served_butler.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}

    def call(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run(environ, "majordomo", arguments, stdin)

    return call
