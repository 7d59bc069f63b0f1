"""Rounds over a durable queue: every failure on its own, nothing lost, nothing twice, no row waiting for a body."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.memory_settled import MemoryQueue, MemorySettled
from steward.errors import LedgerUnavailable, StoreRefused, StoreUnavailable
from steward.exchange import Body, BodyState, Exchange, Intent, Outcome, Record
from steward.ports import BodyStore, Handed, Put, PutResult, Refused
from steward.price import PriceBook, bundled
from steward.settle import Settler
from steward.settling import Clocks, RoundLimits, Rounds
from steward.stores import OneStore
from tests.exchanges import exchange, route
from tests.said import Said, listening
from tests.servers.waiting import eventually

CHAT = route("/v1/chat/completions")
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
ANSWER = {"model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": USAGE}
CANARY = "CANARY-4b1d"
LIMITS = RoundLimits(idle_s=0.01, row_wait_s=0.2, backoff_s=1.0)


@cache
def prices() -> PriceBook:
    """The bundled list."""
    return bundled({})


class Ledger(MemoryLedger):
    """One that can be away, and counts its statements."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.batches: list[list[Record]] = []
        self.asked = 0

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        self.asked += 1
        if self.away:
            raise LedgerUnavailable
        self.batches.append(list(batch))
        return super().record(batch)


class Store(MemoryBodyStore):
    """One that can hang, and counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []
        self.refused: set[str] = set()

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        self.asked += [put.key for put in puts]
        assert self.open.wait(20)
        return [
            PutResult(None, True, "AccessDenied") if put.key in self.refused else super(Store, self).put_many([put])[0]
            for put in puts
        ]


class House:
    """A queue, a ledger, a store and whoever works between them, on a clock of their own."""

    def __init__(self, limits: RoundLimits = LIMITS, store: BodyStore | None = None, keep_bodies: bool = True) -> None:
        self.at = 1000.0
        self.utc = datetime.now(UTC)
        self.limits = limits
        self.queue = MemoryQueue()
        self.ledger = Ledger()
        self.bodies = Store()
        self.store = store or self.bodies
        self.keep_bodies = keep_bodies
        self.begun: list[Rounds] = []
        self.begin()

    def begin(self) -> None:
        """A new process over the same queue, ledger and store."""
        settler = Settler(self.ledger, OneStore(self.store), prices, self.keep_bodies)
        clocks = Clocks(lambda: self.at, lambda: self.utc, lambda: 1.0)
        self.settled = MemorySettled(self.queue)
        self.rounds = Rounds(self.settled, settler, self.ledger, self.limits, clocks)
        self.begun.append(self.rounds)

    def end(self) -> None:
        """All its processes end."""
        self.bodies.open.set()
        for rounds in self.begun:
            rounds.close()

    def call(self, answer: object = ANSWER, **more: Any) -> Exchange:
        """A call that waits to be settled."""
        made = replace(exchange(CHAT, answer), id=uuid4(), requested_at=self.utc, **more)
        self.queue.put(made)
        return made

    def settle(self) -> None:
        """Rounds until nothing moves any more."""
        eventually(lambda: self.rounds.run_once() and not self.rounds.in_hand())

    def round(self, times: int = 1) -> None:
        """Rounds, whatever they do."""
        for _ in range(times):
            self.rounds.run_once()

    def row(self, call: Exchange | Intent) -> Record | None:
        """The row as the ledger has it."""
        found = self.ledger.get(call.caller.org_id, call.id)
        return found.record if found else None

    def state(self, call: Exchange | Intent) -> BodyState | None:
        """What the row says of the body."""
        row = self.row(call)
        return row.body_state if row else None

    def revision(self, call: Exchange) -> int:
        """How often the row was written."""
        found = self.ledger.get(call.caller.org_id, call.id)
        return found.revision if found else 0

    def object(self, call: Exchange) -> Any:
        """The object that the row names."""
        row = self.row(call)
        assert row is not None and row.body_key is not None
        return orjson.loads(gzip.decompress(self.bodies.objects[row.body_key]))

    def waits(self) -> int:
        """Calls in the queue."""
        return self.settled.depth().items


@pytest.fixture
def house() -> Iterator[House]:
    it = House()
    yield it
    it.end()


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    """What the log says."""
    with listening() as heard:
        yield heard


def an_intent(call: Exchange) -> Intent:
    return Intent(call.id, call.caller, call.route, call.requested_at, call.method)


# all is well


def test_a_call_has_its_row_and_its_body_and_leaves_the_queue(house: House, said: Said) -> None:
    call = house.call()
    house.settle()
    row = house.row(call)
    assert row is not None
    assert (row.body_state, row.input_tokens, row.outcome) == (BodyState.STORED, 1000, Outcome.COMPLETE)
    assert house.object(call)["response"]["body"] == ANSWER
    assert (house.revision(call), house.waits()) == (1, 0), "with a quick store the row is written once"
    assert said.events() == ["call"]


def test_a_batch_is_one_statement(house: House) -> None:
    calls = [house.call() for _ in range(60)]
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.STORED}
    assert sum(map(len, house.ledger.batches)) == 60
    assert len(house.ledger.batches) <= 4
    assert house.waits() == 0


def test_more_than_a_batch_and_more_than_memory_may_hold(house: House) -> None:
    house.limits = replace(LIMITS, batch=7, held_bytes=40_000, at_once=3)
    house.begin()
    calls = [house.call() for _ in range(100)]
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.STORED}
    assert max(map(len, house.ledger.batches)) <= 7
    assert (len(house.bodies.objects), house.waits()) == (100, 0)


def test_nothing_to_do_asks_nobody(house: House) -> None:
    assert house.rounds.run_once() == house.limits.idle_s
    assert (house.ledger.asked, house.bodies.asked) == (0, [])


def test_without_a_store_or_for_metadata_alone_there_is_a_row_and_no_body() -> None:
    it = House(keep_bodies=False)
    call = it.call()
    it.settle()
    assert (it.state(call), it.bodies.asked, it.waits()) == (BodyState.OFF, [], 0)
    it.end()


def test_shed_bodies_are_said_to_be_shed(house: House) -> None:
    call = house.call(bodies_shed=True)
    house.settle()
    assert (house.state(call), house.bodies.asked, house.waits()) == (BodyState.SHED, [], 0)


def test_a_call_without_an_end_is_interrupted_and_its_body_lost(house: House, said: Said) -> None:
    call = replace(exchange(CHAT, {}), id=uuid4())
    house.queue.put(an_intent(call))
    house.settle()
    row = house.row(call)
    assert row is not None
    assert (row.outcome, row.body_state) == (Outcome.INTERRUPTED, BodyState.LOST)
    assert [line["id"] for line in said.lines("call_interrupted")] == [str(call.id)]
    assert house.waits() == 0


# the store is away


def test_with_the_store_away_rows_are_written_at_once_and_bodies_later(house: House, said: Said) -> None:
    house.bodies.fail(StoreUnavailable)
    calls = [house.call() for _ in range(40)]
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.PENDING}
    assert (house.waits(), house.settled.depth().bodies) == (40, 40)
    house.bodies.fail(None)
    house.at += 61
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.STORED}
    assert {house.revision(call) for call in calls} == {2}
    assert (house.waits(), len(house.bodies.objects)) == (0, 40)
    assert said.events().count("call") == 40, "the line of a call is said once"


def test_a_store_that_is_away_is_left_alone_and_tried_with_a_few(house: House) -> None:
    house.bodies.fail(StoreUnavailable)
    for _ in range(200):
        house.call()
    house.settle()
    first = len(house.bodies.asked)
    assert first <= LIMITS.at_once
    house.settle()
    assert len(house.bodies.asked) == first, "not before its time"
    house.at += 1.5
    house.settle()
    assert first < len(house.bodies.asked) <= first + LIMITS.probe
    assert house.settled.depth().bodies == 200


def test_new_rows_go_on_while_the_store_is_away(house: House) -> None:
    house.bodies.fail(StoreUnavailable)
    house.call()
    house.settle()
    asked = len(house.bodies.asked)
    late = [house.call() for _ in range(5)]
    house.settle()
    assert {house.state(call) for call in late} == {BodyState.PENDING}
    assert len(house.bodies.asked) == asked


def test_no_row_waits_for_a_store_that_hangs(house: House) -> None:
    house.bodies.open.clear()
    calls = [house.call() for _ in range(3)]
    house.round(3)
    eventually(lambda: house.bodies.asked)
    assert {house.state(call) for call in calls} == {None}
    house.at += 0.3
    house.round(2)
    assert {house.state(call) for call in calls} == {BodyState.PENDING}
    house.at += 5
    late = [house.call() for _ in range(4)]
    house.round(3)
    assert {house.state(call) for call in late} == {BodyState.PENDING}
    assert len(house.bodies.asked) <= 3, "a store that hangs gets nothing more"
    house.bodies.open.set()
    house.settle()
    assert {house.state(call) for call in [*calls, *late]} == {BodyState.STORED}
    assert house.waits() == 0


def test_a_process_that_dies_between_store_and_ledger_is_made_good_by_the_next(house: House) -> None:
    house.ledger.away = True
    calls = [house.call() for _ in range(10)]
    house.round()
    eventually(lambda: house.rounds.run_once() and len(house.bodies.objects) == 10)
    before = dict(house.bodies.objects)
    house.rounds.close()
    house.ledger.away = False
    house.begin()
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.STORED}
    assert {house.revision(call) for call in calls} == {1}
    assert house.bodies.objects == before
    assert house.waits() == 0


# the store refuses


def test_a_store_that_refuses_is_asked_again_until_the_body_is_given_up_and_kept(house: House, said: Said) -> None:
    house.bodies.fail(StoreRefused)
    call = house.call()
    house.settle()
    assert (house.state(call), house.waits()) == (BodyState.PENDING, 1)
    for _ in range(3):
        house.at += 3600
        house.utc += timedelta(hours=1)
        house.settle()
    assert (house.state(call), house.queue.bodies) == (BodyState.PENDING, {})
    house.at += 86_400
    house.utc += timedelta(days=1)
    house.settle()
    assert (house.state(call), house.waits()) == (BodyState.FAILED, 0)
    [(key, (kept, code))] = house.queue.bodies.items()
    assert isinstance(kept, Exchange)
    assert (key, code) == (call.id, "store_refused")
    assert orjson.loads(kept.response.content().reveal()) == ANSWER
    assert [line["id"] for line in said.lines("body_lost")] == [str(call.id)]


def test_all_whose_time_is_over_are_given_up_without_a_pause_between(house: House) -> None:
    """A day of refusals is given up as fast as the store says no, not a handful a pause."""
    house.bodies.fail(StoreRefused)
    calls = [house.call() for _ in range(100)]
    house.settle()
    house.at += 86_400
    house.utc += timedelta(days=2)
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.FAILED}
    assert (house.waits(), len(house.queue.bodies)) == (0, 100)


def test_a_refusal_that_ends_in_time_costs_nothing(house: House) -> None:
    house.bodies.fail(StoreRefused)
    call = house.call()
    house.settle()
    house.bodies.fail(None)
    house.at += 61
    house.settle()
    assert (house.state(call), house.waits(), house.queue.bodies) == (BodyState.STORED, 0, {})


def test_the_first_no_after_a_long_absence_gives_nothing_up(house: House) -> None:
    """A clock that was stepped, or a store that was away for a day, is no refusal."""
    house.bodies.fail(StoreUnavailable)
    call = house.call()
    house.settle()
    house.utc += timedelta(days=3)
    house.at += 61
    house.bodies.fail(StoreRefused)
    house.settle()
    assert (house.state(call), house.waits()) == (BodyState.PENDING, 1)
    house.at += 3600
    house.settle()
    assert (house.state(call), house.waits()) == (BodyState.FAILED, 0)


def test_one_that_is_refused_among_those_that_are_stored_is_given_up_alone(house: House) -> None:
    calls = [house.call() for _ in range(3)]
    key = f"{calls[1].caller.key_id}/{house.utc.date().isoformat()}/{calls[1].id}.json.gz"
    house.bodies.refused = {key}
    house.settle()
    assert [house.state(call) for call in calls] == [BodyState.STORED, BodyState.PENDING, BodyState.STORED]
    house.utc += timedelta(days=2)
    house.at += 61
    late = house.call()
    house.settle()
    assert (house.state(late), house.state(calls[1])) == (BodyState.STORED, BodyState.FAILED)
    assert [code for _, code in house.queue.bodies.values()] == ["AccessDenied"]
    assert house.waits() == 0


# the ledger is away


def test_with_the_ledger_away_nothing_is_lost_and_lines_are_said(house: House, said: Said) -> None:
    house.ledger.away = True
    calls = [house.call() for _ in range(30)]
    house.round(5)
    calls += [house.call() for _ in range(600)]
    house.round(5)
    assert said.events().count("call") == 630
    assert house.waits() == 630
    assert {house.state(call) for call in calls} == {None}
    house.ledger.away = False
    house.at += 61
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.STORED}
    assert {house.revision(call) for call in calls} == {1}
    assert said.events().count("call") == 630
    assert house.waits() == 0


def test_a_ledger_that_is_away_is_left_alone(house: House) -> None:
    house.ledger.away = True
    house.call()
    eventually(lambda: house.rounds.run_once() and house.ledger.asked)
    assert not house.rounds.ledger_up()
    for pause_s in (0.5, 0.4):
        house.at += pause_s
        house.round()
    assert house.ledger.asked == 1
    house.at += 0.2
    house.round()
    assert house.ledger.asked == 2
    house.at += 1.9
    house.round()
    assert house.ledger.asked == 2, "twice as long"
    house.at += 0.2
    house.round()
    assert house.ledger.asked == 3
    house.ledger.away = False
    house.at += 61
    house.settle()
    assert (house.rounds.ledger_up(), house.waits()) == (True, 0)


def test_what_goes_ahead_of_the_ledger_is_bounded(house: House, said: Said) -> None:
    house.limits = replace(LIMITS, ahead=50, batch=20)
    house.begin()
    house.ledger.away = True
    house.call()
    eventually(lambda: house.rounds.run_once() and house.ledger.asked)
    for _ in range(200):
        house.call()
    house.round(20)
    assert said.events().count("call") == 51
    house.ledger.away = False
    house.at += 61
    house.settle()
    assert (said.events().count("call"), house.waits(), len(house.bodies.objects)) == (201, 0, 201)


def test_both_away_and_a_new_process_lose_nothing(house: House) -> None:
    house.ledger.away = True
    house.bodies.fail(StoreUnavailable)
    calls = [house.call() for _ in range(20)]
    house.round(4)
    house.rounds.close()
    house.begin()
    house.round(4)
    house.ledger.away = False
    house.at += 61
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.PENDING}
    house.bodies.fail(None)
    house.at += 61
    house.settle()
    assert {house.state(call) for call in calls} == {BodyState.STORED}
    assert house.waits() == 0


# poison


class _Unreadable(Body):
    """A body that breaks on every look."""

    @property
    def kept_bytes(self) -> int:
        raise ValueError(CANARY)


class _Poisonous(MemorySettled):
    """Hands out calls that break whoever reads them."""

    def __init__(self, queue: MemoryQueue, poison: set[UUID]) -> None:
        super().__init__(queue)
        self.poison = poison

    def take(self, most: int, most_bytes: int) -> list[Handed]:
        taken = super().take(most, most_bytes)
        for handed in taken:
            if handed.item.id in self.poison and isinstance(handed.item, Exchange):
                handed.item = replace(handed.item, request=_Unreadable())
        return taken


def poisoned(house: House, *poison: Exchange) -> None:
    """A new process over a queue in which these calls are poison."""
    house.settled = _Poisonous(house.queue, {call.id for call in poison})
    settler = Settler(house.ledger, OneStore(house.store), prices)
    clocks = Clocks(lambda: house.at, lambda: house.utc, lambda: 1.0)
    house.rounds = Rounds(house.settled, settler, house.ledger, house.limits, clocks)
    house.begun.append(house.rounds)


def test_poison_is_set_aside_alone(house: House, said: Said) -> None:
    calls = [house.call() for _ in range(5)]
    poisoned(house, calls[2])
    house.settle()
    states = [house.state(call) for call in calls]
    assert states == [BodyState.STORED, BodyState.STORED, None, BodyState.STORED, BodyState.STORED]
    assert {key: code for key, (_, code) in house.queue.set_aside.items()} == {calls[2].id: "not_metered"}
    assert house.waits() == 0
    assert [line["id"] for line in said.lines("exchange_poisoned")] == [str(calls[2].id)]
    assert CANARY not in said.text


class Broken(Ledger):
    """A ledger with a row that it refuses and one that it breaks on."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: set[UUID] = set()
        self.breaks: set[UUID] = set()

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        if any(record.id in self.breaks for record in batch):
            raise TypeError(CANARY)
        good = [record for record in batch if record.id not in self.refuses]
        return [Refused(record.id, "23514") for record in batch if record.id in self.refuses] + super().record(good)


def test_rows_that_the_ledger_will_not_take_are_set_aside_alone(house: House, said: Said) -> None:
    house.ledger = ledger = Broken()
    house.begin()
    calls = [house.call() for _ in range(6)]
    ledger.refuses, ledger.breaks = {calls[1].id}, {calls[4].id}
    house.settle()
    states = [house.state(call) for call in calls]
    assert states == [BodyState.STORED, None, BodyState.STORED, BodyState.STORED, None, BodyState.STORED]
    codes = {key: code for key, (_, code) in house.queue.set_aside.items()}
    assert codes == {calls[1].id: "23514", calls[4].id: "row_broken"}
    assert house.waits() == 0
    assert CANARY not in said.text


def test_a_refused_row_whose_store_hangs_is_set_aside_once(house: House) -> None:
    house.ledger = ledger = Broken()
    house.begin()
    house.bodies.open.clear()
    call = house.call()
    ledger.refuses = {call.id}
    house.round(2)
    house.at += 0.3
    house.round(3)
    house.bodies.open.set()
    house.settle()
    assert {key: code for key, (_, code) in house.queue.set_aside.items()} == {call.id: "23514"}
    assert house.waits() == 0


class _Bottomless(Body):
    """A body that the meter need not read, and of which no object can be built."""

    @property
    def kept_bytes(self) -> int:
        return 0


def test_a_body_that_cannot_be_built_is_failed_and_its_exchange_kept(house: House, said: Said) -> None:
    good, bad = house.call(), house.call()
    [waiting] = [kept for kept in house.queue.kept if kept.item.id == bad.id]
    assert isinstance(waiting.item, Exchange)
    waiting.item = replace(waiting.item, request=_Bottomless(data="no octets"))  # type: ignore[arg-type]
    house.settle()
    assert (house.state(good), house.state(bad)) == (BodyState.STORED, BodyState.FAILED)
    assert {key: code for key, (_, code) in house.queue.set_aside.items()} == {bad.id: "body_not_built"}
    assert [line["id"] for line in said.lines("body_not_built")] == [str(bad.id)]


def test_bodies_that_waited_while_the_store_was_taken_away_by_the_settings(house: House) -> None:
    house.bodies.fail(StoreUnavailable)
    call = house.call()
    house.settle()
    house.keep_bodies = False
    house.begin()
    house.settle()
    assert (house.state(call), house.waits()) == (BodyState.FAILED, 0)
    assert [code for _, code in house.queue.bodies.values()] == ["no_store"]


# the queue cannot be told


class _Full(MemorySettled):
    """A queue whose disk is full."""

    full = True

    def done(self, handed: Sequence[Handed]) -> None:
        if self.full:
            raise OSError(28, CANARY)
        super().done(handed)


def test_a_queue_that_cannot_be_told_is_told_later_and_rows_go_on(house: House, said: Said) -> None:
    full = house.settled = _Full(house.queue)
    clocks = Clocks(lambda: house.at, lambda: house.utc, lambda: 1.0)
    house.rounds = Rounds(full, Settler(house.ledger, OneStore(house.store), prices), house.ledger, LIMITS, clocks)
    house.begun.append(house.rounds)
    calls = [house.call() for _ in range(4)]
    eventually(lambda: house.rounds.run_once() and {house.state(call) for call in calls} == {BodyState.STORED})
    calls.append(house.call())
    eventually(lambda: house.rounds.run_once() and house.state(calls[-1]) is BodyState.STORED)
    assert house.waits() == 5
    full.full = False
    house.at += 61
    house.settle()
    assert house.waits() == 0
    assert {house.revision(call) for call in calls} == {1}
    assert CANARY not in said.text
