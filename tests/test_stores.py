"""Whose bodies go where: scopes in their order, only what is followed, and what is known stays while nobody answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory import MemoryDirectory
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.body_store_allow import allow_list
from steward.destination import Destination, S3Keys
from steward.errors import LedgerUnavailable, SettingError, StoreUnavailable
from steward.exchange import LOCAL_ORG, Caller
from steward.policy import NOTHING_SAID, Local
from steward.ports import BodyStore, Identity, Place, Put, PutResult, Registration
from steward.sent import KeptConfig
from steward.stores import DecidedStores, Looking, OneStore
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG
from tests.said import listening
from tests.servers.waiting import eventually
from tests.wanted import EVIL, OTHER_USER, USER, for_org, for_user, gcs, s3

AFTER = Local(window_s=0)
TOKEN = Secret("mdm_st_" + "t" * 32)
PUT = Put("k", b"x", "0" * 64, 1)


class Book(MemoryDirectory):
    """One that can be away, and counts how often all of it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.read = 0
        self.tampered = False

    def storage_mark(self) -> str:
        if self.away:
            raise LedgerUnavailable
        return super().storage_mark()

    def kept_configs(self) -> list[KeptConfig]:
        self.read += 1
        kept = super().kept_configs()
        return [replace(each, broken=self.tampered and each.owner_id == USER) for each in kept]


class Opened:
    """Every adapter that was asked for."""

    def __init__(self) -> None:
        self.made: list[tuple[Destination, Closing]] = []
        self.broken: Exception | None = None
        self.holds: dict[str, dict[str, bytes]] = {}
        """What lies in each bucket."""

    def __call__(self, destination: Destination) -> BodyStore:
        if self.broken is not None:
            raise self.broken
        store = Closing()
        store.objects |= self.holds.get(getattr(destination, "bucket", ""), {})
        self.made.append((destination, store))
        return store


class Closing(MemoryBodyStore):
    """One that knows whether it is closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


class House:
    """A book, and the stores that follow it."""

    def __init__(self, local: Local = NOTHING_SAID) -> None:
        self.book = Book()
        self.opened = Opened()
        self.default = Closing()
        self.stores = DecidedStores(self.book, local, self.default, self.opened)
        self.registrations: dict[UUID, Registration] = {}

    def said(self, *configs: object, org_id: UUID = ORG) -> None:
        if org_id not in self.registrations:
            who = Identity(uuid4(), org_id, "Acme")
            self.registrations[org_id] = self.book.register(who, "https://butler.example", TOKEN)
        self.book.replace_storage_configs(self.registrations[org_id], configs)  # type: ignore[arg-type]

    def of(self, org_id: UUID = ORG, user_id: UUID | None = None) -> BodyStore | None:
        place = self.stores.of(Caller(uuid4(), org_id, user_id))
        return None if place is None else place.store

    def bucket(self, org_id: UUID = ORG, user_id: UUID | None = None) -> str | None:
        store = self.of(org_id, user_id)
        return next((to.bucket for to, made in self.opened.made if made is store and hasattr(to, "bucket")), None)


@pytest.fixture
def house() -> Iterator[House]:
    it = House()
    yield it
    it.stores.close()


def test_the_personal_one_then_the_organisations_then_that_of_the_settings(house: House) -> None:
    house.said(for_org(s3("org")), for_user(s3("personal")))
    house.said(for_user(s3("elsewhere"), USER), org_id=OTHER_ORG)
    assert house.stores.look()
    assert house.bucket(user_id=USER) == "personal"
    assert (house.bucket(user_id=OTHER_USER), house.bucket()) == ("org", "org")
    assert house.bucket(OTHER_ORG, USER) == "elsewhere", "an organisation's Personal config serves its own keys' calls"
    assert house.of(OTHER_ORG) is house.default
    assert house.of(uuid4(), USER) is house.default
    assert house.of(LOCAL_ORG, USER) is house.default


def test_without_any_there_is_none() -> None:
    stores = DecidedStores(Book(), AFTER, None, Opened())
    stores.look()
    assert stores.of(Caller(uuid4(), ORG)) is None
    assert stores.of(Caller(uuid4(), LOCAL_ORG)) is None


def test_a_scope_that_waits_is_skipped_and_never_followed(house: House) -> None:
    house.said(for_org(s3("org")), for_user(s3("personal", endpoint=EVIL)))
    house.stores.look()
    assert house.bucket(user_id=USER) == "org"
    house.said(for_org(s3("org", endpoint=EVIL)), for_user(None))
    house.stores.look()
    assert house.bucket(user_id=USER) == "org", "the last one that was in force"
    assert [to.bucket for to, _ in house.opened.made if hasattr(to, "bucket")] == ["org"], "no other was opened"


def test_what_is_approved_is_used_at_the_next_look_and_what_it_replaces_is_closed(house: House) -> None:
    house.said(for_org(s3("org")))
    house.stores.look()
    house.said(for_org(s3("new", endpoint="https://minio.example")))
    house.stores.look()
    assert house.bucket() == "org"
    [waits] = house.book.pending_approvals()
    house.book.approve(waits.fingerprint, "alice")
    assert house.stores.look()
    assert house.bucket() == "new"
    assert [made.closed for _, made in house.opened.made] == [True, False]


def test_of_an_owner_whose_row_was_tampered_with_bodies_wait(house: House) -> None:
    house.said(for_org(s3("org")), for_user(s3("personal")))
    house.book.tampered = True
    house.stores.look()
    assert house.bucket() == "org"
    place = house.stores.of(Caller(uuid4(), ORG, USER))
    assert place is not None
    assert place.store.put_many([PUT])[0] == PutResult(None)
    assert [to.bucket for to, _ in house.opened.made if hasattr(to, "bucket")] == ["org"]


def test_nothing_changed_costs_one_question_and_opens_nothing_anew(house: House) -> None:
    house.said(for_org(s3("org")), for_user(gcs("personal")))
    house.stores.look()
    before = house.stores.of(Caller(uuid4(), ORG))
    read = house.book.read
    assert not house.stores.look()
    assert house.book.read == read
    house.said(for_org(s3("org")))
    assert house.stores.look()
    assert house.stores.of(Caller(uuid4(), ORG)) is before, "the same place, the same client"
    assert len(house.opened.made) == 2


def test_a_renewed_secret_alone_is_another_client(house: House) -> None:
    house.said(for_org(s3()))
    house.stores.look()
    first = house.stores.of(Caller(uuid4(), ORG))
    house.said(for_org(s3(secret="renewed-secret")))
    house.stores.look()
    second = house.stores.of(Caller(uuid4(), ORG))
    assert first is not None
    assert second is not None
    assert (first.store is second.store, first.config_id == second.config_id) == (False, True)
    credentials = [to.credentials for to, _ in house.opened.made if hasattr(to, "credentials")]
    assert credentials[1] == S3Keys("AKIAEXAMPLE", Secret("renewed-secret"))


def test_with_the_database_down_what_is_known_stays_in_force(house: House) -> None:
    house.said(for_org(s3("org")))
    house.stores.look()
    house.book.away = True
    with pytest.raises(LedgerUnavailable):
        house.stores.look()
    assert house.bucket() == "org"


def test_before_the_first_answer_bodies_of_organisations_wait(house: House) -> None:
    house.book.away = True
    place = house.stores.of(Caller(uuid4(), ORG))
    assert place is not None
    [result] = place.store.put_many([PUT])
    assert (result.ref, result.refused) == (None, False), "to be tried again"
    assert house.of(LOCAL_ORG) is house.default


def test_a_store_that_cannot_be_opened_is_away_and_nothing_goes_elsewhere(house: House) -> None:
    house.opened.broken = SettingError("S3 needs boto3.")
    house.said(for_org(s3("org")))
    with listening() as said:
        house.stores.look()
    place = house.stores.of(Caller(uuid4(), ORG))
    assert place is not None
    assert place.store is not house.default
    assert place.store.put_many([PUT])[0].ref is None
    with pytest.raises(StoreUnavailable):
        place.store.get("k")
    assert said.events() == ["store_not_opened"]


def test_bodies_are_read_from_where_the_row_says_within_its_organisation(house: House) -> None:
    house.said(for_org(s3("org")))
    house.said(for_org(s3("theirs"), OTHER_ORG), org_id=OTHER_ORG)
    house.stores.look()
    place = house.stores.of(Caller(uuid4(), ORG))
    assert place is not None
    assert house.stores.holding(ORG, place.config_id) is place.store
    assert house.stores.holding(OTHER_ORG, place.config_id) is None
    assert house.stores.holding(ORG, None) is house.default
    assert house.stores.holding(ORG, uuid4()) is None


def _config_id(house: House) -> UUID:
    place = house.stores.of(Caller(uuid4(), ORG))
    assert place is not None and place.config_id is not None
    return place.config_id


def test_of_a_bucket_that_was_replaced_what_lies_there_is_still_read_and_nothing_written(house: House) -> None:
    house.opened.holds = {"first": {"k": b"kept"}}
    house.said(for_org(s3("first")))
    house.stores.look()
    first = _config_id(house)
    house.said(for_org(s3("second")))
    house.stores.look()
    assert house.bucket() == "second"
    past = house.stores.holding(ORG, first)
    assert past is not None
    assert past.get("k") == b"kept"
    assert house.opened.made[-1][1].closed, "nothing of it stays open"
    assert past.put_many([PUT])[0].ref is None
    with pytest.raises(StoreUnavailable):
        past.delete("k")
    assert house.stores.holding(OTHER_ORG, first) is None
    house.said(for_org(s3("third")))
    house.stores.look()
    assert house.stores.holding(ORG, first) is None, "only the last one before is kept"


@pytest.mark.parametrize("now", [Local(allow=allow_list("s3://second@eu-west-1")), Local(managed=True)])
def test_a_bucket_that_policy_does_not_allow_any_more_is_not_even_read(now: Local) -> None:
    before = House()
    to = s3("first", endpoint="https://10.0.0.5") if now.managed else s3("first")
    before.said(for_org(to))
    for each in before.book.pending_approvals():
        before.book.approve(each.fingerprint, "ada")
    before.stores.look()
    first = _config_id(before)
    before.said(for_org(s3("second")))
    before.stores.look()
    assert before.stores.holding(ORG, first) is not None
    stores = DecidedStores(before.book, now, None, before.opened)
    stores.look()
    assert stores.holding(ORG, first) is None


def test_a_bucket_that_waits_for_a_person_is_not_read(house: House) -> None:
    house.said(for_org(s3("first")))
    house.said(for_org(s3("waiting", endpoint=EVIL)))
    house.stores.look()
    waiting = next(each for each in house.book.kept_configs() if each.current)
    assert house.bucket() == "first"
    assert house.stores.holding(ORG, waiting.id) is None


def test_one_store_serves_all() -> None:
    store = Closing()
    stores = OneStore(store)
    place = stores.of(Caller(uuid4(), ORG))
    assert isinstance(place, Place)
    assert (place.store, place.config_id) == (store, None)
    assert (stores.holding(ORG, None), stores.holding(ORG, uuid4())) == (store, None)
    assert OneStore(None).of(Caller(uuid4(), ORG)) is None
    stores.close()
    assert store.closed


def test_it_looks_by_itself_through_outages(house: House) -> None:
    house.book.away = True
    looking = Looking(house.stores, 0.005)
    with listening() as said:
        looking.start()
        eventually(lambda: said.events())
        assert said.events() == ["stores_not_looked_up"], "said once"
        house.book.away = False
        house.said(for_org(s3("org")))
        eventually(lambda: house.bucket() == "org")
        house.said(for_org(replace(s3("other"))))
        eventually(lambda: house.bucket() == "other")
        looking.end()
        looking._thread.join(10)
    assert not looking._thread.is_alive()


def test_who_changes_much_all_the_time_does_not_keep_the_processor(house: House) -> None:
    """A Butler that sends 10,000 other rows every tick: each look takes seconds, and calls wait meanwhile."""
    looks: list[float] = []

    def look() -> bool:
        looks.append(time.monotonic())
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        return False

    house.stores.look = look  # type: ignore[method-assign]
    looking = Looking(house.stores, 0.001)
    looking.start()
    eventually(lambda: len(looks) >= 4)
    looking.end()
    assert min(later - before for before, later in pairwise(looks)) >= 0.15


def test_closing_closes_all(house: House) -> None:
    house.said(for_org(s3("org")))
    house.stores.look()
    house.stores.close()
    assert [made.closed for _, made in house.opened.made] == [True]
    assert house.default.closed
