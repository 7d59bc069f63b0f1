"""A large call goes by way of the store that is decided on now, and is found in the one that took it."""

from __future__ import annotations

from functools import cache
from uuid import UUID

import pytest

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.claims import Claims
from steward.errors import LedgerUnavailable, MessageWaits
from steward.exchange import Caller
from steward.ports import BodyStore, Place, Stores
from steward.price import PriceBook, bundled
from steward.stores import OneStore
from tests.messages import LARGE, SMALL, House, call


@cache
def prices() -> PriceBook:
    return bundled()


class Moved(Stores):
    """A caller's bodies go elsewhere by now; the old store is still in force, or is not."""

    def __init__(self, old: BodyStore | None, new: BodyStore) -> None:
        self._old, self._new = old, new

    def of(self, caller: Caller) -> Place | None:
        return Place(self._new, UUID(int=2))

    def holding(self, org_id: UUID, config_id: UUID | None) -> BodyStore | None:
        return self._old if config_id == UUID(int=1) else None

    def changes(self) -> int:
        return 1

    def close(self) -> None:
        """Nothing is open."""


class At(OneStore):
    """One store, by a config's id."""

    def __init__(self, store: BodyStore, config_id: UUID) -> None:
        super().__init__(store)
        self._place = Place(store, config_id)


def test_the_object_is_looked_for_where_it_went_then_where_bodies_go_now() -> None:
    old, new = MemoryBodyStore(), MemoryBodyStore()
    sending = House(prices(), store=old, stores=At(old, UUID(int=1)))
    one = call(LARGE)
    text = sending.text(one)
    assert Claims(sending.sealer, Moved(old, new), 1).open(text).id == one.id
    with pytest.raises(MessageWaits) as waits:
        Claims(sending.sealer, Moved(None, new), 1).open(text)
    assert waits.value.reason == "object_missing"
    new.objects.update(old.objects)
    assert Claims(sending.sealer, Moved(None, new), 1).open(text).id == one.id


def test_without_any_store_a_large_call_has_no_message_and_a_claim_waits() -> None:
    house = House(prices(), stores=OneStore(None))
    letter = house.claims.message(call(LARGE))
    assert letter.text() is None
    letter.close()
    with pytest.raises(MessageWaits) as waits:
        house.claims.open(House(prices()).text(call(LARGE)))
    assert waits.value.reason == "no_store"


def test_the_stores_are_looked_at_for_large_calls_alone() -> None:
    house = House(prices())

    def away() -> None:
        raise LedgerUnavailable

    claims = Claims(house.sealer, OneStore(MemoryBodyStore()), 192 << 10, away)
    small, large = claims.message(call(SMALL)), claims.message(call(LARGE))
    assert small.text() is not None
    with pytest.raises(LedgerUnavailable):
        large.text()
    small.close()
    large.close()


def test_asking_twice_stores_once() -> None:
    house = House(prices())
    letter = house.claims.message(call(LARGE))
    assert letter.text() == letter.text()
    assert len(house.store.objects) == 1
    letter.close()
