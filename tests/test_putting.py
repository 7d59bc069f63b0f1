"""The store's thread: in batches, one at a time, given back when tried, and never waited for."""

from __future__ import annotations

import threading

from steward.putting import Putting
from tests.said import listening
from tests.servers.waiting import eventually


class Store:
    """Takes batches, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.goes_on = True

    def put(self, batch: list[int]) -> bool:
        self.batches.append(batch)
        assert self.open.wait(10)
        return self.goes_on


def all_tried(putting: Putting[int], count: int) -> list[int]:
    """What was tried, once it is so many."""
    tried: list[int] = []

    def enough() -> bool:
        tried.extend(putting.tried(0.05))
        return len(tried) >= count

    eventually(enough)
    return tried


def test_batches_are_bounded_and_come_back_in_order() -> None:
    store = Store()
    putting = Putting(store.put, 4)
    putting.hand(range(10))
    assert all_tried(putting, 10) == list(range(10))
    assert max(map(len, store.batches)) <= 4
    assert [number for batch in store.batches for number in batch] == list(range(10))
    eventually(lambda: not putting.busy())
    assert putting.tried() == []
    putting.close()


def test_what_was_not_begun_is_given_back_and_the_rest_stays_with_the_store() -> None:
    store = Store()
    store.open.clear()
    putting = Putting(store.put, 2)
    putting.hand([1, 2])
    eventually(lambda: store.batches)
    putting.hand([3, 4, 5])
    assert putting.tried(0.01) == []
    assert putting.recall() == [3, 4, 5]
    assert putting.busy()
    store.open.set()
    assert all_tried(putting, 2) == [1, 2]
    assert store.batches == [[1, 2]]
    putting.close()


def test_how_long_the_store_is_silent() -> None:
    at = [100.0]
    store = Store()
    store.open.clear()
    putting = Putting(store.put, 2, lambda: at[0])
    assert putting.silent_s() == 0.0
    putting.hand([1])
    eventually(lambda: store.batches)
    at[0] += 7
    assert putting.silent_s() == 7.0
    store.open.set()
    all_tried(putting, 1)
    assert putting.silent_s() == 0.0
    putting.close()


def test_after_a_batch_that_failed_nothing_more_is_begun_until_it_is_recalled() -> None:
    store = Store()
    store.goes_on = False
    putting = Putting(store.put, 2)
    putting.hand([1, 2, 3, 4, 5])
    assert all_tried(putting, 2) == [1, 2]
    assert putting.paused()
    putting.hand([6])
    assert putting.recall() == [3, 4, 5, 6]
    assert not putting.paused()
    assert store.batches == [[1, 2]]
    putting.hand([7])
    assert all_tried(putting, 1) == [7]
    putting.close()


def test_a_store_that_breaks_its_promise_gives_its_batch_back() -> None:
    def put(batch: list[int]) -> bool:
        raise ValueError("CANARY-4b1d")

    with listening() as said:
        putting = Putting(put, 2)
        putting.hand([1, 2, 3])
        assert all_tried(putting, 2) == [1, 2]
        assert putting.recall() == [3]
        putting.close()
    assert [line["count"] for line in said.lines("store_failed")] == [2]
    assert "CANARY" not in said.text


def test_closing_waits_for_nobody() -> None:
    before = set(threading.enumerate())
    store = Store()
    store.open.clear()
    putting = Putting(store.put, 1)
    [thread] = set(threading.enumerate()) - before
    putting.hand([1, 2])
    eventually(lambda: store.batches)
    putting.close()
    assert putting.recall() == []
    store.open.set()
    eventually(lambda: not thread.is_alive())
    assert store.batches == [[1]]
