"""Nobody waits longer than a read may take, and one slow store keeps nobody from another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from steward.errors import BodyNotFound, StoreSlow
from steward.timed_reads import TimedReads
from tests.servers.waiting import eventually


class Slow:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()

    def __call__(self) -> bytes:
        self.asked += 1
        assert self.answers.wait(60)
        return b"late"


@pytest.fixture
def slow() -> Iterator[Slow]:
    it = Slow()
    yield it
    it.answers.set()


def test_what_is_read_in_time_is_handed_on_and_so_is_a_fault() -> None:
    reads = TimedReads()

    def missing() -> bytes:
        raise BodyNotFound

    def impatient() -> bytes:
        raise TimeoutError("the store's own")

    assert reads.read("a", lambda: b"x") == b"x"
    with pytest.raises(BodyNotFound):
        reads.read("a", missing)
    with pytest.raises(TimeoutError):
        reads.read("a", impatient)


def test_a_store_that_does_not_answer_is_left_and_another_is_read(slow: Slow) -> None:
    reads = TimedReads(within_s=0.01, room_s=0.01, at_once=2)
    for _ in range(4):
        with pytest.raises(StoreSlow):
            reads.read("slow", slow)
    assert slow.asked == 2, "no more than its room is ever in hand"
    assert reads.read("other", lambda: b"x") == b"x"


def test_a_store_that_comes_back_has_its_room_again(slow: Slow) -> None:
    reads = TimedReads(within_s=0.01, room_s=0.01, at_once=1)
    with pytest.raises(StoreSlow):
        reads.read("slow", slow)
    slow.answers.set()

    def again() -> bool:
        try:
            return reads.read("slow", lambda: b"x") == b"x"
        except StoreSlow:
            return False

    eventually(again)


def test_whoever_waits_for_room_gets_it_as_soon_as_there_is_some(slow: Slow) -> None:
    reads, told = TimedReads(within_s=60, room_s=60, at_once=1), []
    first = threading.Thread(target=lambda: told.append(reads.read("s", slow)))
    second = threading.Thread(target=lambda: told.append(reads.read("s", lambda: b"second")))
    first.start()
    eventually(lambda: slow.asked == 1)
    second.start()
    assert told == []
    slow.answers.set()
    first.join(60)
    second.join(60)
    assert sorted(told) == [b"late", b"second"]
