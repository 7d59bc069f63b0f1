"""One store that is away, or hangs, holds up no other: each has its own outlet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from steward import outlets
from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.memory_settled import MemoryQueue, MemorySettled
from steward.backoff import Backoff
from steward.errors import StoreUnavailable
from steward.exchange import BodyState, Caller, Exchange
from steward.outlets import Outlet, Outlets
from steward.ports import BodyStore, Handed, Place, Stores
from steward.price import bundled
from steward.putting import Putting
from steward.settle import Settler
from steward.settling import Clocks, RoundLimits, Rounds
from tests.contracts.records import ORG, OTHER_ORG
from tests.exchanges import exchange, route
from tests.servers.waiting import eventually

CHAT = route("/v1/chat/completions")
LIMITS = RoundLimits(idle_s=0.01, row_wait_s=0.02, at_once=16, probe=4)


class ByOrganisation(Stores):
    """One store an organisation; they may change."""

    def __init__(self) -> None:
        self.changed = 0
        self.stores = {ORG: MemoryBodyStore(), OTHER_ORG: MemoryBodyStore()}
        self.places: dict[UUID, Place | None] = {org: Place(store, org) for org, store in self.stores.items()}

    def of(self, caller: Caller) -> Place | None:
        return self.places[caller.org_id]

    def holding(self, org_id: UUID, config_id: UUID | None) -> BodyStore | None:
        return self.stores.get(org_id)

    def changes(self) -> int:
        return self.changed

    def close(self) -> None:
        return None


class House:
    """A queue, a ledger, two stores, and who works between them."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.queue = MemoryQueue()
        self.ledger = MemoryLedger()
        self.stores = ByOrganisation()
        book = bundled({})
        settler = Settler(self.ledger, self.stores, lambda: book)
        self.settled = MemorySettled(self.queue)
        clocks = Clocks(lambda: self.at, chance=lambda: 1.0)
        self.rounds = Rounds(self.settled, settler, self.ledger, LIMITS, clocks)

    def call(self, org_id: UUID) -> Exchange:
        made = replace(exchange(CHAT, {"model": "gpt-4o"}), id=uuid4(), caller=Caller(uuid4(), org_id))
        self.queue.put(made)
        return made

    def settle(self) -> None:
        eventually(lambda: self.rounds.run_once() and not self.rounds.in_hand())

    def states(self, calls: list[Exchange]) -> set[BodyState]:
        rows = (self.ledger.get(call.caller.org_id, call.id) for call in calls)
        return {row.record.body_state for row in rows if row is not None}


@pytest.fixture
def house() -> Iterator[House]:
    it = House()
    yield it
    it.rounds.close()


def test_rows_say_whose_store_has_the_body(house: House) -> None:
    calls = [house.call(org) for org in (ORG, OTHER_ORG) for _ in range(20)]
    house.settle()
    assert house.states(calls) == {BodyState.STORED}
    rows = [house.ledger.get(call.caller.org_id, call.id) for call in calls]
    assert all(row is not None and row.record.storage_config_id == row.record.org_id for row in rows)
    assert [len(store.objects) for store in house.stores.stores.values()] == [20, 20]


def test_a_store_that_is_away_holds_up_no_other(house: House) -> None:
    house.stores.stores[ORG].fail(StoreUnavailable)
    waiting = [house.call(ORG) for _ in range(200)]
    house.settle()
    assert house.states(waiting) == {BodyState.PENDING}
    others = [house.call(OTHER_ORG) for _ in range(50)]
    house.settle()
    assert house.states(others) == {BodyState.STORED}
    house.at += 61
    house.stores.stores[OTHER_ORG].fail(StoreUnavailable)
    late = [house.call(OTHER_ORG) for _ in range(20)]
    house.settle()
    house.stores.stores[OTHER_ORG].fail(None)
    house.at += 61
    house.settle()
    assert house.states(late) == {BodyState.STORED}, "bodies that waited go past those whose store is still away"
    assert house.states(waiting) == {BodyState.PENDING}
    house.stores.stores[ORG].fail(None)
    for _ in range(3):
        house.at += 61
        house.settle()
    assert house.states(waiting) == {BodyState.STORED}
    assert house.settled.depth().items == 0


def test_a_body_goes_where_it_is_to_go_when_it_is_put_and_not_where_it_was_to_go_before(house: House) -> None:
    house.stores.stores[ORG].fail(StoreUnavailable)
    calls = [house.call(ORG) for _ in range(10)]
    house.settle()
    approved = MemoryBodyStore()
    house.stores.places[ORG] = Place(approved, OTHER_ORG)
    house.stores.changed += 1
    house.settle()
    assert house.states(calls) == {BodyState.STORED}
    assert (len(approved.objects), len(house.stores.stores[ORG].objects)) == (10, 0)


def test_a_body_without_a_place_any_more_is_kept_and_said(house: House) -> None:
    house.stores.stores[ORG].fail(StoreUnavailable)
    calls = [house.call(ORG) for _ in range(3)]
    house.settle()
    house.stores.places[ORG] = None
    house.at += 61
    house.settle()
    assert house.states(calls) == {BodyState.FAILED}
    assert house.settled.depth().set_aside == 3


def an_outlet(place: Place) -> Outlet:
    return Outlet(place, Putting(lambda calls: True, 4), Backoff())


def test_those_that_nobody_uses_are_given_back_and_those_in_use_are_not() -> None:
    made = Outlets(an_outlet)
    places = [Place(MemoryBodyStore()) for _ in range(40)]
    opened = [made.of(place) for place in places]
    first = opened[0]
    assert first is not None
    assert made.of(places[0]) is first
    first.parked.append(Handed(exchange(CHAT, {})))
    assert made.parked() == 1
    made.tidy()
    assert len(made) == 16
    assert first in list(made)
    made.close()


def test_there_are_only_so_many() -> None:
    made = Outlets(an_outlet)
    for _ in range(outlets.MOST):
        outlet = made.of(Place(MemoryBodyStore()))
        assert outlet is not None
        outlet.busy = 1
    assert made.of(Place(MemoryBodyStore())) is None
    next(iter(made)).busy = 0
    assert made.of(Place(MemoryBodyStore())) is not None
    made.close()
