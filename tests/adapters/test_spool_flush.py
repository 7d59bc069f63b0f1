"""The thread behind the writer: it syncs and closes what it is given, sees what is gone, and outlives a bad disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from steward.adapters.spool_files import Folder, new_relay, open_spool, segment_name
from steward.adapters.spool_flush import Flusher
from tests.servers.waiting import eventually

WITHIN_S = 60.0
"""A disk that others use as well may keep a flush waiting for seconds."""

Make = Callable[..., Flusher]


def nothing() -> None:
    """Nothing to look at."""


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Folder]:
    with closing(open_spool(tmp_path / "spool")) as made:
        yield made


@pytest.fixture
def relay(spool: Folder) -> Iterator[Folder]:
    made, owner = new_relay(spool)
    yield made
    os.close(owner)
    made.close()


@pytest.fixture
def make(spool: Folder, relay: Folder) -> Iterator[Make]:
    begun: list[Flusher] = []

    def made(on_round: Callable[[], None] = nothing) -> Flusher:
        begun.append(Flusher(spool, relay, 0.005, on_round))
        return begun[-1]

    yield made
    for each in begun:
        each.stop()


def open_now(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_what_nobody_writes_to_any_more_is_closed(relay: Folder, make: Make) -> None:
    flusher = make()
    flusher.start()
    files = [relay.create(name) for name in "abc"]
    flusher.retired.extend(files)
    eventually(lambda: not any(open_now(each) for each in files), WITHIN_S)
    assert not flusher.retired


def test_what_is_appended_to_is_synced_and_stays_open(relay: Folder, make: Make) -> None:
    flusher = make()
    flusher.current = relay.create("a")
    flusher.start()
    flusher.dirty = flusher.named = True
    eventually(lambda: not flusher.dirty and not flusher.named, WITHIN_S)
    assert open_now(flusher.current)
    os.close(flusher.current)


def test_stopping_finishes_what_was_handed_over(relay: Folder, make: Make) -> None:
    flusher = make()
    flusher.start()
    flusher.current, retired = relay.create("a"), relay.create("b")
    flusher.dirty = True
    flusher.retired.append(retired)
    flusher.stop()
    assert (flusher.dirty, len(flusher.retired), open_now(retired)) == (False, 0, False)
    os.close(flusher.current)


def test_it_sees_which_segments_are_gone(relay: Folder, make: Make) -> None:
    rounds = threading.Semaphore(0)
    flusher = make(rounds.release)
    for number in (1, 2, 3):
        os.close(relay.create(segment_name(number)))
    flusher.watched = frozenset({1, 2})
    flusher.start()
    assert rounds.acquire(timeout=WITHIN_S)
    assert flusher.gone == frozenset()
    relay.remove(segment_name(2))
    relay.remove(segment_name(3))
    eventually(lambda: flusher.gone == frozenset({2}), WITHIN_S)


def test_it_measures_what_others_have(spool: Folder, relay: Folder, make: Make) -> None:
    for folder, size in ((relay, 300_000), (spool, 100_000)):
        handle = folder.create("file")
        os.write(handle, b"x" * size)
        os.fsync(handle)
        os.close(handle)
    flusher = make()
    flusher.start()
    assert 100_000 <= flusher.others < 200_000


def test_a_disk_that_fails_is_said_once_and_tried_again(
    relay: Folder, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []

    def said() -> int:
        heard.append("".join(capfd.readouterr()))
        return "".join(heard).count("spool_disk_failed")

    flusher = make()
    reader, writer = os.pipe()  # what cannot be synced
    flusher.current = writer
    flusher.dirty = True
    flusher.start()
    eventually(said, WITHIN_S)
    flusher.current = relay.create("a")
    eventually(lambda: not flusher.dirty, WITHIN_S)
    assert said() == 1
    for descriptor in (reader, writer, flusher.current):
        os.close(descriptor)
