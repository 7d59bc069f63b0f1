"""The embedded server: one's own, on any folder, as any user, and gone when its starter is."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from steward.adapters.postgres_connection import mapped, open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.adapters.postgres_runner import copy_install, runner, wheel_binaries
from steward.errors import LedgerUnavailable
from tests.servers.postgres import address_of
from tests.servers.waiting import eventually

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STARTER = """
import sys, threading
from pathlib import Path
from steward.adapters.postgres_local import LocalPostgres
server = LocalPostgres(Path(sys.argv[1]) if len(sys.argv) > 1 else None, for_tests=True)
server.start()
print(server.host, server.data_folder, flush=True)
threading.Event().wait()
"""

Make = Callable[..., LocalPostgres]
Starter = Callable[..., tuple[subprocess.Popen[str], Path, Path]]


def ask(server: LocalPostgres, sql: str) -> object:
    engine = open_engine(address_of(server))
    try:
        with mapped(), engine.begin() as connection:
            result = connection.exec_driver_sql(sql)
            return result.scalar_one() if result.returns_rows else None
    finally:
        engine.dispose()


def postmaster(data_folder: Path) -> psutil.Process:
    return psutil.Process(int((data_folder / "cluster" / "postmaster.pid").read_text().split("\n")[0]))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def modes(folder: Path) -> list[tuple[Path, int, int, int]]:
    """Mode and owner of a folder and all above it."""
    return [(path, (facts := path.stat()).st_mode, facts.st_uid, facts.st_gid) for path in (folder, *folder.parents)]


def remove(folder: Path) -> None:
    """Takes away a temporary folder of a server's, and nothing that only looks like one."""
    assert folder.is_absolute()
    assert folder.name.startswith("steward-pg-")
    assert len(folder.parts) >= 3
    shutil.rmtree(folder, ignore_errors=True)


def test_it_starts_serves_and_leaves_nothing(local_postgres: Make) -> None:
    server = local_postgres()
    server.start()
    assert "PostgreSQL" in str(ask(server, "SELECT version()"))
    process, sockets, data = postmaster(server.data_folder), Path(server.host), server.data_folder
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert not server.moved
    server.stop()
    server.stop()
    assert gone(process)
    assert not sockets.exists()
    assert not data.exists()


def test_before_its_start_it_has_no_folder_at_all(tmp_path: Path, local_postgres: Make) -> None:
    """Not even a wrong one: whoever removed it would remove something else."""
    server = local_postgres(tmp_path)
    for fact in ("data_folder", "moved", "password"):
        with pytest.raises(LedgerUnavailable, match="not started"):
            getattr(server, fact)
    server.stop()


def test_data_and_password_stay_on_a_folder(server_folder: Path, local_postgres: Make) -> None:
    server = local_postgres(server_folder / "new" / "folder")
    server.start()
    password = server.password
    ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    again = local_postgres(server_folder / "new" / "folder")
    again.start()
    assert ask(again, "SELECT answer FROM kept") == 42
    assert again.password == password
    assert len(password.reveal()) >= 24
    again.stop()


def test_a_folder_has_one_server(server_folder: Path, local_postgres: Make) -> None:
    first, second = local_postgres(server_folder), local_postgres(server_folder)
    first.start()
    with pytest.raises(LedgerUnavailable, match="Another embedded PostgreSQL runs on"):
        second.start()
    assert ask(first, "SELECT 1") == 1
    first.stop()
    second.start()
    assert ask(second, "SELECT 1") == 1
    second.stop()


def test_no_folder_is_changed_and_no_user_is_added(server_folder: Path, local_postgres: Make) -> None:
    folder = server_folder / "ours"
    folder.mkdir(mode=0o751)
    (folder / "ours too").write_text("kept")
    users = Path("/etc/passwd").read_bytes()
    before = [modes(folder), modes(wheel_binaries())]
    server = local_postgres(folder)
    server.start()
    ask(server, "SELECT 1")
    server.stop()
    assert [modes(folder), modes(wheel_binaries())] == before
    assert (folder / "ours too").read_text() == "kept"
    assert Path("/etc/passwd").read_bytes() == users


@on_linux
def test_the_server_runs_unprivileged_and_knows_nothing_of_our_environment(local_postgres: Make) -> None:
    server = local_postgres()
    server.start()
    process = postmaster(server.data_folder)
    assert process.uids().real == process.uids().effective == runner().uid != 0
    assert set(process.environ()) <= {"LC_ALL", "TZ", "PATH", "PGDATA", "PG_GRANDPARENT_PID", "PG_OOM_ADJUST_FILE"}
    assert os.getsid(process.pid) != os.getsid(0), "Ctrl-C in the terminal is not for the database"


@as_root
def test_data_lie_elsewhere_when_the_servers_user_cannot_reach_the_folder(tmp_path: Path, local_postgres: Make) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    server = local_postgres(secret / "data")
    server.start()
    assert server.moved
    elsewhere = server.data_folder
    ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    again = local_postgres(secret / "data")
    again.start()
    assert again.data_folder == elsewhere
    assert ask(again, "SELECT answer FROM kept") == 42
    again.stop()
    remove(elsewhere)


@as_root
def test_a_folder_that_can_be_reached_is_used(server_folder: Path, local_postgres: Make) -> None:
    server = local_postgres(server_folder / "data")
    server.start()
    assert not server.moved
    assert (server_folder / "data") in server.data_folder.parents
    server.stop()


@as_root
def test_programs_below_a_folder_of_roots_alone_are_copied(tmp_path: Path, local_postgres: Make) -> None:
    """As when the virtual environment stands in /root."""
    install = wheel_binaries().parent
    wheel = install.parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    shutil.copytree(install, private / wheel.name / install.name, symlinks=True)
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), private / f"{wheel.name}.libs")
    before = modes(private)
    server = local_postgres(binaries=private / wheel.name / install.name / "bin")
    server.start()
    assert ask(server, "SELECT 1") == 1
    executable = Path(postmaster(server.data_folder).exe())
    assert private not in executable.parents
    assert modes(private) == before
    server.stop()
    assert not executable.exists()


@pytest.fixture
def starter() -> Starter:
    """Starts a server in a process of its own; gives that process, the socket folder and the data folder."""

    def start(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], Path, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        with process.stdout:
            host, data = process.stdout.readline().split()
        return process, Path(host), Path(data)

    return start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_its_starter(
    server_folder: Path, starter: Starter, local_postgres: Make, number: signal.Signals
) -> None:
    process, host, data = starter(str(server_folder))
    server = postmaster(data)
    process.send_signal(number)
    process.wait(10)
    eventually(lambda: gone(server), 60)
    after = local_postgres(server_folder)
    after.start()
    assert ask(after, "SELECT 1") == 1
    after.stop()
    remove(host)


def test_a_long_temporary_folder_is_no_place_for_a_socket(tmp_path: Path, starter: Starter) -> None:
    long = tmp_path / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    process, host, data = starter(TMPDIR=str(long))
    assert len(os.fsencode(host / ".s.PGSQL.65535")) <= 103
    process.kill()
    process.wait(10)
    eventually(lambda: not (data / "cluster" / "postmaster.pid").exists(), 60)
    remove(host)
    remove(data)


@on_linux
def test_a_server_left_over_is_ended_first(server_folder: Path, local_postgres: Make) -> None:
    first = local_postgres(server_folder)
    first.start()
    first.stop()
    cluster = first.data_folder / "cluster"
    note = cluster / "postmaster.pid"
    sockets = server_folder / "sockets"
    sockets.mkdir()
    runner().give(sockets)
    programs = server_folder / "programs"  # a copy: the environment may lie where only its owner reaches
    programs.mkdir()
    command = [
        str(copy_install(wheel_binaries(), programs) / "postgres"),
        "-D",
        str(cluster),
        "-c",
        "listen_addresses=",
    ]
    command += ["-c", f"unix_socket_directories={sockets}"]
    with subprocess.Popen(runner().command(command), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as left:
        eventually(lambda: note.exists() and "ready" in note.read_text(), 60)
        second = local_postgres(server_folder)
        second.start()
        assert left.wait(60) == 0
    assert ask(second, "SELECT 1") == 1
    second.stop()


def test_a_note_of_a_server_long_gone_is_no_server(server_folder: Path, local_postgres: Make) -> None:
    """Pids are used again: in a container that restarts, the same small number is another process."""
    server = local_postgres(server_folder)
    server.start()
    server.stop()
    note = server.data_folder / "cluster" / "postmaster.pid"
    for pid in (os.getpid(), 2**22 + 1):
        note.write_text(f"{pid}\n{note.parent}\n1\n5432\n\n\n\nready\n")
        server.start()
        assert ask(server, "SELECT 1") == 1
        server.stop()


def test_a_cluster_half_made_is_begun_anew(server_folder: Path, local_postgres: Make) -> None:
    server = local_postgres(server_folder)
    server.start()
    server.stop()
    (server.data_folder / "unfinished").touch()
    (server.data_folder / "cluster" / "PG_VERSION").unlink()
    server.start()
    assert ask(server, "SELECT 1") == 1
    assert not (server.data_folder / "unfinished").exists()
    server.stop()


def test_a_folder_of_that_name_that_is_no_cluster_of_ours_is_not_touched(
    server_folder: Path, local_postgres: Make
) -> None:
    precious = server_folder / "postgres" / "cluster" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("kept")
    server = local_postgres(server_folder)
    with pytest.raises(LedgerUnavailable, match="cannot use the folder"):
        server.start()
    assert precious.read_text() == "kept"


def test_a_start_that_fails_is_told_with_its_log_and_leaves_nothing(server_folder: Path, local_postgres: Make) -> None:
    server = local_postgres(server_folder, settings={"shared_buffers": "nonsense"})
    with pytest.raises(LedgerUnavailable, match=r"did not start; see .*postgres\.log"):
        server.start()
    assert "shared_buffers" in (server.data_folder / "postgres.log").read_text()
    assert not Path(server.host).exists()


def test_what_cannot_be_is_told_in_one_line(tmp_path: Path, local_postgres: Make) -> None:
    (tmp_path / "file").write_text("")
    for server, told in (
        (local_postgres(binaries=tmp_path), "programs cannot be run"),
        (local_postgres(tmp_path / "file"), "cannot use the folder"),
    ):
        with pytest.raises(LedgerUnavailable, match=told):
            server.start()


def test_tcp_is_for_who_asks_and_wants_the_password(local_postgres: Make) -> None:
    server = local_postgres(tcp=True)
    server.start()
    assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server, "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules WHERE type = 'host'") == (
        "scram-sha-256"
    )
    quiet = local_postgres()
    quiet.start()
    assert ask(quiet, "SHOW listen_addresses") == ""
    assert quiet.tcp_port is None
