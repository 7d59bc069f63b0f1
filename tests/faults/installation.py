"""One installation of the Steward, as an operator has it: settings, a database, a spool, and a tree of processes.

Who is the settler and who relays is read from the locks they hold, never from their names. It kills what it is told
to, and only what it started.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]
from sqlalchemy import text
from sqlalchemy.engine import Engine

from migrations import migrate
from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.exchange import LOCAL_ORG
from steward.seal import Keyring
from steward.words import Secret
from tests.servers.plain_http import Ended, Request, call
from tests.servers.steward import COMMAND, _environ, run_command
from tests.servers.waiting import eventually

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 90.0
KEYS = 48


@dataclass
class Installation:
    """`steward serve` with the same settings, port and folders, however often it is started."""

    environ: dict[str, str]
    folder: Path
    port: int
    engine: Engine
    keys: list[str]
    process: subprocess.Popen[bytes] | None = None
    known: set[int] = field(default_factory=set)
    """Every process that was ever seen of it."""
    _log: IO[bytes] | None = None

    @property
    def spool(self) -> Path:
        """Where calls wait to be settled."""
        return Path(self.environ["SPOOL_DIR"])

    @property
    def log(self) -> Path:
        """All that its processes wrote."""
        return self.folder / "steward.log"

    @property
    def bodies(self) -> Path:
        """The folder of the files store."""
        return self.folder / "bodies"

    def start(self, ready: bool = True) -> None:
        """Starts the tree; returns once it is ready for calls, or at once."""
        assert self.process is None
        self._log = self.log.open("ab")
        self.process = subprocess.Popen(
            [*COMMAND, "serve"],
            env=self.environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        if ready:
            eventually(self.ready, READY_WITHIN_S)

    def ready(self) -> bool:
        """Whether `/readyz` says so."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        try:
            return call(self.port, Request(b"GET", b"/readyz")).status == 200
        except (OSError, Ended):
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric's values, as an operator scrapes them."""
        answer = call(int(self.environ["OPS_PORT"]), Request(b"GET", b"/metrics"))
        assert answer.status == 200
        lines = [line.rpartition(" ") for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return sum(float(value) for named, _, value in lines if named.partition("{")[0] == name)

    def tree(self) -> list[int]:
        """The processes that live now, the parent first."""
        if self.process is None or self.process.poll() is not None:
            return []
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = [self.process.pid, *(child.pid for child in children)]
        self.known.update(found)
        return found

    def settler(self) -> int | None:
        """The process that settles: it holds the lock."""
        return next(iter(_holders(self.spool / "settler")), None)

    def relays(self) -> list[int]:
        """The processes that relay: each holds the lock of its folder."""
        owners = self.spool.glob("relays/*/owner")
        return sorted({pid for owner in owners for pid in _holders(owner)})

    def kill(self, pid: int) -> None:
        """`kill -9`, for one process of the tree."""
        assert pid in self.tree()
        os.kill(pid, signal.SIGKILL)

    def kill_tree(self) -> None:
        """`kill -9` for all at once; returns when none is left."""
        assert self.process is not None
        pids = self.tree()
        os.killpg(self.process.pid, signal.SIGKILL)
        self._ended(pids)

    def stop(self) -> None:
        """SIGTERM, and its good end. Safe when it does not run."""
        if self.process is None:
            return
        pids = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(STOP_WITHIN_S) == 0, self.log.read_text()[-4000:]
        self._ended(pids)

    def gone(self) -> None:
        """Returns once every process has ended, whoever told it to."""
        self._ended(self.tree())

    def _ended(self, pids: Sequence[int]) -> None:
        assert self.process is not None
        self.process.wait(STOP_WITHIN_S)
        eventually(lambda: not [pid for pid in pids if _lives(pid)], STOP_WITHIN_S)
        self.process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def end(self) -> None:
        """Whatever still runs ends now; for the end of a test that failed."""
        if self.process is not None and self.process.poll() is None:
            self.kill_tree()
        self.engine.dispose()

    def reconcile(self, *options: str) -> int:
        """`steward reconcile`: the exit code, 1 for a gap."""
        return run_command(self.environ, "reconcile", *options).returncode


def install(
    address: PostgresAddress, folder: Path, provider_port: int, settings: Mapping[str, str] | None = None
) -> Installation:
    """Migrates the database and makes the keys. `address`: how the test reaches it; the same for the Steward, unless
    `settings` say otherwise.
    """
    environ = {
        **_environ(address, folder, f"http://127.0.0.1:{provider_port}"),
        "AFTER_RESPONSE": "spool",
        "SPOOL_DIR": str(folder / "spool"),
        "WORKERS": "2",
        "PORT": str(_free_port()),
        "OPS_PORT": str(_free_port()),
        "LOG_LEVEL": "warning",
        **(settings or {}),
    }
    keyring = Keyring(Secret(bytes.fromhex(environ["ENCRYPTION_KEY"])))
    engine = open_engine(address)
    migrate(engine, keyring)
    directory = PostgresDirectory(engine, keyring)
    keys = ["mdm_sk_" + secrets.token_urlsafe(32) for _ in range(KEYS)]
    for number, key in enumerate(keys):
        directory.create_key(LOCAL_ORG, f"caller {number:02}", hashlib.sha256(key.encode()).hexdigest())
    return Installation(environ, folder, int(environ["PORT"]), engine, keys)


def key_numbers(engine: Engine) -> dict[Any, int]:
    """The id of each key that `install` made -> its place among the keys."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, name FROM api_keys WHERE name LIKE 'caller %'"))
        return {row.id: int(row.name.removeprefix("caller ")) for row in found}


def _holders(path: Path) -> list[int]:
    """The processes that hold a `flock` on a file, as the kernel lists them (proc(5), /proc/locks)."""
    try:
        inode = path.stat().st_ino
    except OSError:
        return []
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        _, *fields = line.split()
        if fields[0] == "FLOCK" and int(fields[4].rsplit(":", 1)[1]) == inode:
            found.append(int(fields[3]))
    return found


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
