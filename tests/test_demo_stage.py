"""What the demo sets up: ports that are free or refused in one line, a story a step a line, processes that end."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from steward.demo_stage import HOST, Teller, free_port, near, pause, running
from steward.errors import SettingError, StewardError


def test_a_port_in_use_is_refused_and_the_next_one_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"{port} is in use; take another with: PORT={port + 1}"):
            free_port(port)
    assert free_port(port) == port
    assert free_port(0) > 0


def test_a_step_that_fails_ends_its_line_and_is_not_hidden() -> None:
    out = io.StringIO()
    teller = Teller(out)
    with teller.step("one thing", "done"):
        pass
    with pytest.raises(StewardError), teller.step("another", "done"):
        raise StewardError("no luck")
    first, second = out.getvalue().splitlines()
    assert "one thing" in first
    assert "done" in first
    assert second.endswith("no")


def test_a_command_runs_in_processes_of_its_own_and_ends_with_the_block(tmp_path: Path) -> None:
    log = tmp_path / "said.log"
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "9", "ENCRYPTION_KEY": "0123456789abcdef" * 4}
    environ |= {"PORT": "0", "SPOOL_DIR": str(tmp_path / "spool"), "SHUTDOWN_DELAY": "0"}
    with running(["serve"], environ, log) as process:
        until = time.monotonic() + 60
        while b"listening" not in log.read_bytes():
            pause(process, 0.05, log)
            assert time.monotonic() < until, log.read_text()
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert not any(each.is_running() for each in family)


def test_one_that_ends_by_itself_is_said_with_the_log_to_look_at(tmp_path: Path) -> None:
    log = tmp_path / "said.log"
    with running(["no-such-command"], {"PATH": os.environ["PATH"]}, log) as process:
        process.wait(60)
        with pytest.raises(StewardError, match="said.log"):
            pause(process, 1.0, log)
    assert b"no-such-command" in log.read_bytes()


def test_a_path_is_told_as_one_would_type_it() -> None:
    assert near(Path.cwd() / "a" / "b") == str(Path("a") / "b")
    assert near(Path("/elsewhere/b")) == "/elsewhere/b"
