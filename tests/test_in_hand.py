"""How the queue is told: together where it can be, alone where it must be, again where it could not hear."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import uuid4

import pytest

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_settled import MemoryQueue, MemorySettled
from steward.backoff import Backoff
from steward.exchange import Body, Exchange, Intent
from steward.in_hand import Call, End, Marks, forget_bodies
from steward.ports import Handed
from steward.price import bundled
from steward.settle import Settler
from steward.stores import OneStore
from tests.exchanges import exchange, route
from tests.said import Said, listening

CHAT = route("/v1/chat/completions")
CANARY = "CANARY-4b1d"


class Deaf(MemorySettled):
    """A queue that cannot be told some things."""

    def __init__(self, queue: MemoryQueue) -> None:
        super().__init__(queue)
        self.full = False
        self.poison: set[int] = set()
        self.told = 0

    def done(self, handed: Sequence[Handed]) -> None:
        self.told += 1
        if self.full:
            raise OSError(28, CANARY)
        super().done(handed)

    def set_aside(self, handed: Handed, code: str) -> None:
        if handed.item.id.int in self.poison:
            raise ValueError(CANARY)
        full, self.full = self.full, False
        super().set_aside(handed, code)
        self.full = full


class House:
    """A queue with five calls, all handed out, and what tells it."""

    def __init__(self) -> None:
        self.at = 0.0
        self.queue = MemoryQueue()
        self.ids = [uuid4() for _ in range(5)]
        for each in self.ids:
            self.queue.put(replace(exchange(CHAT, {}), id=each))
        self.settled = Deaf(self.queue)
        self.handed = self.settled.take(5, 1 << 20)
        self.marks = Marks(self.settled, self.backoff(), self.backoff())

    def backoff(self) -> Backoff:
        """On the clock of the house."""
        return Backoff(1.0, 60.0, lambda: self.at, lambda: 1.0)


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


def test_every_end_is_told(house: House) -> None:
    first, second, third, fourth, fifth = house.handed
    house.marks.add(End.DONE, first)
    house.marks.add(End.BODY_WAITS, second)
    house.marks.add(End.NOT_NOW, third)
    house.marks.add(End.SET_ASIDE, fourth, "22P05")
    house.marks.add(End.KEEP_BODY, fifth, "AccessDenied")
    assert house.marks.waiting() == 5
    assert house.marks.flush()
    assert house.marks.waiting() == 0
    assert [each.item.id for each in house.settled.take(9, 1 << 20)] == [third.item.id]
    assert [each.item.id for each in house.settled.take_bodies(9, 1 << 20)] == [second.item.id]
    assert [(key, code) for key, (_, code) in house.queue.set_aside.items()] == [(fourth.item.id, "22P05")]
    assert [(key, code) for key, (_, code) in house.queue.bodies.items()] == [(fifth.item.id, "AccessDenied")]
    assert not house.marks.flush()


def test_what_goes_together_is_told_once(house: House) -> None:
    for handed in house.handed:
        house.marks.add(End.DONE, handed)
    assert house.marks.flush()
    assert house.settled.told == 1
    assert house.settled.depth().items == 0


def test_a_full_disk_is_tried_again_and_nothing_is_forgotten(house: House, said: Said) -> None:
    house.settled.full = True
    house.marks.add(End.DONE, house.handed[0])
    assert not house.marks.flush()
    assert not house.marks.flush()
    assert house.settled.told == 1, "it is left alone for a while"
    house.marks.add(End.DONE, house.handed[1])
    house.marks.add(End.SET_ASIDE, house.handed[2], "x")
    assert house.marks.flush(), "what can be told is told"
    house.at += 1.5
    house.settled.full = False
    assert house.marks.flush()
    assert (house.marks.waiting(), house.settled.depth().items) == (0, 2)
    [line] = said.lines("queue_not_told")
    assert (line["error"], line["count"]) == ("OSError", 1)
    assert CANARY not in said.text


def test_one_that_cannot_be_set_aside_holds_nobody_up(house: House, said: Said) -> None:
    house.settled.poison = {house.handed[0].item.id.int}
    for handed in house.handed[:3]:
        house.marks.add(End.SET_ASIDE, handed, "x")
    house.marks.add(End.DONE, house.handed[3])
    assert house.marks.flush()
    assert (house.marks.waiting(), len(house.queue.set_aside)) == (1, 2)
    house.marks.add(End.DONE, house.handed[4])
    assert house.marks.flush()
    assert house.marks.waiting() == 1
    house.settled.poison.clear()
    house.at += 60
    assert house.marks.flush()
    assert len(house.queue.set_aside) == 3
    assert CANARY not in said.text


def on_disk(data: bytes) -> Body:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - let go of by what is tested
    file.write(data)
    return Body(file=file, size_bytes=len(data))


def test_what_nobody_looks_at_is_known_by_its_intent_alone() -> None:
    call = replace(exchange(CHAT, {}), request=on_disk(b"{}"))
    file = call.request.file
    handed = Handed(call, token=7)
    forget_bodies(handed)
    assert file is not None and file.closed
    assert isinstance(handed.item, Intent)
    assert (handed.item.id, handed.item.caller, handed.token) == (call.id, call.caller, 7)
    forget_bodies(handed)
    assert isinstance(handed.item, Intent)


def test_a_call_weighs_its_bodies_and_files_until_it_lets_go() -> None:
    book = bundled({})
    settler = Settler(MemoryLedger(), OneStore(None), lambda: book)
    small, large = exchange(CHAT, {}), replace(exchange(CHAT, b"x" * 10_000), request=on_disk(b"{}"))

    def a_call(item: Exchange) -> Call:
        return Call(Handed(item), settler.meter(item), None, 0.0)

    call = a_call(large)
    assert call.weight() > a_call(small).weight() + 20_000
    assert call.record.id == large.id
    call.let_go()
    assert (call.weight(), large.response.data, large.request.file) == (a_call(small).weight() - 4, b"", None)
