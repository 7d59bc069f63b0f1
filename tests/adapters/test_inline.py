"""Settling beside the relay: who waits for what, what survives an outage, what is given up, and that it is said."""

from __future__ import annotations

import asyncio
import gc
import random
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import psutil  # type: ignore[import-untyped]
import pytest
import uvloop

from steward.adapters.inline import Inline, InlineLimits
from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.body_object import build
from steward.errors import LedgerUnavailable, SchemaTooOld, StoreRefused, StoreUnavailable
from steward.exchange import LOCAL_ORG, Body, BodyState, Exchange, Intent, Outcome, Record
from steward.ports import Put, PutResult, Refused
from steward.price import PriceBook, bundled
from steward.settle import Settler
from steward.stores import OneStore
from tests.exchanges import exchange, route
from tests.said import Said, listening
from tests.servers.waiting import eventually_async

CHAT = route("/v1/chat/completions")
ANSWER = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
LIMITS = InlineLimits(intent_wait_s=20.0, outage_pause_s=0.0, backoff_s=0.001, backoff_max_s=0.01, row_wait_s=5.0)
"""No test waits for an intent; one that wants to be kept waiting says how long."""
CANARY = "CANARY-92ce"


@cache
def prices() -> PriceBook:
    """The bundled list."""
    return bundled()


class WatchedLedger(MemoryLedger):
    """Keeps what it was given; fails, or holds its answer back, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Record]] = []
        self.fault: Exception | None = None
        self.fails_after_writing = False
        self.poison: object = None
        """The id of a row on which it breaks."""
        self.answers = threading.Event()
        self.answers.set()
        self.inside = 0

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        self.batches.append(list(batch))
        self.inside += 1
        try:
            assert self.answers.wait(30)
        finally:
            self.inside -= 1
        if self.fault is not None and not self.fails_after_writing:
            raise self.fault
        if any(row.id == self.poison for row in batch):
            raise ValueError(CANARY)
        refused = super().record(batch)
        if self.fault is not None:
            raise self.fault
        return refused

    def intents(self) -> list[list[Record]]:
        """The batches of intents."""
        return [batch for batch in self.batches if batch[0].outcome is Outcome.INTERRUPTED]

    def rows(self) -> list[Record]:
        """The rows whose outcome is known, newest first."""
        rows = [row.record for row in self.newest(LOCAL_ORG, 10_000)]
        return [row for row in rows if row.outcome is not Outcome.INTERRUPTED]

    def at(self, call: Exchange) -> Record | None:
        """The row of a call."""
        row = self.get(LOCAL_ORG, call.id)
        return None if row is None else row.record


class House:
    """An Inline with its ledger and its store, within a running loop."""

    def __init__(self, limits: InlineLimits = LIMITS, bodies: MemoryBodyStore | None = None) -> None:
        self.ledger = WatchedLedger()
        self.bodies = bodies or MemoryBodyStore()
        self.inline = Inline(Settler(self.ledger, OneStore(self.bodies), prices), self.ledger, limits)

    def intend(self, call: Exchange) -> None:
        """As the proxy does, before the first byte goes out."""
        self.inline.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))

    async def relay(self, call: Exchange) -> Exchange:
        """A whole call."""
        self.intend(call)
        await self.submit(call)
        return call

    async def submit(self, call: Exchange) -> None:
        """As the proxy does, before the last piece."""
        waits = self.inline.submit(call)
        if waits is not None:
            await waits

    async def until(self, condition: Callable[[], object]) -> None:
        """The threads are at work meanwhile."""
        await eventually_async(condition, 20)

    async def idle(self) -> None:
        """Everything is settled."""
        await self.until(lambda: self.inline.waiting() == 0)


Story = Callable[[House], Coroutine[Any, Any, None]]


def play(story: Story, limits: InlineLimits = LIMITS, loop: Any = None, bodies: MemoryBodyStore | None = None) -> House:
    """Tells the story and closes; the threads must have ended then."""

    async def told() -> House:
        it = House(limits, bodies)
        try:
            async with asyncio.timeout(30):
                await story(it)
        finally:
            it.ledger.answers.set()
            await it.inline.close()
        return it

    others = set(threading.enumerate())
    with asyncio.Runner(loop_factory=loop) as runner:
        it = runner.run(told())
    assert not [thread for thread in running() if thread not in others]
    return it


def running() -> list[threading.Thread]:
    """Threads of an Inline that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("steward-")]


def a_call(answer: object = ANSWER, **facts: Any) -> Exchange:
    """A call with an id of its own; later ones have later ids."""
    return replace(exchange(CHAT, answer, asked={"model": "gpt-4o-mini"}), id=uuid4(), **facts)


def numbered(count: int, answer: object = ANSWER) -> list[Exchange]:
    """Calls whose ids are in the order of the list."""
    return [replace(exchange(CHAT, answer), id=UUID(int=number + 1)) for number in range(count)]


def on_disk(data: bytes = b"{}") -> Body:
    """One side, captured to a file."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever settles closes it
    file.write(data)
    return Body(file=file, size_bytes=len(data))


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    """What the log says."""
    with listening() as heard:
        yield heard


def total(said: Said, event: str) -> int:
    """The sum of the counts of an event's lines."""
    return sum(line["count"] for line in said.lines(event))


# the usual day


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_every_call_has_its_row_and_its_body(loop: Any, said: Said) -> None:
    async def story(it: House) -> None:
        calls = await asyncio.gather(*(it.relay(a_call()) for _ in range(200)))
        await it.idle()
        assert {row.id for row in it.ledger.rows()} == {call.id for call in calls}
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.STORED}
        assert len(it.bodies.objects) == 200

    play(story, loop=loop)
    assert len(said.lines("call")) == 200
    assert not [line for line in said.lines() if line["event"] != "call" and line["event"] != "library"]


def test_the_settling_makes_batches_of_what_came_meanwhile() -> None:
    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await it.submit(a_call())
        await it.until(lambda: it.ledger.inside == 1)
        for _ in range(1200):
            await it.submit(a_call())
        it.ledger.answers.set()
        await it.idle()
        assert [len(batch) for batch in it.ledger.batches] == [1, 500, 500, 200]

    play(story)


# intents


def test_intents_are_written_together() -> None:
    """As many as came while the last batch was written make one call to the ledger."""

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        calls = [a_call() for _ in range(100)]
        it.intend(calls[0])
        await it.until(lambda: it.ledger.inside == 1)
        for call in calls[1:]:
            it.intend(call)
        it.ledger.answers.set()
        await it.until(lambda: all(it.ledger.at(call) for call in calls))
        assert [len(batch) for batch in it.ledger.intents()] == [1, 99]
        assert {row.body_state for batch in it.ledger.intents() for row in batch} == {BodyState.LOST}

    play(story)


def test_the_last_piece_waits_until_the_intent_is_written() -> None:
    async def story(it: House) -> None:
        call = a_call()
        it.ledger.answers.clear()
        it.intend(call)
        await it.until(lambda: it.ledger.inside == 1)
        waits = it.inline.submit(call)
        assert waits is not None
        sending = asyncio.ensure_future(waits)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not sending.done()
        it.ledger.answers.set()
        await sending
        assert it.ledger.at(call) is not None

    play(story)


def test_nobody_waits_for_an_intent_that_is_written() -> None:
    async def story(it: House) -> None:
        call = a_call()
        it.intend(call)
        await it.until(lambda: it.ledger.at(call))
        for _ in range(100):
            await asyncio.sleep(0)
        assert it.inline.submit(call) is None
        assert it.inline.submit(a_call()) is None

    play(story)


def test_nobody_waits_longer_than_the_budget_for_a_database_that_hangs(said: Said) -> None:
    """The first waits out the budget; once it hangs for longer than that, nobody waits, and nothing piles up."""

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await it.relay(a_call())
        assert it.ledger.inside >= 1
        for _ in range(1000):
            call = a_call()
            it.intend(call)
            assert it.inline.submit(call) is None
        assert len(it.ledger.intents()) == 1
        it.ledger.answers.set()
        await it.idle()
        assert len(it.ledger.rows()) == 1001

    play(story, replace(LIMITS, intent_wait_s=0.05, hangs_after_s=0.02))
    assert total(said, "intents_lost") == 1000


def test_without_a_budget_nobody_waits_and_intents_are_written_all_the_same() -> None:
    async def story(it: House) -> None:
        it.ledger.answers.clear()
        calls = [await it.relay(a_call()) for _ in range(50)]
        it.ledger.answers.set()
        await it.idle()
        await it.until(lambda: sum(len(batch) for batch in it.ledger.intents()) == 50)
        assert len(it.ledger.rows()) == len(calls)

    play(story, replace(LIMITS, intent_wait_s=0.0))


def test_a_database_that_is_away_costs_the_callers_nothing(said: Said) -> None:
    """The first intent finds out; those of the next seconds are counted as lost and not tried."""

    async def story(it: House) -> None:
        it.ledger.fault = LedgerUnavailable(CANARY)
        for _ in range(20):
            await it.relay(a_call())
        await it.until(lambda: total(said, "intents_lost") == 20)
        assert len(it.ledger.intents()) == 1
        it.ledger.fault = None
        await it.idle()
        assert len(it.ledger.rows()) == 20

    play(story, replace(LIMITS, outage_pause_s=60.0))
    assert CANARY not in said.text


def test_an_intent_that_breaks_the_ledger_ends_nothing(said: Said) -> None:
    async def story(it: House) -> None:
        it.ledger.fault = ValueError(CANARY)
        await it.relay(a_call())
        it.ledger.fault = None
        call = await it.relay(a_call())
        await it.idle()
        assert it.ledger.at(call) is not None
        assert len(it.ledger.rows()) == 2

    play(story)
    assert CANARY not in said.text


def test_a_call_that_never_came_back_says_interrupted() -> None:
    async def story(it: House) -> None:
        call = a_call()
        it.intend(call)
        await it.until(lambda: it.ledger.at(call))
        row = it.ledger.at(call)
        assert row is not None
        assert (row.outcome, row.body_state) == (Outcome.INTERRUPTED, BodyState.LOST)

    play(story)


# outages


@pytest.mark.parametrize(
    "fault", [LedgerUnavailable(), SchemaTooOld(), ValueError(CANARY)], ids=["away", "old", "broken"]
)
@pytest.mark.parametrize("fails_after_writing", [False, True])
def test_rows_arrive_once_when_the_database_is_back(fault: Exception, fails_after_writing: bool, said: Said) -> None:
    """Also when it took them and could not say so: written again, they change nothing."""

    async def story(it: House) -> None:
        it.ledger.fault, it.ledger.fails_after_writing = fault, fails_after_writing
        calls = [await it.relay(a_call()) for _ in range(50)]
        await it.until(lambda: len(said.lines("rows_waiting")) >= 3)
        await it.until(lambda: len(it.bodies.objects) == len(said.lines("call")) == 50)
        it.ledger.fault = None
        await it.idle()
        assert {row.id for row in it.ledger.rows()} == {call.id for call in calls}
        for call in calls:
            found = it.ledger.get(LOCAL_ORG, call.id)
            assert found is not None
            assert (found.record.body_state, found.revision) in {(BodyState.STORED, 1), (BodyState.STORED, 2)}

    play(story)
    assert said.lines("rows_lost") == []
    assert CANARY not in said.text


def test_a_body_is_pending_while_its_store_is_away_and_stored_when_it_is_back(said: Said) -> None:
    async def story(it: House) -> None:
        it.bodies.fail(StoreUnavailable)
        calls = [await it.relay(a_call(request=on_disk(b'{"model":"asked"}'))) for _ in range(20)]
        await it.until(lambda: len(it.ledger.rows()) == 20)
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.PENDING}
        await it.until(lambda: len(said.lines("body_not_stored_yet")) > 60)
        it.bodies.fail(None)
        await it.idle()
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.STORED}
        for call in calls:
            row = it.ledger.at(call)
            assert row is not None and row.body_key is not None
            found = it.ledger.get(LOCAL_ORG, call.id)
            assert found is not None and found.revision <= 3
        assert len(it.bodies.objects) == 20

    play(story)
    assert len(said.lines("call")) == 20
    assert said.lines("body_lost") == []


def test_a_store_that_refuses_is_not_asked_again() -> None:
    async def story(it: House) -> None:
        it.bodies.fail(StoreRefused)
        call = await it.relay(a_call())
        await it.idle()
        row = it.ledger.at(call)
        assert row is not None and row.body_state is BodyState.FAILED

    play(story)


def test_a_body_is_given_up_after_its_time(said: Said) -> None:
    async def story(it: House) -> None:
        it.bodies.fail(StoreUnavailable)
        call = await it.relay(a_call())
        await it.idle()
        row = it.ledger.at(call)
        assert row is not None and row.body_state is BodyState.FAILED

    play(story, replace(LIMITS, body_retry_s=0.05))
    assert len(said.lines("body_lost")) == 1


def test_ledger_and_store_away_at_once() -> None:
    async def story(it: House) -> None:
        it.ledger.fault = LedgerUnavailable()
        it.bodies.fail(StoreUnavailable)
        calls = [await it.relay(a_call()) for _ in range(20)]
        await it.until(lambda: len(it.ledger.batches) > 5)
        it.bodies.fail(None)
        await it.until(lambda: len(it.bodies.objects) == 20)
        it.ledger.fault = None
        await it.idle()
        assert {row.id for row in it.ledger.rows()} == {call.id for call in calls}
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.STORED}

    play(story)


class HangingStore(MemoryBodyStore):
    """Accepts and does not answer, until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.inside = 0

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        self.inside += 1
        assert self.answers.wait(30)
        return super().put_many(puts)


def test_a_store_that_hangs_costs_no_call_its_line_or_its_row(said: Said) -> None:
    """Nor a second of waiting each; and what it missed is stored once it answers."""
    bodies = HangingStore()

    async def story(it: House) -> None:
        for _ in range(1000):
            await it.submit(a_call())
        await it.until(lambda: len(it.ledger.rows()) == 1000)
        assert len(said.lines("call")) == 1000
        rows = it.ledger.rows()
        assert {(row.outcome, row.body_state) for row in rows} == {(Outcome.COMPLETE, BodyState.PENDING)}
        assert {(row.input_tokens, row.output_tokens) for row in rows} == {(1000, 100)}
        assert bodies.objects == {}
        bodies.answers.set()
        await it.idle()
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.STORED}
        assert len(bodies.objects) == 1000

    try:
        play(story, replace(LIMITS, row_wait_s=0.05), bodies=bodies)
    finally:
        bodies.answers.set()
    assert said.lines("body_lost") == []


def test_a_row_whose_body_is_stored_at_once_is_written_once() -> None:
    async def story(it: House) -> None:
        for _ in range(200):
            await it.submit(a_call())
        await it.idle()
        assert sum(len(batch) for batch in it.ledger.batches) == 200
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.STORED}

    play(story)


def test_a_store_that_works_and_is_behind_sheds_nothing(said: Said) -> None:
    """Calls wait in the queue then, where there is room for them."""
    bodies = HangingStore()

    async def story(it: House) -> None:
        for _ in range(200):
            await it.submit(a_call())
        await it.until(lambda: bodies.inside)
        bodies.answers.set()
        await it.idle()
        assert len(it.ledger.rows()) == len(bodies.objects) == 200

    try:
        play(story, replace(LIMITS, waiting_bodies=10), bodies=bodies)
    finally:
        bodies.answers.set()
    assert said.lines("body_lost") == []


# poison


class Unreadable(Body):
    """A body that breaks on every look, with the caller's words in its error."""

    @property
    def kept_bytes(self) -> int:
        raise ValueError(CANARY)


class UnreadableLater(Body):
    """A body that the meter need not read, and that nobody can."""

    @property
    def kept_bytes(self) -> int:
        return 0


@pytest.mark.parametrize("kind", [Unreadable, UnreadableLater])
def test_a_poison_exchange_is_set_aside_alone(kind: type[Body], said: Said) -> None:
    """Its neighbours of the same batch have row and body; its files are given back; the thread lives on."""

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await it.submit(a_call())
        await it.until(lambda: it.ledger.inside == 1)
        file = on_disk().file
        assert file is not None
        file.close()
        other = on_disk()
        other_file = other.file
        poison = a_call(request=kind(file=file), response=other)
        calls = [a_call() for _ in range(10)]
        for call in (*calls[:5], poison, *calls[5:]):
            await it.submit(call)
        it.ledger.answers.set()
        await it.idle()
        assert other_file is not None and other_file.closed
        for call in calls:
            row = it.ledger.at(call)
            assert row is not None and row.body_state is BodyState.STORED
        row = it.ledger.at(poison)
        assert row is None if kind is Unreadable else row is not None and row.body_state is BodyState.FAILED
        after = await it.relay(a_call())
        await it.idle()
        assert it.ledger.at(after) is not None

    play(story)
    [line] = said.lines("exchange_poisoned" if kind is Unreadable else "body_not_built")
    assert line["error"] == "ValueError"
    assert CANARY not in said.text


def test_a_row_on_which_the_ledger_breaks_is_set_aside_alone(said: Said) -> None:
    """No adapter should; if one does, what is behind it must not wait for ever."""

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await it.submit(a_call())
        await it.until(lambda: it.ledger.inside == 1)
        calls = [a_call() for _ in range(10)]
        it.ledger.poison = calls[4].id
        for call in calls:
            await it.submit(call)
        it.ledger.answers.set()
        await it.idle()
        assert [it.ledger.at(call) is not None for call in calls] == [True] * 4 + [False] + [True] * 5

    play(story)
    assert len(said.lines("row_poisoned")) == 1
    assert CANARY not in said.text


def test_a_store_that_raises_is_one_that_is_away(said: Said) -> None:
    class Raising(MemoryBodyStore):
        raises = True

        def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
            if self.raises:
                raise RuntimeError(CANARY)
            return super().put_many(puts)

    bodies = Raising()

    async def story(it: House) -> None:
        calls = [await it.relay(a_call()) for _ in range(10)]
        await it.until(lambda: len(it.ledger.rows()) == 10)
        await it.until(lambda: len(said.lines("store_failed")) > 3)
        later = await it.relay(a_call())
        await it.until(lambda: it.ledger.at(later))
        bodies.raises = False
        await it.idle()
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.STORED}
        assert len(it.ledger.rows()) == len(calls) + 1

    play(story, bodies=bodies)
    assert CANARY not in said.text


# bounds


def test_rows_beyond_their_bound_are_given_up_oldest_first_and_counted(said: Said) -> None:
    async def story(it: House) -> None:
        it.ledger.fault = LedgerUnavailable()
        calls = numbered(30)
        for call in calls:
            await it.submit(call)
        await it.until(lambda: total(said, "rows_lost") == 20)
        it.ledger.fault = None
        await it.idle()
        assert [row.id for row in it.ledger.rows()] == [call.id for call in calls[:19:-1]]

    play(story, replace(LIMITS, waiting_rows=10))
    assert total(said, "rows_lost") == 20
    assert {line["level"] for line in said.lines("rows_lost")} == {"error"}


@pytest.mark.parametrize("by", ["count", "bytes"])
def test_bodies_beyond_their_bound_are_shed_oldest_first_and_their_rows_say_so(by: str, said: Said) -> None:
    calls = numbered(12, random.Random(7).randbytes(3000))
    size = build(calls[0]).size_bytes
    bound = {"waiting_bodies": 5} if by == "count" else {"waiting_bytes": 5 * size + size // 2}

    async def story(it: House) -> None:
        it.bodies.fail(StoreUnavailable)
        for call in calls:
            await it.submit(call)
        await it.until(lambda: len(said.lines("body_lost")) == 7)
        await it.until(lambda: len(it.ledger.rows()) == 12)
        it.bodies.fail(None)
        await it.idle()
        assert [row.body_state for row in it.ledger.rows()] == [BodyState.STORED] * 5 + [BodyState.SHED] * 7
        assert {line["id"] for line in said.lines("body_lost")} == {str(call.id) for call in calls[:7]}

    play(story, replace(LIMITS, **bound))


def test_calls_beyond_the_queues_bound_are_given_up_and_counted(said: Said) -> None:
    """A database that hangs stops the settling; what comes meanwhile must not fill the memory."""

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await it.submit(a_call())
        await it.until(lambda: it.ledger.inside == 1)
        files = []
        for call in numbered(100, b"x" * 10_000):
            request = on_disk()
            files.append(request.file)
            await it.submit(replace(call, request=request))
        assert it.inline.waiting() < 30
        closed = [file for file in files if file is not None and file.closed]
        assert len(closed) >= 100 - 30
        it.ledger.answers.set()
        await it.idle()
        await it.until(lambda: len(it.ledger.rows()) + total(said, "rows_lost") == 101)
        assert [row.id.int for row in it.ledger.rows()][1] == 100

    play(story, replace(LIMITS, queued_bytes=200_000))


@pytest.mark.parametrize("bound", [{"open_files": 40}, {"disk_bytes": 40 * 2000}], ids=["files", "octets"])
def test_bodies_on_disk_are_bounded_while_a_store_hangs(bound: dict[str, int], said: Said) -> None:
    process = psutil.Process()
    bodies = HangingStore()

    async def story(it: House) -> None:
        before = process.num_fds()
        first, *calls = numbered(101)
        await it.submit(first)
        await it.until(lambda: bodies.inside)
        for call in calls:
            await it.submit(replace(call, request=on_disk(b"x" * 2000)))
            await it.until(lambda: process.num_fds() <= before + 42 and it.ledger.at(call))  # noqa: B023
        await it.until(lambda: len(it.ledger.rows()) == 101)
        await it.until(lambda: len(said.lines("body_lost")) == 60)
        bodies.answers.set()
        await it.idle()
        states = [row.body_state for row in it.ledger.rows()]
        assert states == [BodyState.STORED] * 40 + [BodyState.SHED] * 60 + [BodyState.STORED]
        assert process.num_fds() <= before + 2

    try:
        play(story, replace(LIMITS, row_wait_s=0.01, **bound), bodies=bodies)
    finally:
        bodies.answers.set()


def test_calls_on_disk_are_bounded_while_the_database_hangs(said: Said) -> None:
    process = psutil.Process()

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await it.submit(a_call())
        await it.until(lambda: it.ledger.inside == 1)
        before = process.num_fds()
        for _ in range(300):
            await it.submit(a_call(request=on_disk(b"x" * 2000)))
        assert process.num_fds() <= before + 40
        it.ledger.answers.set()
        await it.idle()
        await it.until(lambda: len(it.ledger.rows()) + total(said, "rows_lost") == 301)

    play(story, replace(LIMITS, open_files=40))


def test_rows_that_wait_hold_no_bodies() -> None:
    """Ten thousand rows of a long outage are small; ten thousand calls would not be."""

    async def story(it: House) -> None:
        it.ledger.fault = LedgerUnavailable()
        for _ in range(50):
            await it.submit(a_call(b"x" * 10_000))
        await it.until(lambda: len(it.bodies.objects) == 50 and len(it.ledger.batches) > 3)
        await it.until(lambda: not _held())
        it.ledger.fault = None
        await it.idle()
        assert len(it.ledger.rows()) == 50

    play(story)


def _held() -> list[Exchange]:
    """Calls of the last test that something still holds."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Exchange) and len(each.response.data) == 10_000]


def test_no_file_stays_open(said: Said) -> None:
    """Five hundred large calls: stored, refused, kept waiting, lost and poisoned."""
    process = psutil.Process()

    async def story(it: House) -> None:
        before = process.num_fds()
        for number in range(500):
            if number == 200:
                it.bodies.fail(StoreRefused)
            elif number == 300:
                it.bodies.fail(StoreUnavailable)
            elif number == 400:
                await it.until(lambda: len(said.lines("body_not_stored_yet")) > 100)
                it.bodies.fail(None)
            request, response = on_disk(b"{}" * 1000), on_disk(b"x" * 2000)
            if number % 50 == 7:
                assert request.file is not None
                request.file.close()
            await it.relay(a_call(request=request, response=response))
        await it.idle()
        assert process.num_fds() <= before + 2

    play(story)


# the end


def test_closing_settles_what_is_left() -> None:
    async def story(it: House) -> None:
        for _ in range(700):
            await it.relay(a_call())

    it = play(story)
    assert len(it.ledger.rows()) == 700
    assert len(it.bodies.objects) == 700


def test_closing_waits_for_a_database_that_comes_back_within_the_grace() -> None:
    async def story(it: House) -> None:
        it.ledger.fault = LedgerUnavailable()
        for _ in range(10):
            await it.submit(a_call())
        closing = asyncio.ensure_future(it.inline.close(20))
        await it.until(lambda: len(it.ledger.batches) > 3)
        assert not closing.done()
        it.ledger.fault = None
        await closing
        assert len(it.ledger.rows()) == 10

    play(story)


def test_closing_with_the_database_away_ends_within_the_grace_and_says_what_is_lost(said: Said) -> None:
    async def story(it: House) -> None:
        it.ledger.fault = LedgerUnavailable()
        for _ in range(10):
            await it.submit(a_call())
        await it.inline.close(0.1)

    play(story)
    assert total(said, "rows_lost") == 10


def test_closing_with_a_database_that_hangs_ends_too_and_says_so(said: Said) -> None:
    """Its threads cannot be ended, but nobody waits for them, and what they hold is counted."""

    async def story(it: House) -> None:
        it.ledger.answers.clear()
        await asyncio.gather(*(it.relay(a_call()) for _ in range(10)))
        await it.until(lambda: it.ledger.inside == 2)
        await it.inline.close(0.1)
        await it.until(lambda: {thread.name for thread in running()} == {"steward-intents", "steward-settle"})
        assert total(said, "rows_lost") == 10

    play(story, replace(LIMITS, intent_wait_s=0.01))


def test_closing_with_the_store_away_leaves_the_rows_saying_shed(said: Said) -> None:
    async def story(it: House) -> None:
        it.bodies.fail(StoreUnavailable)
        for _ in range(10):
            await it.submit(a_call())
        await it.inline.close(0.1)
        assert len(it.ledger.rows()) == 10
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.SHED}

    play(story)
    assert len(said.lines("body_lost")) == 10
    assert said.lines("rows_lost") == []


def test_closing_with_a_store_that_hangs_ends_within_the_grace_and_the_rows_say_shed(said: Said) -> None:
    bodies = HangingStore()

    async def story(it: House) -> None:
        for _ in range(100):
            await it.submit(a_call())
        await it.until(lambda: len(it.ledger.rows()) == 100)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await it.inline.close(0.5)
        assert loop.time() - start < 5
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.SHED}
        assert len(said.lines("body_lost")) == 100
        bodies.answers.set()
        await it.until(lambda: not running())
        assert {row.body_state for row in it.ledger.rows()} == {BodyState.SHED}

    try:
        play(story, replace(LIMITS, row_wait_s=0.01), bodies=bodies)
    finally:
        bodies.answers.set()
    assert said.lines("rows_lost") == []


def test_closing_twice_is_closing_once() -> None:
    async def story(it: House) -> None:
        await it.relay(a_call())
        await it.inline.close(5)
        await it.inline.close(5)
        assert len(it.ledger.rows()) == 1

    play(story)


def test_submit_gives_nothing_to_wait_for_that_can_fail() -> None:
    """Whatever the ledger does, the caller's last piece is sent."""

    async def story(it: House) -> None:
        for fault in (LedgerUnavailable(), ValueError(CANARY), MemoryError()):
            it.ledger.fault = fault
            call = a_call()
            it.intend(call)
            waits: Awaitable[None] | None = it.inline.submit(call)
            if waits is not None:
                assert await waits is None  # type: ignore[func-returns-value]
        it.ledger.fault = None
        await it.idle()
        assert len(it.ledger.rows()) == 3

    play(story)
