"""The settler's end of a queue, beyond its contract: its threads, its bounds, and what it gives back."""

from __future__ import annotations

from functools import cache

import pytest

from steward.adapters.queue_reader import QueueReader, ReaderLimits
from steward.carrier import MemoryCarrier
from steward.errors import QueueUnavailable
from steward.price import PriceBook, bundled
from tests.messages import House, call
from tests.servers.waiting import eventually


@cache
def prices() -> PriceBook:
    return bundled()


@pytest.fixture
def house() -> House:
    return House(prices())


def filled(house: House, count: int) -> MemoryCarrier:
    queue = MemoryCarrier()
    for _ in range(count):
        one = call()
        queue.send(house.text(one), one.id)
    return queue


def test_its_threads_ask_only_once_it_is_ready_and_end_with_it(house: House) -> None:
    queue, ready = filled(house, 3), [False]
    limits = ReaderLimits(wait_s=0.01, pause_s=0.01)
    reader = QueueReader(queue, house.claims, limits=limits)
    reader.start(lambda: ready[0])
    assert reader.take(10, 1 << 20) == []
    ready[0] = True
    taken: list[object] = []

    def all_came() -> bool:
        taken.extend(reader.take(10, 1 << 20))
        return len(taken) == 3

    eventually(all_came)
    eventually(lambda: reader.depth().items == 3)
    reader.close()
    assert len(queue.receive(10, 0, 60)) == 3, "what was in hand is there for others, at once"


def test_it_holds_no_more_than_its_bound(house: House) -> None:
    queue = filled(house, 30)
    reader = QueueReader(queue, house.claims, limits=ReaderLimits(held=10))
    handed = reader.take(100, 1 << 30)
    assert len(handed) == 10
    assert reader.take(100, 1 << 30) == []
    assert len(queue.receive(100, 0, 60)) == 20
    reader.done(handed[:4])
    assert reader.depth().items == 26
    reader.close()


def test_bodies_that_wait_leave_room_for_new_calls(house: House) -> None:
    queue = filled(house, 10)
    reader = QueueReader(queue, house.claims, limits=ReaderLimits(held=10, bodies=4, back_s=0))
    handed = reader.take(100, 1 << 30)
    reader.later(handed, recorded=True)
    assert len(reader.take_bodies(100, 1 << 30)) == 4
    assert len(reader.take(100, 1 << 30)) == 6, "those went back into the queue and come again"
    reader.close()


def test_what_is_in_hand_stays_hidden_as_long_as_it_takes(house: House) -> None:
    queue = filled(house, 1)
    clock = [0.0]
    queue.now = lambda: clock[0]
    reader = QueueReader(queue, house.claims, limits=ReaderLimits(hidden_s=1))
    [handed] = reader.take(10, 1 << 20)
    reader._held[handed.token.delivery.receipt].hidden_until = 0.0  # type: ignore[attr-defined]
    clock[0] = 0.9
    reader.keep_hidden()
    clock[0] = 1.5
    assert queue.receive(10, 0, 60) == []
    reader.close()


def test_what_fails_is_counted_once_however_often_it_is_handed_out(house: House) -> None:
    queue = filled(house, 2)
    reader = QueueReader(queue, house.claims, limits=ReaderLimits(failed_s=0))
    for _ in range(3):
        for handed in reader.take(10, 1 << 20):
            reader.set_aside(handed, "poison")
    assert reader.depth().set_aside == 2
    reader.done(reader.take(1, 1 << 20))
    assert reader.depth().set_aside == 1, "what is settled in the end was never set aside"
    reader.close()


def test_a_queue_that_is_away_is_said_and_asked_again(house: House) -> None:
    queue = filled(house, 1)
    queue.fault = QueueUnavailable()
    reader = QueueReader(queue, house.claims)
    assert reader.take(10, 1 << 20) == []
    assert reader.depth().items == 0
    queue.fault = None
    [handed] = reader.take(10, 1 << 20)
    queue.fault = QueueUnavailable()
    with pytest.raises(QueueUnavailable):
        reader.done([handed])
    reader.keep_hidden()
    queue.fault = None
    reader.done([handed])
    assert queue.depth() == 0
    reader.close()
