"""The parent of the processes, in processes of its own: who is restarted, who is told when, who is ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from handlers import supervisor
from tests.servers.steward import REPOSITORY
from tests.servers.waiting import eventually

WITHIN_S = 30.0

PROGRAM = """
import ctypes, os, signal, sys, threading, time
from handlers.supervisor import Child, StopTimes, Supervisor
from steward import log

log.configure()
kinds = sys.argv[1].split()
times = StopTimes(*map(float, sys.argv[2:5]))

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def child(kind, index):
    def run():
        if kind == "forks" and os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
            say("orphan", index, "started", os.getpid())
            while True:
                signal.pause()
        heard = []
        def told(number, frame):
            heard.append(number)
            say(kind, index, "told", len(heard), signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        signal.signal(signal.SIGTERM, told)
        say(kind, index, "started", os.getpid())
        if kind == "fails":
            raise ValueError("CANARY")
        while len(heard) < {"stubborn": 99, "patient": 2}.get(kind, 1):
            time.sleep(0.01)  # no pause(): what is told just before it would never end it
        say(kind, index, "ends")
        return 0
    return Child(run, index, settles=kind == "settler", views=kind == "viewer")

if "forks" in kinds:
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: as PID 1, it inherits those whose parent is gone
say("parent", os.getpid())
made = [child(kind, index) for index, kind in enumerate(kinds)]
code = Supervisor(made, times, lambda: say("closed")).run()
say("over", code)
"""


class Family:
    """One parent with children of these kinds, its words in a file."""

    def __init__(self, folder: Path, kinds: str, relays_s: float = 60, beyond_s: float = 60) -> None:
        self._words = folder / "words"
        self._log = folder / "log"
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", PROGRAM, kinds, str(relays_s), "60", str(beyond_s)]
        with self._words.open("wb") as out, self._log.open("wb") as err:
            self.process = subprocess.Popen(command, env=environ, cwd="/", stdout=out, stderr=err)

    def said(self) -> list[str]:
        return self._words.read_text().splitlines()

    def log(self) -> str:
        return self._log.read_text()

    def pids(self, kind: str) -> list[int]:
        """Of every child of that kind that ever started."""
        return [int(found[1]) for line in self.said() if (found := re.fullmatch(rf"{kind} \d+ started (\d+)", line))]

    def waits_for(self, line: str, times: int = 1) -> None:
        eventually(lambda: sum(line in each for each in self.said()) >= times, WITHIN_S)

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ends(self) -> list[str]:
        """Well, and with nobody left; what was said."""
        assert self.process.wait(WITHIN_S) == 0, self.log()
        lives = [int(pid) for line in self.said() if (pid := line.partition("started ")[2])]
        assert not [pid for pid in lives if psutil.pid_exists(pid)]
        assert self.said()[-1] == "over 0"
        return self.said()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Callable[..., Family]]:
    made: list[Family] = []

    def start(*args: object, **kwargs: object) -> Family:
        made.append(Family(tmp_path, *args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def test_no_signal_is_lost_while_it_begins_to_hear_or_ends_to() -> None:
    """Told before and after each of its steps: whoever heard before hears it, or the socket does."""
    before: list[int] = []
    steps: list[bool] = []

    def tell(frame: FrameType, event: str, step: Any) -> None:
        if frame.f_code is not supervisor._heard.__wrapped__.__code__ or not event.startswith("c_"):  # type: ignore[attr-defined]
            return
        hearing, told = frame.f_locals.get("hearing"), len(before)
        signal.raise_signal(signal.SIGTERM)
        octets = b""
        if hearing is not None and hearing.fileno() >= 0:
            with suppress(BlockingIOError):
                octets = hearing.recv(4096, socket.MSG_DONTWAIT)
        steps.append(len(before) > told or signal.SIGTERM in octets)

    usual = signal.signal(signal.SIGTERM, lambda number, frame: before.append(number))
    sys.setprofile(tell)
    try:
        with supervisor._heard():
            pass
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGTERM, usual)
    assert len(steps) > 5 and all(steps)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_settling_process_is_told_once_all_others_have_ended(
    family: Callable[..., Family], number: signal.Signals
) -> None:
    """And what only children shall hold on to is let go of first."""
    running = family("relay relay settler")
    running.waits_for("started", 3)
    running.tell(number)
    said = [line for line in running.ends() if "started" not in line and "parent" not in line]
    assert said[0] == "closed"
    assert said[-3:] == ["settler 2 told 1 True", "settler 2 ends", "over 0"]
    assert set(said[1:5]) == {f"relay {index} {word}" for index in (0, 1) for word in ("told 1 True", "ends")}
    assert "died" not in running.log()


def test_what_dies_is_restarted_and_said(family: Callable[..., Family]) -> None:
    running = family("relay viewer settler")
    for kind in ("relay", "viewer", "settler"):
        running.waits_for(f"{kind} ")
        eventually(lambda kind=kind: len(running.pids(kind)) == 1, WITHIN_S)  # type: ignore[misc]
        os.kill(running.pids(kind)[0], signal.SIGKILL)
        eventually(lambda kind=kind: len(running.pids(kind)) == 2, WITHIN_S)  # type: ignore[misc]
    running.tell()
    running.ends()
    assert [running.log().count(f'"{word}_died"') for word in ("worker", "viewer", "settler")] == [1, 1, 1]
    assert '"status":-9' in running.log()


def test_a_child_that_fails_says_no_words_and_is_tried_again(family: Callable[..., Family]) -> None:
    running = family("fails settler")
    running.waits_for("fails 0 started", 2)
    running.waits_for("settler 1 started")
    running.tell()
    running.ends()
    assert '"worker_failed"' in running.log() and '"ValueError"' in running.log()
    assert "CANARY" not in running.log()


def test_a_second_signal_is_passed_on_to_those_that_run(family: Callable[..., Family]) -> None:
    running = family("relay patient settler")
    running.waits_for("started", 3)
    running.tell()
    running.waits_for("patient 1 told 1")
    running.waits_for("relay 0 ends")
    assert not [line for line in running.said() if "settler" in line and "told" in line]
    running.tell()
    said = running.ends()
    assert "patient 1 told 2 True" in said
    assert said.index("patient 1 ends") < said.index("settler 2 told 1 True")


def test_who_does_not_end_in_time_is_ended(family: Callable[..., Family]) -> None:
    running = family("stubborn settler", relays_s=0.1, beyond_s=0.1)
    running.waits_for("started", 2)
    running.tell()
    said = running.ends()
    assert "stubborn 0 told 1 True" in said
    assert "stubborn 0 ends" not in said
    assert said[-2] == "settler 1 ends"


def test_a_parent_that_is_killed_tells_its_children(family: Callable[..., Family]) -> None:
    running = family("relay settler")
    running.waits_for("started", 2)
    running.process.kill()
    running.process.wait()
    running.waits_for("ends", 2)
    pids = [*running.pids("relay"), *running.pids("settler")]
    eventually(lambda: not [pid for pid in pids if psutil.pid_exists(pid)], WITHIN_S)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody but PID 1 inherits processes")
def test_those_whose_parent_is_gone_are_reaped(family: Callable[..., Family]) -> None:
    """As PID 1 must, or a container fills with zombies."""
    running = family("forks settler")
    running.waits_for("started", 3)
    [orphan], [relay] = running.pids("orphan"), running.pids("forks")
    os.kill(relay, signal.SIGKILL)
    eventually(lambda: psutil.Process(orphan).ppid() == running.process.pid, WITHIN_S)
    os.kill(orphan, signal.SIGTERM)
    eventually(lambda: not psutil.pid_exists(orphan), WITHIN_S)
    assert running.log().count('"worker_died"') == 1
    for pid in running.pids("orphan"):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGTERM)
    running.waits_for("forks 0 started", 2)
    eventually(lambda: len(running.pids("orphan")) == 2, WITHIN_S)
    second = running.pids("orphan")[1]
    os.kill(second, signal.SIGTERM)
    eventually(lambda: psutil.Process(second).status() == psutil.STATUS_ZOMBIE, WITHIN_S)  # its parent looks at nobody
    running.tell()
    running.ends()
