"""Sync, over a Butler that listens: what changed there holds here within a turn; one Butler's trouble is its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.engine import Engine

from steward import egress
from steward.adapters.butler import HttpButler
from steward.adapters.memory import MemoryDirectory, MemoryTurns
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_sync import PostgresTurns
from steward.errors import ButlerNonsense, ButlerUnavailable, LedgerUnavailable
from steward.ports import ApiKey, ControlPlane, Directory, Identity, Registration, Turns
from steward.sync import Syncer, SyncLimits, WholeSet
from steward.words import Secret
from tests.said import Said, listening
from tests.servers.butler_stub import Organisation, StubButler, document, key_hash, seconds_ago, spelled, stub_butler
from tests.servers.postgres import Database
from tests.servers.waiting import eventually

LIMITS = SyncLimits(patience_s=20.0)
"""A round waits until its turns are done."""


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


class Clock:
    """Turns only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """One Steward's sync."""

    directory: Directory = field(default_factory=MemoryDirectory)
    turns: Turns = field(default_factory=MemoryTurns)
    limits: SyncLimits = LIMITS
    clock: Clock = field(default_factory=Clock)
    taken: dict[str, list[object]] = field(default_factory=lambda: {"storage": [], "keys": []})
    """What was handed over as whole sets."""
    deadline_s: float = 10.0
    reaches: bool = True
    """Whether there is a way from here to Butler."""
    engines: list[Engine] = field(default_factory=list)

    def __post_init__(self) -> None:
        def take(what: str, call: egress.Call) -> WholeSet:
            return WholeSet(call, lambda _, said: self._take(what, said))

        self.syncer = Syncer(
            self.directory,
            self.turns,
            self._open,
            {
                "sync_cloud_storage": take("storage", egress.StorageConfigs()),
                "sync_provider_keys": take("keys", egress.ProviderKeys()),
            },
            self.limits,
            self.clock,
        )

    def _open(self, registration: Registration, token: Secret[str]) -> ControlPlane:
        if not self.reaches:
            raise ButlerUnavailable
        return HttpButler(registration.butler_url, token, deadline_s=self.deadline_s)

    def _take(self, what: str, said: object) -> None:
        if not isinstance(said, list):
            raise ButlerNonsense
        self.taken[what].append(said)

    def register(self, butler: StubButler, who: Organisation) -> Registration:
        return self.directory.register(Identity(who.steward_id, who.id, who.name), butler.url, Secret(who.token))

    def tick(self, seconds: float = 5.0) -> bool:
        """One round, so much later."""
        self.clock.now += seconds
        return self.syncer.run_once()

    def key(self, name: str) -> ApiKey | None:
        return self.directory.find_key(key_hash(name))

    def active(self, name: str) -> bool | None:
        """None: no such key."""
        found = self.key(name)
        return None if found is None else found.is_active


@contextmanager
def syncing(*organisations: Organisation, strict: bool = True, **parts: Any) -> Iterator[tuple[House, StubButler]]:
    with stub_butler(*organisations, strict=strict) as butler:
        house = House(**parts)
        for each in organisations:
            house.register(butler, each)
        yield house, butler
        house.syncer.finish(5)


def known(house: House, who: Organisation) -> Registration:
    return next(each for each in house.directory.registrations() if each.org_id == who.id)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_a_key_made_in_butler_works_within_a_tick(strict: bool) -> None:
    acme = Organisation()
    with syncing(acme, strict=strict) as (house, _):
        house.tick()
        assert house.active("shop") is None
        acme.key("shop", description="the shop")
        house.tick()
        key = house.key("shop")
        assert key is not None
        assert (key.is_active, key.org_id, key.description) == (True, acme.id, "the shop")
        assert key.registration_id == known(house, acme).id
        acme.key("shop", is_active=False, revoked_at=spelled(datetime.now(UTC)))
        house.tick()
        assert house.active("shop") is False
        assert len(acme.acknowledged) == 2
        assert acme.failed == []


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_a_first_registration_pulls_everything_without_waiting_for_work(strict: bool) -> None:
    acme = Organisation(storage=[{"provider": "s3"}], provider_keys=[{"provider": "openai"}])
    acme.key("old", updated_at=seconds_ago(86_400))
    acme.key("new")
    acme.work.clear()
    with syncing(acme, strict=strict) as (house, _):
        house.tick()
        assert (house.active("old"), house.active("new")) == (True, True)
        assert house.taken == {"storage": [acme.storage], "keys": [acme.provider_keys]}


def test_each_work_item_is_acknowledged_or_failed_on_its_own(said: Said) -> None:
    acme = Organisation()
    with syncing(acme) as (house, butler):
        house.tick()
        butler.asked.clear()
        done = [acme.job(kind) for kind in ("sync_api_keys", "sync_cloud_storage", "sync_provider_keys")]
        done += [acme.job("sync_api_keys"), acme.job("sync_cloud_storage")]
        not_done = [acme.job(kind) for kind in ("sync_experiments", "replay", "eval", "dig up the garden", "replay")]
        not_done.append(acme.job("sync_api_keys", org_id=str(uuid4())))
        acme.work += [{"job_id": "../x", "job_type": "eval"}, {"job_id": None}]
        house.tick()
        assert (acme.acknowledged, acme.failed) == (done, not_done)
        assert len(butler.targets("/api-keys")) == 1, "items of one kind are one pull"
        assert [len(sets) for sets in house.taken.values()] == [2, 2]
        assert [line["count"] for line in said.lines("sync_skipped")] == [2]
        acme.job("replay")
        house.tick()
        told = [line["work"] for line in said.lines("sync_work_not_served")]
        assert told == ["sync_experiments", "replay", "eval", "unknown"], "once each"


def test_one_item_that_butler_refuses_to_hear_of_stops_no_other() -> None:
    acme = Organisation()
    with syncing(acme) as (house, butler):
        house.tick()
        gone, there = acme.job("sync_api_keys"), acme.job("sync_api_keys")
        butler.instead[f"/work/{gone}/ack"] = document(404, {"error": "no such item"})
        house.tick()
        assert acme.acknowledged == [there]


def test_a_set_that_cannot_be_read_fails_its_items_alone(said: Said) -> None:
    acme = Organisation()
    with syncing(acme) as (house, butler):
        house.tick()
        butler.instead["/cloud-storage-configs"] = document(200, {"not": "a list"})
        wrong, right = acme.job("sync_cloud_storage"), acme.job("sync_provider_keys")
        house.tick()
        assert (acme.acknowledged, acme.failed) == ([right], [wrong])
        assert said.events().count("sync_answer_refused") == 1


def test_a_lost_work_item_costs_an_hour_at_most() -> None:
    acme = Organisation()
    with syncing(acme) as (house, _):
        house.tick()
        acme.key("late")
        acme.work.clear()
        house.tick(1800)
        assert house.active("late") is None
        house.tick(1800)
        assert house.active("late") is True


def test_what_is_no_longer_in_butler_rests_with_the_next_full_pull_and_may_come_back() -> None:
    acme = Organisation(storage=[{"provider": "s3"}])
    row = acme.key("dropped", updated_at=seconds_ago(60))
    acme.key("kept", updated_at=seconds_ago(60))
    with syncing(acme) as (house, _):
        house.tick()
        del acme.keys["dropped"]
        acme.storage.clear()
        house.tick(3600)
        assert (house.active("dropped"), house.active("kept")) == (False, True)
        assert house.taken["storage"][-1] == []
        acme.keys["dropped"] = row
        house.tick(3600)
        assert house.active("dropped") is True


def test_a_garbled_row_does_not_rest_its_key() -> None:
    acme = Organisation()
    acme.key("shop", updated_at=seconds_ago(60))
    with syncing(acme) as (house, _):
        house.tick()
        acme.keys["shop"]["name"] = 7
        house.tick(3600)
        assert house.active("shop") is True


def test_a_restart_goes_on_from_the_watermark_and_pulls_everything_once() -> None:
    acme = Organisation()
    acme.key("shop", updated_at=seconds_ago(60))
    with syncing(acme) as (house, butler):
        house.tick()
        butler.asked.clear()
        acme.job("sync_api_keys")
        house.tick()
        at = datetime.fromisoformat(acme.keys["shop"]["updated_at"]) - timedelta(seconds=1)
        assert butler.targets("/api-keys") == [f"/api/v1/steward/api-keys?updated_after={_quoted(at)}&limit=200"]
        butler.asked.clear()
        again = House(directory=house.directory)
        again.tick()
        again.syncer.finish(5)
        assert butler.targets("/api-keys") == [
            "/api/v1/steward/api-keys?updated_after=1970-01-01T00%3A00%3A00Z&limit=200"
        ]


def _quoted(at: datetime) -> str:
    return spelled(at).replace(":", "%3A")


def test_a_thousand_keys_come_by_pages_and_also_when_all_are_of_one_second() -> None:
    acme = Organisation()
    start = datetime.now(UTC) - timedelta(hours=1)
    for number in range(1000):
        acme.key(f"key {number}", updated_at=spelled(start + timedelta(microseconds=number)))
    with syncing(acme) as (house, butler):
        house.tick()
        assert len(house.directory.list_keys(acme.id)) == 1000
        assert all(key.is_active for key in house.directory.list_keys(acme.id))
        assert len(butler.targets("/api-keys")) < 20


def test_more_work_than_one_asks_for_waits_for_no_tick_and_not_for_ever() -> None:
    acme = Organisation()
    with syncing(acme, limits=replace(LIMITS, work_items=2, in_a_row=3)) as (house, butler):
        for _ in range(20):
            acme.job("sync_api_keys")
        assert [house.tick(0), house.tick(0), house.tick(0)] == [True, True, False]
        assert len(acme.acknowledged) == 6
        butler.asked.clear()
        assert house.tick(0) is False
        assert butler.asked == [], "it waits for the next tick"
        assert house.tick(5) is True


def test_work_without_end_is_asked_for_less_and_less_often() -> None:
    """Each item costs a row of the log of what left, which is never shortened: 8 million a day, else."""
    acme = Organisation()
    with syncing(acme, limits=replace(LIMITS, work_items=2, in_a_row=2)) as (house, _):
        for _ in range(200):
            acme.job("sync_api_keys")
        for _ in range(60):
            house.tick(5)
            house.tick(0)
        assert 20 <= len(acme.acknowledged) <= 40
        acme.work.clear()
        house.tick(400)
        acme.key("shop")
        house.tick(5)
        assert house.active("shop") is True


def test_more_organisations_than_have_a_turn_at_once_wait_for_no_tick() -> None:
    many = [Organisation(name=f"Org {number}") for number in range(5)]
    with syncing(*many, limits=replace(LIMITS, at_once=2)) as (house, butler):
        assert [house.tick(5), house.tick(0), house.tick(0)] == [True, True, False]
        assert len(butler.targets("/work")) == 5
        assert house.tick(0) is False
        assert len(butler.targets("/work")) == 5, "each has its turn once a tick"


def test_butler_away_is_left_alone_longer_and_longer_and_then_caught_up_with(said: Said) -> None:
    acme = Organisation()
    with syncing(acme) as (house, butler):
        house.tick()
        butler.instead["*"] = document(503, None)
        acme.key("shop")
        butler.asked.clear()
        for _ in range(100):
            house.tick(5)
        assert 3 <= len(butler.asked) < 40, "of a hundred ticks"
        assert said.events().count("sync_failed") == 1
        assert known(house, acme).fault == "butler_unavailable"
        butler.instead.clear()
        house.tick(300)
        house.tick(5)
        assert house.active("shop") is True
        assert known(house, acme).fault is None
        assert said.events().count("sync_recovered") == 1


def test_how_long_it_wants_to_be_left_alone_is_believed_up_to_five_minutes() -> None:
    """F11, F20: `Retry-After: 10 years`."""
    acme = Organisation()
    with syncing(acme) as (house, butler):
        house.tick()
        butler.instead["*"] = document(503, None, ("Retry-After", "315360000"))
        house.tick()
        butler.asked.clear()
        butler.instead.clear()
        house.tick(299)
        assert butler.asked == []
        house.tick(2)
        assert butler.asked != []


def test_a_token_that_butler_does_not_know_is_said_and_its_keys_work_on(said: Said) -> None:
    acme, other = Organisation(), Organisation(name="Other")
    acme.key("shop")
    with syncing(acme, other) as (house, butler):
        house.tick()
        token, acme.token = acme.token, "mdm_st_" + "x" * 32
        other.key("theirs")
        house.tick()
        house.tick(600)
        assert (house.active("shop"), house.active("theirs")) == (True, True)
        assert said.events().count("sync_denied") == 1
        assert [known(house, who).fault for who in (acme, other)] == ["butler_denied", None]
        butler.asked.clear()
        acme.token = "mdm_st_" + "y" * 32
        acme.key("new")
        house.register(butler, acme)
        house.tick()
        assert house.active("new") is True, "registered again, it is asked at once"
        assert token not in {asked for asked, _, _ in butler.asked}


def test_who_is_deregistered_is_asked_no_more_and_comes_back_with_all_its_keys() -> None:
    acme = Organisation()
    acme.key("shop", updated_at=seconds_ago(600))
    with syncing(acme) as (house, butler):
        house.tick()
        house.directory.deregister(acme.id)
        butler.asked.clear()
        house.tick()
        assert butler.asked == []
        assert house.active("shop") is False
        house.register(butler, acme)
        house.tick()
        assert house.active("shop") is True


def test_one_that_never_answers_delays_no_other() -> None:
    stuck, acme = Organisation(name="Stuck"), Organisation()
    waiting = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        waiting.wait(30)
        handler.close_connection = True

    with stub_butler(stuck) as bad, stub_butler(acme) as good:
        bad.instead["*"] = hang
        house = House(limits=replace(LIMITS, patience_s=0.1))
        house.register(bad, stuck)
        house.register(good, acme)
        acme.key("shop")
        house.tick()
        eventually(lambda: house.active("shop"))
        acme.key("second")
        house.tick()
        eventually(lambda: house.active("second"))
        assert len(bad.asked) == 1, "and it has one turn at a time itself"
        waiting.set()
        eventually(lambda: known(house, stuck).fault)
        house.syncer.finish(5)


def test_an_outage_of_the_database_is_survived(said: Said) -> None:
    class Away(MemoryDirectory):
        away = False

        def token(self, org_id: UUID, at: Registration | None = None) -> Secret[str] | None:
            if self.away:
                raise LedgerUnavailable
            return super().token(org_id, at)

    acme, directory = Organisation(), Away()
    acme.key("shop")
    with syncing(acme, directory=directory) as (house, _):
        directory.away = True
        house.tick()
        assert said.events().count("sync_failed") == 1
        directory.away = False
        house.tick(300)
        assert house.active("shop") is True


# several replicas


def replicas(database: Database, count: int) -> list[House]:
    """Each with its own connections."""
    made = []
    for _ in range(count):
        engines = [open_engine(database.address), open_engine(replace(database.address, max_conns=1))]
        made.append(House(PostgresDirectory(engines[0], database.keyring), PostgresTurns(engines[1]), engines=engines))
    return made


def end(house: House) -> None:
    house.syncer.finish(5)
    for engine in house.engines:
        engine.dispose()


def test_of_three_replicas_at_once_one_syncs_and_another_takes_over(postgres: Database) -> None:
    acme, other = Organisation(), Organisation(name="Other")
    acme.key("shop")
    with stub_butler(acme, other) as butler:
        houses = replicas(postgres, 3)
        for who in (acme, other):
            houses[0].register(butler, who)
        for _ in range(3):
            _together([house.tick for house in houses])
        assert houses[2].active("shop") is True
        assert len(butler.targets("/cloud-storage-configs")) == 2, "one full pull for each organisation"
        assert len(butler.targets("/work")) == 6, "one turn a tick for each"
        for house in houses[:2]:
            end(house)
        acme.key("second")
        eventually(lambda: houses[2].tick() or houses[2].active("second"))  # the server frees the turns of the ended
        assert len(butler.targets("/cloud-storage-configs")) in {3, 4}, "whoever takes over pulls everything first"
        end(houses[2])


def test_a_replica_that_cannot_reach_butler_lets_another_try(postgres: Database) -> None:
    acme = Organisation()
    with stub_butler(acme) as butler:
        one, other = replicas(postgres, 2)
        one.register(butler, acme)
        one.reaches = False
        one.tick()
        acme.key("shop")
        other.tick()
        assert other.active("shop") is None, "it is the turn of the first"
        for _ in range(2):
            one.tick(300)
        one.tick(5)
        other.tick()
        assert other.active("shop") is True
        for house in (one, other):
            end(house)


def test_a_replica_that_loses_its_connection_loses_its_turn(postgres: Database) -> None:
    acme = Organisation()
    with stub_butler(acme) as butler:
        one, other = replicas(postgres, 2)
        one.register(butler, acme)
        one.tick()
        registration = known(one, acme)
        assert other.turns.hold(registration.id) is False
        postgres.run(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        eventually(lambda: other.turns.hold(registration.id))
        butler.asked.clear()
        one.tick()
        one.tick(300)
        assert butler.asked == []
        for house in (one, other):
            end(house)


def _together(calls: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
