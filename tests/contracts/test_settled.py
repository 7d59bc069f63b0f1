"""What every Settled promises settle: each call handed out until it is done, in order, whole, and once at a time.

A queue of a cloud's is one, too, but for what such a queue cannot: it holds calls that ended alone, knows no order and
no ages, and forgets with its reader which rows are in. Those stories are told of the others alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID

import pytest

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.memory_settled import MemoryQueue, MemorySettled
from steward.adapters.queue_reader import QueueReader, ReaderLimits
from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_quarantine import Quarantine
from steward.adapters.spool_reader import SpoolReader
from steward.carrier import Carrier, MemoryCarrier
from steward.claims import Claims
from steward.exchange import Body, Exchange, Intent, uuid7
from steward.ports import Handed, Settled
from steward.seal import Keyring
from steward.sealed_message import MessageSealer
from steward.stores import OneStore
from steward.words import Secret
from tests.exchanges import exchange, route
from tests.servers.waiting import eventually

MANY, MUCH = 1000, 1 << 30
LARGE = 300 * 1024
AT_MS = 1_795_000_000_000
KEYRING = Keyring(Secret(bytes(range(32))))


class Queue(Protocol):
    """One implementation, with both its ends."""

    settled: Settled

    def put(self, item: Exchange | Intent) -> None:
        """A call that ended; or one whose process died before its end."""

    def restart(self) -> None:
        """The taker dies, and another takes over."""

    def aside(self) -> dict[UUID, str]:
        """What is in quarantine, with its code."""

    def close(self) -> None: ...


class InACarrier:
    """A queue of a cloud's: here the twin; below, the real ones."""

    def __init__(self, folder: Path, carrier: Carrier | None = None, dead: Carrier | None = None) -> None:
        self._dead = dead or MemoryCarrier()
        assert carrier is not None or isinstance(self._dead, MemoryCarrier)
        self._carrier = carrier or MemoryCarrier(3, self._dead)  # type: ignore[arg-type]
        stores = OneStore(MemoryBodyStore())
        self._claims = Claims(MessageSealer(KEYRING, "calls"), stores, 16 << 10)
        self.settled: Settled = self._reader()

    def _reader(self) -> QueueReader:
        limits = ReaderLimits(failed_s=0, back_s=0, depth_s=0)
        return QueueReader(_Unclosed(self._carrier), self._claims, limits=limits, now=lambda: AT_MS / 1000 + 60)

    def put(self, item: Exchange | Intent) -> None:
        assert isinstance(item, Exchange)
        letter = self._claims.message(item)
        text = letter.text()
        letter.close()
        assert text is not None
        self._carrier.send(text, item.id)

    def restart(self) -> None:
        self.settled.close()
        self.settled = self._reader()

    def aside(self) -> dict[UUID, str]:
        """It comes there after so many tries; why is known to the log alone."""
        found: dict[UUID, str] = {}

        def looked() -> bool:
            self._carrier.receive(10, 0, 0)
            for delivery in self._dead.receive(10, 0, 60):
                found[self._claims.open(delivery.text).id] = ""
            return bool(found)

        eventually(looked)
        return found

    def close(self) -> None:
        self.settled.close()
        self._carrier.close()
        self._dead.close()


class _Unclosed(Carrier):
    """A reader of a queue closes its carrier; here the next reader has the same."""

    def __init__(self, carrier: Carrier) -> None:
        self.send, self.receive, self.done = carrier.send, carrier.receive, carrier.done  # type: ignore[method-assign]
        self.hide, self.depth, self.dead = carrier.hide, carrier.depth, carrier.dead  # type: ignore[method-assign]

    def close(self) -> None:
        """Not now."""


class InMemory:
    """The twin."""

    def __init__(self, folder: Path) -> None:
        self._queue = MemoryQueue()
        self.settled: Settled = MemorySettled(self._queue, lambda: AT_MS / 1000 + 60)

    def put(self, item: Exchange | Intent) -> None:
        self._queue.put(item)

    def restart(self) -> None:
        self.settled = MemorySettled(self._queue, lambda: AT_MS / 1000 + 60)

    def aside(self) -> dict[UUID, str]:
        both = (self._queue.set_aside | self._queue.bodies).items()
        return {request_id: code for request_id, (_, code) in both}

    def close(self) -> None:
        self.settled.close()


class OnDisk:
    """The spool: each intent alone is a relay's that died; what ended is a living one's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "spool"
        self._spool = Spool(self._folder, KEYRING, SpoolLimits(max_bytes=1 << 30, segment_bytes=64 * 1024))
        self.settled: Settled = self._reader()

    def _reader(self) -> SpoolReader:
        reader = SpoolReader(self._folder, KEYRING, lambda: AT_MS / 1000 + 60)
        assert reader.acquire()
        return reader

    def put(self, item: Exchange | Intent) -> None:
        if isinstance(item, Intent):
            dying = Spool(self._folder, KEYRING, SpoolLimits(reserve_bytes=4096))
            dying.intend(item)
            asyncio.run(dying.close())
            return
        self._spool.intend(intent(item))
        self._spool.submit(item)

    def restart(self) -> None:
        self.settled.close()
        self.settled = self._reader()

    def aside(self) -> dict[UUID, str]:
        quarantine = Quarantine(self._folder, KEYRING)
        found = {entry.id: entry.code for entry in quarantine.entries()}
        quarantine.close()
        return found

    def close(self) -> None:
        self.settled.close()
        asyncio.run(self._spool.close())


def over_sqs(folder: Path, request: pytest.FixtureRequest) -> Queue:
    carrier = request.getfixturevalue("sqs_carrier")
    return InACarrier(folder, carrier, carrier.dead())


def over_pubsub(folder: Path, request: pytest.FixtureRequest) -> Queue:
    carrier = request.getfixturevalue("pubsub_carrier")
    return InACarrier(folder, carrier, carrier.dead())


def over_emulator(folder: Path, request: pytest.FixtureRequest) -> Queue:
    carrier = request.getfixturevalue("emulated_carrier")
    return InACarrier(folder, carrier, carrier.dead())


MAKERS: dict[str, Callable[[Path, pytest.FixtureRequest], Queue]] = {
    "memory": lambda folder, _: InMemory(folder),
    "spool": lambda folder, _: OnDisk(folder),
    "carrier": lambda folder, _: InACarrier(folder),
    "sqs": over_sqs,
    "pubsub": over_pubsub,
    "emulated": over_emulator,
}


@pytest.fixture(params=list(MAKERS))
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
    made: str = request.param
    one = MAKERS[made](tmp_path, request)
    yield one
    one.close()


remembering = pytest.mark.parametrize("queue", ["memory", "spool"], indirect=True)
"""Those that hold beginnings, know order and ages, and remember beyond their reader which rows are in."""


def call(number: int, size: int = 100, response: int | None = None) -> Exchange:
    """The call made `number` seconds after `AT_MS`."""
    made = exchange(
        route("/v1/chat/completions"),
        b"r" * (size if response is None else response),
        asked=b"q" * size,
        tags={"team": "\0\ud800"},
    )
    made.id = uuid7(AT_MS + number * 1000, number.to_bytes(10, "big"))
    made.requested_at = datetime.fromtimestamp(AT_MS / 1000 + number, UTC)
    made.request.size_bytes, made.response.size_bytes = len(made.request.data), len(made.response.data)
    return made


def intent(of: Exchange) -> Intent:
    return Intent(of.id, of.caller, of.route, of.requested_at, of.method)


def numbers(handed: list[Handed]) -> list[int]:
    return [((each.item.id.int >> 80) - AT_MS) // 1000 for each in handed]


def test_nothing_waits_at_first(queue: Queue) -> None:
    assert queue.settled.take(MANY, MUCH) == queue.settled.take_bodies(MANY, MUCH) == []
    depth = queue.settled.depth()
    assert (depth.items, depth.size_bytes, depth.oldest_s, depth.bodies, depth.set_aside, depth.lost) == (0,) * 6


@pytest.mark.parametrize("size", [0, 100, LARGE, 2 * LARGE + 1])
def test_a_call_comes_out_as_it_went_in(queue: Queue, size: int) -> None:
    one = call(1, size)
    expected = replace(one, request=Body(), response=Body())
    queue.put(one)
    [handed] = queue.settled.take(MANY, MUCH)
    item = handed.item
    assert isinstance(item, Exchange)
    for side, letter in ((item.request, b"q"), (item.response, b"r")):
        for _ in range(2):
            assert side.content().reveal() == letter * size
        assert (side.size_bytes, side.kept_bytes, side.truncated) == (size, size, False)
    item_alone = replace(item, request=expected.request, response=expected.response)
    assert _plain(item_alone) == _plain(expected)
    assert not handed.recorded
    assert handed.size_bytes >= 2 * size
    queue.settled.done([handed])
    assert item.request.file is None or item.request.file.closed


def _plain(one: Exchange) -> tuple[object, ...]:
    return tuple(
        list(value.items()) if name == "tags" else list(value) if name in {"query", "tags_refused"} else value
        for name in Exchange.__dataclass_fields__
        if name not in {"request", "response"}
        for value in (getattr(one, name),)
    )


@remembering
def test_an_intent_alone_comes_out_as_an_intent(queue: Queue) -> None:
    began = intent(call(1))
    queue.put(began)
    [handed] = queue.settled.take(MANY, MUCH)
    assert isinstance(handed.item, Intent)
    assert [getattr(handed.item, name) for name in Intent.__dataclass_fields__] == [
        getattr(began, name) for name in Intent.__dataclass_fields__
    ]
    queue.settled.done([handed])
    assert queue.settled.take(MANY, MUCH) == []


def test_what_is_handed_out_is_not_handed_out_again_until_it_is_given_back(queue: Queue) -> None:
    queue.put(call(1))
    queue.put(call(2))
    [first] = queue.settled.take(1, MUCH)
    [second] = queue.settled.take(MANY, MUCH)
    assert numbers([first, second]) == [1, 2]
    assert queue.settled.take(MANY, MUCH) == queue.settled.take_bodies(MANY, MUCH) == []
    queue.settled.later([first], recorded=False)
    [again] = queue.settled.take(MANY, MUCH)
    assert numbers([again]) == [1]
    queue.settled.done([again, second])
    assert queue.settled.depth().items == 0


@remembering
def test_the_oldest_come_first_and_no_more_than_asked_for(queue: Queue) -> None:
    for number in range(10):
        queue.put(call(number))
    for number in range(10, 15):
        queue.put(intent(call(number)))
    got: list[int] = []
    while handed := queue.settled.take(4, MUCH):
        assert len(handed) <= 4
        got += numbers(handed)
    assert got == list(range(15))


def test_no_more_octets_than_asked_for_unless_the_first_alone_has_more(queue: Queue) -> None:
    for number, size in enumerate((5000, 5000, LARGE, 100)):
        queue.put(call(number, size))
    assert numbers(queue.settled.take(MANY, 50)) == [0]
    assert numbers(queue.settled.take(MANY, 30_000)) == [1]
    assert numbers(queue.settled.take(MANY, 30_000)) == [2]
    assert numbers(queue.settled.take(MANY, 30_000)) == [3]


def test_a_body_that_waits_is_handed_out_as_such_whole_until_it_is_done(queue: Queue) -> None:
    queue.put(call(1, LARGE))
    [handed] = queue.settled.take(MANY, MUCH)
    for _ in range(2):
        _drain(handed)
        queue.settled.later([handed], recorded=True)
        assert queue.settled.take(MANY, MUCH) == []
        assert queue.settled.depth().bodies == queue.settled.depth().items == 1
        [handed] = queue.settled.take_bodies(MANY, MUCH)
        assert handed.recorded
        assert _drain(handed) == b"q" * LARGE
        handed.item.request.data = b""  # what settle lets go of, it finds again
    queue.settled.later([handed], recorded=False)
    [handed] = queue.settled.take_bodies(MANY, MUCH)
    queue.settled.done([handed])
    assert queue.settled.take_bodies(MANY, MUCH) == []
    assert queue.settled.depth().items == queue.settled.depth().bodies == 0


def _drain(handed: Handed) -> bytes:
    assert isinstance(handed.item, Exchange)
    return handed.item.request.content().reveal()


def test_what_the_taker_let_go_of_is_its_own_affair(queue: Queue) -> None:
    one = call(1, LARGE)
    queue.put(one)
    [handed] = queue.settled.take(MANY, MUCH)
    assert isinstance(handed.item, Exchange)
    handed.item.request.close()
    handed.item.response.close()
    handed.item = intent(one)
    queue.settled.later([handed], recorded=True)
    [body] = queue.settled.take_bodies(MANY, MUCH)
    assert _drain(body) == b"q" * LARGE


@remembering
def test_a_taker_that_dies_loses_nothing_and_doubles_nothing_it_had_settled(queue: Queue) -> None:
    for number in range(4):
        queue.put(call(number))
    queue.put(intent(call(4)))
    settled = queue.settled.take(1, MUCH)
    recorded = queue.settled.take(1, MUCH)
    in_hand = queue.settled.take(2, MUCH)
    queue.settled.done(settled)
    queue.settled.later(recorded, recorded=True)
    assert numbers(in_hand) == [2, 3]
    queue.restart()
    assert numbers(queue.settled.take(MANY, MUCH)) == [2, 3, 4]
    [body] = queue.settled.take_bodies(MANY, MUCH)
    assert numbers([body]) == [1] and body.recorded


def test_done_is_known_after_a_restart_in_whatever_order_it_was_said(queue: Queue) -> None:
    for number in range(50):
        queue.put(call(number, 3000))
    handed = queue.settled.take(MANY, MUCH)
    queue.settled.done(handed[::2])
    queue.restart()
    again = queue.settled.take(MANY, MUCH)
    assert numbers(again) == list(range(1, 50, 2))
    queue.settled.done(again[::-1])
    queue.restart()
    assert queue.settled.take(MANY, MUCH) == []
    assert queue.settled.depth().items == 0


def _codes(queue: Queue, code: str = "poison") -> dict[UUID, str]:
    """A cloud's queue is told no code."""
    found = queue.aside()
    return dict.fromkeys(found, code) if isinstance(queue, InACarrier) else found


@pytest.mark.parametrize("size", [100, LARGE])
def test_poison_is_set_aside_alone(queue: Queue, size: int) -> None:
    for number in range(3):
        queue.put(call(number, size))
    handed = queue.settled.take(MANY, MUCH)
    queue.settled.set_aside(handed[1], "poison")
    queue.settled.done([handed[0], handed[2]])
    assert _codes(queue) == {handed[1].item.id: "poison"}
    assert (queue.settled.depth().set_aside, queue.settled.depth().items) == (1, 0)
    queue.restart()
    assert queue.settled.take(MANY, MUCH) == []
    assert isinstance(queue, InACarrier) or queue.settled.depth().set_aside == 1


@remembering
def test_an_intent_may_be_poison_too(queue: Queue) -> None:
    queue.put(intent(call(1)))
    [handed] = queue.settled.take(MANY, MUCH)
    queue.settled.set_aside(handed, "22021")
    assert queue.aside() == {handed.item.id: "22021"}
    assert queue.settled.take(MANY, MUCH) == []


def test_a_body_refused_for_good_is_kept_aside(queue: Queue) -> None:
    queue.put(call(1, LARGE))
    queue.settled.later(queue.settled.take(MANY, MUCH), recorded=True)
    [handed] = queue.settled.take_bodies(MANY, MUCH)
    queue.settled.keep_body(handed, "NoSuchBucket")
    assert _codes(queue, "NoSuchBucket") == {handed.item.id: "NoSuchBucket"}
    assert queue.settled.take_bodies(MANY, MUCH) == []
    assert (queue.settled.depth().items, queue.settled.depth().set_aside) == (0, 1)


@remembering
def test_the_depth_tells_how_much_waits_and_how_long(queue: Queue) -> None:
    for number in range(3):
        queue.put(call(number, 1000))
    depth = queue.settled.depth()
    assert depth.items == 3
    assert depth.size_bytes >= 6000
    assert depth.oldest_s == pytest.approx(60)
    handed = queue.settled.take(1, MUCH)
    assert queue.settled.depth().items == 3
    queue.settled.done(handed)
    assert queue.settled.depth().oldest_s == pytest.approx(59)


def test_the_depth_counts_what_is_not_settled(queue: Queue) -> None:
    for number in range(3):
        queue.put(call(number))
    handed = queue.settled.take(MANY, MUCH)
    assert queue.settled.depth().items == 3
    assert queue.settled.depth().oldest_s == pytest.approx(60)
    queue.settled.done(handed[:2])
    assert queue.settled.depth().items == 1


def test_nothing_to_say_is_no_error_and_closing_twice_neither(queue: Queue) -> None:
    queue.settled.done([])
    queue.settled.later([], recorded=True)
    queue.settled.later([], recorded=False)
    queue.settled.close()
    queue.settled.close()
