"""Settling by turns that the host gives: who waits for what, what a turn does in time, what is kept for the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from steward.adapters.by_call import Around, ByCall, ByCallLimits
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.errors import LedgerUnavailable
from steward.exchange import LOCAL_ORG, Body, BodyState, Exchange, Intent, Outcome
from steward.ports import Put, PutResult
from steward.settle import Settler
from steward.stores import OneStore
from tests.adapters.test_inline import ANSWER, CANARY, CHAT, WatchedLedger, prices
from tests.exchanges import exchange
from tests.said import Said, listening
from tests.servers.waiting import eventually

PATIENT = ByCallLimits(budget_s=30.0)
HASTY = ByCallLimits(budget_s=0.2)


class HeldStore(MemoryBodyStore):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()
        self.away = False
        self.asked = 0

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        self.asked += 1
        assert self.answers.wait(30)
        return [PutResult(None) for _ in puts] if self.away else super().put_many(puts)


class House:
    """What settles by the call, and its world."""

    def __init__(self, limits: ByCallLimits = PATIENT, caller_waits: bool = False, keep_bodies: bool = True) -> None:
        self.ledger, self.store = WatchedLedger(), HeldStore()
        self.exports: list[list[BodyState]] = []
        """At each export, what the rows said of their bodies."""
        self.around: list[str] = []
        settler = Settler(self.ledger, OneStore(self.store), prices, keep_bodies)
        around = Around(lambda: self.around.append("before"), self._export, lambda: self.around.append("after"))
        self.by_call = ByCall(settler, self.ledger, around, limits, caller_waits)

    def _export(self, until: float) -> None:
        self.around.append("export")
        self.exports.append([row.body_state for row in self.rows()])

    def rows(self) -> list[Any]:
        return [row.record for row in self.ledger.newest(LOCAL_ORG, 1000)]

    def tell(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def told() -> None:
            async with asyncio.timeout(60):
                await story()

        asyncio.run(told())


def call(**more: Any) -> Exchange:
    return replace(exchange(CHAT, ANSWER, asked={"a": 1}), id=uuid4(), **more)


def intent(of: Exchange) -> Intent:
    return Intent(of.id, of.caller, of.route, of.requested_at, of.method)


@pytest.fixture
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


def test_a_call_is_settled_and_exported_in_the_turn_after_it() -> None:
    house, one = House(), call()

    async def story() -> None:
        assert house.by_call.intend(intent(one)) is None
        waits = house.by_call.submit(one)
        if waits is not None:
            await waits
        assert [row.outcome for row in house.rows()] == [Outcome.INTERRUPTED]  # what a killed process leaves
        assert house.store.asked == 0
        house.by_call.turn()

    house.tell(story)
    (row,) = house.rows()
    assert (row.outcome, row.body_state, row.input_tokens) == (Outcome.COMPLETE, BodyState.STORED, 1000)
    assert house.exports == [[BodyState.STORED]]
    assert house.around == ["before", "export", "after"]
    assert house.by_call.waiting() == 0


def test_a_call_that_was_cut_leaves_what_is_known_of_it_also_without_a_body() -> None:
    """The process is told to end: with CAPTURE=metadata its row is no further than its intent, but knows more."""
    house, cut = House(keep_bodies=False), call(outcome=Outcome.INTERRUPTED)

    async def story() -> None:
        house.by_call.intend(intent(cut))
        if (waits := house.by_call.submit(cut)) is not None:
            await waits
        house.by_call.turn()

    house.tell(story)
    (row,) = house.rows()
    assert (row.outcome, row.body_state) == (Outcome.INTERRUPTED, BodyState.OFF)
    assert (row.status_code, row.input_tokens) == (200, 1000)


def test_the_last_piece_waits_for_the_intent_but_no_longer_than_the_budget() -> None:
    for limits, comes in ((PATIENT, True), (HASTY, False)):
        house, one = House(limits), call()
        house.ledger.answers.clear()

        async def story(house: House = house, one: Exchange = one, comes: bool = comes) -> None:
            house.by_call.intend(intent(one))
            waits = asyncio.ensure_future(house.by_call.submit(one))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            assert not waits.done()
            if comes:
                house.ledger.answers.set()
            await waits
            house.ledger.answers.set()

        house.tell(story)


def test_without_a_database_the_call_is_served_and_the_intent_said_to_be_lost(said: Said) -> None:
    house, one = House(), call()
    house.ledger.fault = LedgerUnavailable()

    async def story() -> None:
        house.by_call.intend(intent(one))
        waits = house.by_call.submit(one)
        if waits is not None:
            await waits
        house.by_call.turn()
        assert house.by_call.waiting() == 1
        house.ledger.fault = None
        house.by_call.turn()

    house.tell(story)
    assert [row.outcome for row in house.rows()] == [Outcome.COMPLETE]
    assert {"intents_lost", "turn_failed"} <= set(said.events())


@pytest.mark.parametrize("hangs", ["store", "ledger"])
def test_a_turn_ends_in_time_whatever_hangs_and_what_hung_is_finished_later(hangs: str) -> None:
    house, one = House(HASTY), call()

    async def story() -> None:
        house.by_call.submit(one)
        held = house.store.answers if hangs == "store" else house.ledger.answers
        held.clear()
        began = time.monotonic()
        house.by_call.turn()
        assert time.monotonic() - began < 20  # the hang itself has no end
        if hangs == "store":
            eventually(lambda: [row.body_state for row in house.rows()] == [BodyState.PENDING])
            eventually(lambda: house.exports == [[BodyState.PENDING]])  # the row did not wait for its body
        held.set()
        eventually(lambda: house.by_call.turn() or house.by_call.waiting() == 0)

    house.tell(story)
    assert [row.body_state for row in house.rows()] == [BodyState.STORED]
    assert house.exports[-1] == [BodyState.STORED]


def test_a_body_that_its_store_will_not_have_now_is_tried_again_in_the_next_turn() -> None:
    house, one = House(), call()
    house.store.away = True

    async def story() -> None:
        house.by_call.submit(one)
        house.by_call.turn()
        assert [row.body_state for row in house.rows()] == [BodyState.PENDING]
        assert house.exports == [[BodyState.PENDING]]
        house.store.away = False
        house.by_call.turn()

    house.tell(story)
    assert [row.body_state for row in house.rows()] == [BodyState.STORED]


def test_where_the_caller_waits_his_call_is_settled_and_exported_before_his_last_piece() -> None:
    house = House(caller_waits=True)
    calls = [call() for _ in range(20)]

    async def story() -> None:
        await asyncio.gather(*(house.by_call.submit(each) for each in calls))  # type: ignore[arg-type]

    house.tell(story)
    assert {row.id for row in house.rows()} == {each.id for each in calls}
    assert all(row.body_state is BodyState.STORED for row in house.rows())
    assert len(house.exports[-1]) == 20
    assert house.store.asked < 20  # those that came together were settled together


def test_one_row_that_the_ledger_breaks_on_spoils_no_other(said: Said) -> None:
    house, bad, good = House(), call(), call()
    house.ledger.poison = bad.id

    async def story() -> None:
        house.by_call.submit(bad)
        house.by_call.submit(good)
        house.by_call.turn()

    house.tell(story)
    assert [row.id for row in house.rows()] == [good.id]
    assert house.by_call.waiting() == 0
    assert "row_poisoned" in set(said.events())
    assert CANARY not in said.text


def test_what_memory_cannot_hold_goes_oldest_first_and_is_said(said: Said) -> None:
    house = House(ByCallLimits(budget_s=30.0, held=3, held_bytes=2000))
    house.ledger.fault = LedgerUnavailable()
    house.store.away = True
    calls = [call(response=Body(b'{"a":"' + b"x" * 900 + b'"}')) for _ in range(5)]

    async def story() -> None:
        for each in calls:
            house.by_call.submit(each)
            house.by_call.turn()
        house.ledger.fault, house.store.away = None, False
        house.by_call.turn()
        house.by_call.turn()

    house.tell(story)
    assert {row.id for row in house.rows()} == {each.id for each in calls[-3:]}
    assert "rows_lost" in set(said.events())


def test_what_waits_behind_a_turn_that_hangs_is_bounded_too(said: Said) -> None:
    house = House(ByCallLimits(budget_s=0.1, held=5, held_bytes=3000))
    house.ledger.answers.clear()
    calls = [call(response=Body(b'{"a":"' + b"x" * 900 + b'"}')) for _ in range(8)]

    async def story() -> None:
        house.by_call.submit(calls[0])
        house.by_call.turn()  # it hangs in the database
        for each in calls[1:]:
            house.by_call.submit(each)
        assert house.by_call.waiting() <= 1 + 3
        house.ledger.answers.set()
        eventually(lambda: house.by_call.turn() or house.by_call.waiting() == 0)

    house.tell(story)
    assert {row.id for row in house.rows()} == {each.id for each in (calls[0], *calls[-3:])}
    assert sum(line["count"] for line in said.lines("rows_lost")) == 4


def test_closing_gives_one_last_turn_and_counts_what_is_left(said: Said) -> None:
    house, one, other = House(HASTY), call(), call()

    async def story() -> None:
        house.by_call.submit(one)
        await house.by_call.close()
        assert [row.body_state for row in house.rows()] == [BodyState.STORED]

    house.tell(story)
    assert "rows_lost" not in set(said.events())
    house = House(HASTY)
    house.ledger.fault = LedgerUnavailable()

    async def lost() -> None:
        house.by_call.submit(other)
        await house.by_call.close(0.2)

    house.tell(lost)
    assert "rows_lost" in set(said.events())


def test_a_butler_that_hangs_keeps_no_later_turn_from_settling() -> None:
    house, first, second = House(HASTY), call(), call()
    answers, asked = threading.Event(), []

    def hang(until: float) -> None:
        asked.append(until)
        answers.wait(30)

    house.by_call = ByCall(Settler(house.ledger, OneStore(house.store), prices), house.ledger, Around(int, hang), HASTY)
    try:
        house.by_call.submit(first)
        house.by_call.turn()
        house.by_call.submit(second)
        house.by_call.turn(time.monotonic() + 20 * HASTY.budget_s)
        assert {row.id for row in house.rows()} == {first.id, second.id}
        assert len(asked) == 1
    finally:
        answers.set()
    house.by_call.turn(time.monotonic() + 30)
    assert len(asked) == 2, "once it answers, Butler is asked again"


def test_no_export_begins_when_the_turns_time_is_over() -> None:
    """It would hold the connection to the database in a process that is frozen right then."""
    house, one = House(), call()
    house.by_call.submit(one)
    house.by_call.turn(time.monotonic() - 1)
    for executor in (house.by_call._worker, house.by_call._exporter):
        executor.submit(int).result(30)
    assert [row.id for row in house.rows()] == [one.id]
    assert house.around == ["before"]


def test_a_body_that_memory_cannot_hold_is_no_lost_row(said: Said) -> None:
    house = House(replace(PATIENT, held=2))
    house.store.away = True
    for _ in range(4):
        house.by_call.submit(call())
        house.by_call.turn()
    assert len(house.rows()) == 4
    assert "rows_lost" not in set(said.events())
    assert len(said.lines("body_lost")) == 2
