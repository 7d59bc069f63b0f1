"""`make soak`: ten minutes of 300 calls a second beside 200 open streams; every process's memory and descriptors.

It prints the figures and fails where one grows, or where a call is missing in the end. It measures no speed.

`python -m tests.faults.soak [MINUTES]`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from steward.adapters.postgres_local import LocalPostgres
from tests.faults.loop_thread import LoopThread
from tests.faults.plays import Kind
from tests.faults.scene import Scene
from tests.servers.waiting import eventually

MINUTES = 10.0
RATE = 300
STREAMS = 200
LOOK_EVERY_S = 2.0
WARM_PART = 0.2
"""Of the time: what is loaded and filled for the first time is not growth."""
GROWTH = 1.10
GROWTH_MB = 8.0
MORE_DESCRIPTORS = 16
"""Connections and files in work come and go; a leak at this load is thousands."""
MB = 1 << 20


@dataclass
class Watched:
    """One process, looked at again and again."""

    role: str
    pid: int
    memory_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Resident memory and open descriptors as they are now."""
        process = psutil.Process(self.pid)
        self.memory_mb.append(process.memory_info().rss / MB)
        self.descriptors.append(process.num_fds())

    def line(self) -> str:
        """The figures, for people."""
        (first, last), (few, many) = _ends(self.memory_mb), _ends(self.descriptors)
        return (
            f"  {self.role:10} {self.pid:>7}   memory {first:7.1f} -> {last:7.1f} MB (most {max(self.memory_mb):7.1f})"
            f"   descriptors {few:5.0f} -> {many:5.0f} (most {max(self.descriptors)})"
        )

    def grew(self) -> bool:
        """More at the end than once it was warm."""
        (first, last), (few, many) = _ends(self.memory_mb), _ends(self.descriptors)
        return last > first * GROWTH + GROWTH_MB or many > few + MORE_DESCRIPTORS


def _ends(values: list[float] | list[int]) -> tuple[float, float]:
    """The medians of the first and the last quarter, what came before it was warm left out."""
    warm = values[int(len(values) * WARM_PART) :]
    quarter = max(1, len(warm) // 4)
    return statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])


def main(minutes: float) -> int:
    """Returns the exit code: 1 when something grew. Raises AssertionError when a call is missing."""
    with _scene() as scene:
        steward = scene.steward
        steward.start()
        calls = scene.load(RATE, (*[Kind.PLAIN] * 19, Kind.LARGE), keep=False)
        streams = scene.load(0, [Kind.OPEN], callers=STREAMS, keep=False)
        eventually(lambda: steward.settler() is not None and len(steward.relays()) == 2, 60)
        watched = _watched(scene)
        print(f"{minutes:g} minutes, {RATE} calls/s, {STREAMS} open streams", flush=True)
        _watch(watched, minutes * 60, scene)
        account = scene.settle(within_s=300, one_body_in=50)
        print(f"  calls: {calls.served:,} and {streams.served:,} streams served whole; {account}")
        for each in watched:
            print(each.line())
        said = [each.role for each in watched if each.grew()]
        died = {each.pid for each in watched} - set(steward.tree())
        steward.stop()
        print(f"  grew: {', '.join(said) or 'none'}; died: {len(died)}")
        return 1 if said or died else 0


def _watched(scene: Scene) -> list[Watched]:
    steward = scene.steward
    roles = {steward.settler(): "settler", **dict.fromkeys(steward.relays(), "relay")}
    return [Watched(roles.get(pid, "parent"), pid) for pid in steward.tree()]


def _watch(watched: list[Watched], seconds: float, scene: Scene) -> None:
    """Looks at all of them until the time is over."""
    began = looked = time.monotonic()

    def over() -> bool:
        nonlocal looked
        now = time.monotonic()
        if now >= looked:
            looked += LOOK_EVERY_S
            for each in watched:
                each.look()
        return now >= began + seconds

    eventually(over, seconds + 60)


@contextmanager
def _scene() -> Iterator[Scene]:
    with (
        tempfile.TemporaryDirectory(prefix="steward-soak-") as folder,
        LocalPostgres(tcp=True, for_tests=True) as server,
        LoopThread() as running,
    ):
        scene = Scene(running, server, Path(folder), {})
        try:
            yield scene
        finally:
            scene.end()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES))
