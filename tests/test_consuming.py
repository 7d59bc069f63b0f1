"""Batches that a host hands over: each message is settled or handed back alone, and twice is once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import cache

import pytest

from steward.adapters.memory import MemoryLedger
from steward.consuming import EXPORT_S
from steward.errors import LedgerUnavailable, SchemaTooOld, StoreRefused, StoreUnavailable
from steward.exchange import Record
from steward.metric_memory import MemoryBoard
from steward.metrics import CallMetrics
from steward.ports import Refused
from steward.price import PriceBook, bundled
from tests.messages import LARGE, SMALL, House, call, copied
from tests.said import Said, listening
from tests.scraped import value


@cache
def prices() -> PriceBook:
    return bundled()


@pytest.fixture
def house() -> House:
    return House(prices())


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


class PickyLedger(MemoryLedger):
    """Refuses some rows, breaks on others, or is away."""

    refuses: frozenset[object] = frozenset()
    breaks_on: frozenset[object] = frozenset()
    fault: Exception | None = None

    def record(self, batch: object) -> list[Refused]:
        rows: list[Record] = list(batch)  # type: ignore[call-overload]
        if self.fault is not None:
            raise self.fault
        if any(row.id in self.breaks_on for row in rows):
            raise ValueError("the driver breaks")
        bad = [row for row in rows if row.id in self.refuses]
        super().record([row for row in rows if row not in bad])
        return [Refused(row.id, "22021") for row in bad]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_call_is_settled_once_however_often_it_comes(house: House, size: int) -> None:
    one = call(size)
    text = house.text(copied(one) if size == SMALL else one)
    assert house.settle(text, text, text) == [None, None, None]
    for _ in range(3):
        assert house.settle(text) == [None]
    assert house.rows([one.id]) == ["stored"]
    assert len(house.bodies()) == 1
    assert len(house.ledger.newest(one.caller.org_id, 10)) == 1


def counted(board: MemoryBoard) -> tuple[float | None, float | None]:
    """Calls and input tokens."""
    text = board.text()
    return value(text, "steward_calls_total"), value(text, "steward_tokens_total", kind="input")


def test_a_call_that_is_handed_out_again_counts_once_whichever_process_gets_it() -> None:
    ledger, board = PickyLedger(), MemoryBoard()
    one, other = (House(prices(), ledger, metrics=CallMetrics(board)) for _ in range(2))
    text = one.text(call())
    ledger.fault = LedgerUnavailable()
    assert one.settle(text) == ["ledger_unavailable"]
    assert counted(board) == (None, None), "it comes again"
    ledger.fault = None
    one.store.fail(StoreUnavailable)
    assert one.settle(text) == ["body_waits"]
    one.store.fail(None)
    assert [one.settle(text, text), other.settle(text)] == [[None, None], [None]]
    assert counted(board) == (1, 10)


def test_a_row_that_the_ledger_does_not_take_counts_nothing_until_it_does() -> None:
    ledger, board = PickyLedger(), MemoryBoard()
    house = House(prices(), ledger, metrics=CallMetrics(board))
    bad, good = call(), call()
    ledger.refuses = frozenset({bad.id})
    texts = [house.text(bad), house.text(good)]
    assert house.settle(*texts) == ["row_refused", None]
    assert counted(board) == (1, 10)
    ledger.refuses = frozenset()
    assert house.settle(*texts) == [None, None]
    assert counted(board) == (2, 20)


def test_in_whatever_order_each_has_its_row_and_its_body(house: House) -> None:
    calls = [call(LARGE if number % 3 == 0 else SMALL) for number in range(150)]
    texts = [house.text(one) for one in calls]
    assert house.settle(*reversed(texts)) == [None] * 150
    assert set(house.rows([one.id for one in calls])) == {"stored"}
    assert len(house.bodies()) == 150


def test_what_fails_fails_alone(house: House) -> None:
    good, other = call(), call()
    assert house.settle(house.text(good), "nonsense", house.text(other), "") == [
        *(None, "not_a_message", None, "not_a_message"),
    ]
    assert house.refused == ["not_a_message", "not_a_message"]
    assert house.rows([good.id, other.id]) == ["stored", "stored"]


def test_after_a_batch_it_exports_once_and_not_when_nothing_was_settled(house: House) -> None:
    house.settle(*(house.text(call()) for _ in range(130)))
    assert len(house.exports) == 1
    house.settle("nonsense")
    assert len(house.exports) == 1


def test_an_export_or_a_look_that_fails_concerns_no_message() -> None:
    def fail(until: float) -> None:
        raise LedgerUnavailable

    house = House(prices(), export=fail)
    assert house.settle(house.text(call())) == [None]


def test_a_butler_that_hangs_keeps_no_message_and_is_asked_by_one_thread_alone() -> None:
    asked: list[float] = []
    hung, answers = threading.Event(), threading.Event()

    def hang(until: float) -> None:
        asked.append(until)
        hung.set()
        answers.wait()

    house = House(prices(), export=hang)
    try:
        for _ in range(3):
            soon = time.monotonic() + 0.2
            assert house.consumer.settle([("a", house.text(call()))], soon) == {"a": None}
            assert hung.wait(30)
        assert len(asked) == 1
    finally:
        answers.set()


def test_a_backlog_of_butlers_does_not_take_all_the_time_that_the_host_gives(house: House) -> None:
    before = time.monotonic()
    house.consumer.settle([("a", house.text(call()))], before + 1e6)
    [until] = house.exports
    assert until <= time.monotonic() + EXPORT_S


@pytest.mark.parametrize("fault", [LedgerUnavailable, SchemaTooOld])
def test_while_the_database_is_away_every_message_is_handed_back(fault: type[Exception]) -> None:
    ledger = PickyLedger()
    house = House(prices(), ledger)
    one = call()
    text = house.text(one)
    ledger.fault = fault()
    assert house.settle(text) == [fault.code]  # type: ignore[attr-defined]
    ledger.fault = None
    assert house.settle(text) == [None]
    assert house.rows([one.id]) == ["stored"]


@pytest.mark.parametrize(("fault", "code"), [(StoreUnavailable, "body_waits"), (StoreRefused, "body_refused")])
def test_a_body_that_no_store_takes_is_never_given_up(house: House, fault: type[StoreUnavailable], code: str) -> None:
    one = call()
    text = house.text(one)
    house.store.fail(fault)
    assert house.settle(text) == [code]
    assert house.rows([one.id]) == ["pending"]
    house.store.fail(None)
    assert house.settle(text) == [None]
    assert house.rows([one.id]) == ["stored"]


def test_a_large_calls_object_that_is_not_there_yet_is_waited_for(house: House) -> None:
    one = call(LARGE)
    text = house.text(one)
    [key] = [key for key in house.store.objects if key.startswith("queued/")]
    kept = house.store.objects.pop(key)
    assert house.settle(text) == ["object_missing"]
    assert house.rows([one.id]) == ["none"]
    house.store.objects[key] = kept
    house.store.fail(StoreUnavailable)
    assert house.settle(text) == ["store_unavailable"]
    house.store.fail(StoreRefused)
    assert house.settle(text) == ["store_refused"]
    house.store.fail(None)
    assert house.settle(text) == [None]


def test_poison_rows_fail_alone() -> None:
    ledger = PickyLedger()
    house = House(prices(), ledger)
    refused, broken, good = call(), call(), call()
    texts = [house.text(each) for each in (refused, broken, good)]
    ledger.refuses, ledger.breaks_on = frozenset({refused.id}), frozenset({broken.id})
    assert house.settle(*texts) == ["row_refused", "row_broken", None]
    assert house.rows([good.id]) == ["stored"]
