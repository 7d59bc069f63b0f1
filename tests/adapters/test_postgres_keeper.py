"""The keeper: what it runs ends as it says, and ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from steward.adapters import postgres_keeper
from tests.servers.waiting import eventually

SCRIPT = postgres_keeper.__file__
SLEEP = ["/bin/sleep", "600"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def keeper(*command: str, user: str = "-") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", SCRIPT, user, user, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def child_of(process: subprocess.Popen[bytes], name: str) -> psutil.Process:
    """The kept program, once it is the program."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [child for child in psutil.Process(process.pid).children() if child.name() == name]
        return bool(found)

    eventually(there)
    return found[0]


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)])
def test_it_ends_as_the_program_does(script: str, status: int) -> None:
    with keeper("/bin/sh", "-c", script) as process:
        assert process.wait(10) == status


def test_a_program_that_is_not_there_is_127() -> None:
    with keeper("/nonexistent/program") as process:
        assert process.wait(10) == 127


def test_the_program_ends_when_the_lifeline_does() -> None:
    with keeper(*SLEEP) as process:
        child = child_of(process, "sleep")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 128 + signal.SIGINT
        assert gone(child)


def test_the_program_ends_when_the_keeper_is_killed() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    with keeper(*SLEEP) as process:
        child = child_of(process, "sleep")
        process.kill()
        eventually(lambda: gone(child))


def test_signals_from_a_terminal_end_nothing() -> None:
    with keeper(*SLEEP) as process:
        child = child_of(process, "sleep")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
        assert process.poll() is None
        assert not gone(child)


def test_the_program_reads_nothing_and_starts_at_the_root() -> None:
    with keeper("/bin/sh", "-c", "cat; pwd") as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"/\n"


@as_root
def test_root_becomes_another_user_for_good() -> None:
    with keeper("/bin/sh", "-c", "id -u; id -g; id -G; cat /proc/self/status", user="65534") as process:
        assert process.stdout is not None
        said = process.stdout.read().decode().split("\n")
    assert said[:3] == ["65534", "65534", "65534"]
    assert [line for line in said if line.startswith("CapEff")] == ["CapEff:\t0000000000000000"]


def test_it_imports_nothing_of_ours() -> None:
    assert "steward" not in Path(SCRIPT).read_text().split('"""', 2)[2]
