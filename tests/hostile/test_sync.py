"""A Butler in hostile hands, call by call: what it mints and withdraws is its own, no more moves (F8, F11, F20)."""

from __future__ import annotations

import itertools
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from steward.adapters.memory import MemoryTurns
from steward.adapters.postgres_directory import PostgresDirectory
from steward.exchange import LOCAL_ORG
from steward.ports import ApiKey
from tests.said import Said, listening
from tests.servers.butler_stub import (
    Organisation,
    Put,
    StubButler,
    document,
    key_hash,
    seconds_ago,
    spelled,
    stub_butler,
)
from tests.servers.postgres import Database
from tests.test_sync import LIMITS, House

FAR = "9999-12-31T23:59:59Z"


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


class Street:
    """One Steward, an organisation at an honest Butler, and another at a hostile one."""

    def __init__(self, database: Database, honest: StubButler, hostile: StubButler) -> None:
        self.database = database
        self.honest, self.hostile = honest, hostile
        self.victim, self.evil = honest.organisations[0], hostile.organisations[0]
        self.house = House(PostgresDirectory(database.engine, database.keyring), MemoryTurns())
        self.registrations = [self.house.register(honest, self.victim), self.house.register(hostile, self.evil)]
        self.victim.key("shop", updated_at=seconds_ago(600), user_id=str(uuid4()))
        self.victim.key("gone", updated_at=seconds_ago(600), is_active=False, revoked_at=seconds_ago(600))
        self.evil.key("own", updated_at=seconds_ago(600), user_id=str(uuid4()))
        self.local = self.house.directory.create_key(LOCAL_ORG, "made inside", key_hash("local"))
        self.house.tick()
        self.evil.acknowledged.clear()

    def dump(self, org_id: UUID) -> list[str]:
        """Every row of an organisation, in every table; when its Butler was heard and read whole apart."""
        tables = self.database.run(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'org_id' AND table_schema = 'public'"
            " ORDER BY table_name"
        )
        rows = []
        for (table,) in tables:
            found = self.database.run(
                f"SELECT to_jsonb(t) - '{{heard_at,last_full_at}}'::text[] FROM {table} AS t WHERE org_id = :org",
                org=org_id,
            )
            rows += [f"{table} {orjson.dumps(row[0], option=orjson.OPT_SORT_KEYS).decode()}" for row in found]
        return sorted(rows)

    def others(self) -> list[list[str]]:
        """All that is not the hostile one's."""
        return [self.dump(self.victim.id), self.dump(LOCAL_ORG)]

    def says(self, rows: list[dict[str, Any]]) -> None:
        """The hostile Butler answers so, in a page and in every full pull."""
        self.hostile.instead["/api-keys"] = document(200, rows)
        self.evil.job("sync_api_keys")
        self.house.tick(3600)
        self.house.tick(3600)

    def own(self) -> dict[str, ApiKey]:
        return {key.name: key for key in self.house.directory.list_keys(self.evil.id)}


@contextmanager
def a_street(database: Database) -> Iterator[Street]:
    with stub_butler(Organisation("Victim")) as honest, stub_butler(Organisation("Evil")) as hostile:
        street = Street(database, honest, hostile)
        yield street
        street.house.syncer.finish(10)


@pytest.fixture
def street(postgres: Database) -> Iterator[Street]:
    with a_street(postgres) as made:
        yield made


def test_every_field_of_a_key_crossed_changes_nothing_of_another_s(street: Street) -> None:
    """Ids, hashes, users and organisations of the other one, of a local key and of nobody, in every combination."""
    theirs, own, before = street.victim.keys["shop"], street.evil.keys["own"], street.others()
    fields = {
        "id": [theirs["id"], str(street.local.id), own["id"], str(uuid4())],
        "key_hash": [theirs["key_hash"], street.local.key_hash, own["key_hash"], key_hash("new")],
        "user_id": [theirs["user_id"], own["user_id"], None],
        "org_id": [str(street.victim.id), str(LOCAL_ORG), str(street.evil.id), None],
        "is_active": [True, False],
    }
    crossed = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    rows = [
        {"name": "crossed", "created_at": FAR, "updated_at": at, "revoked_at": None if row["is_active"] else at, **row}
        for row in crossed
        for at in (FAR, spelled(datetime.now(UTC)))
    ]
    street.says(rows)
    assert street.others() == before
    for key in street.own().values():
        assert (key.org_id, key.registration_id) == (street.evil.id, street.registrations[1].id)
        assert key.key_hash in {own["key_hash"], key_hash("new")}
        assert str(key.id) not in {theirs["id"], str(street.local.id)}
    assert {str(key.user_id) for key in street.own().values() if key.key_hash == own["key_hash"]} == {own["user_id"]}


def test_two_hostile_butlers_cross_each_other_at_once(street: Street) -> None:
    """Each sends the other's keys as its own, active, revoked and of the future; each has its own and no other."""
    before = [street.dump(who.id) for who in (street.victim, street.evil)]
    hostile: list[tuple[StubButler, Organisation, Organisation]] = [
        (street.honest, street.victim, street.evil),
        (street.hostile, street.evil, street.victim),
    ]
    for butler, own, other in hostile:
        taken = [
            {**row, "org_id": org, "updated_at": at, "is_active": active, "revoked_at": None if active else at}
            for row in other.keys.values()
            for org in (str(own.id), None)
            for at in (FAR, seconds_ago(0))
            for active in (True, False)
        ]
        moved = [{**row, "id": str(uuid4())} for row in taken] + [{**row, "key_hash": key_hash("x")} for row in taken]
        butler.instead["/api-keys"] = document(200, [*own.keys.values(), *taken, *moved])
        own.job("sync_api_keys", org_id=str(other.id))
        own.job("sync_api_keys")
    for _ in range(3):
        street.house.tick(3600)
    without_sync = [[row for row in rows if not row.startswith("sync_state ")] for rows in before]
    after = [street.dump(who.id) for who in (street.victim, street.evil)]
    assert [[row for row in rows if not row.startswith("sync_state ")] for rows in after] == without_sync


def test_a_hash_that_it_knows_is_not_taken_from_who_has_it(street: Street) -> None:
    before = street.others()
    rows = [
        {**street.victim.keys["shop"], "id": str(uuid4()), "org_id": None},
        {**street.evil.keys["own"], "key_hash": street.local.key_hash},
    ]
    street.says([*rows, street.evil.keys["own"]])
    assert street.others() == before
    assert street.own().keys() == {"own"}


@pytest.mark.parametrize("change", [{"user_id": str(uuid4())}, {"user_id": None}, {"key_hash": key_hash("other")}])
def test_a_known_key_keeps_its_user_and_its_hash(street: Street, change: dict[str, Any]) -> None:
    [before] = street.own().values()
    street.says([{**street.evil.keys["own"], **change, "updated_at": seconds_ago(0), "name": "moved"}])
    assert list(street.own().values()) == [before]


def test_a_key_revoked_inside_stays_revoked(street: Street) -> None:
    [key] = street.own().values()
    street.house.directory.revoke_key(street.evil.id, key.id)
    for at in (seconds_ago(0), FAR):
        street.says([{**street.evil.keys["own"], "is_active": True, "revoked_at": None, "updated_at": at}])
        [found] = street.own().values()
        assert found.is_active is False
        assert found.revoked_at is not None


def test_a_date_in_9999_freezes_nothing(street: Street) -> None:
    """Neither the watermark nor the key: a revocation that comes after it holds."""
    street.says(
        [
            {**street.evil.keys["own"], "updated_at": FAR},
            {**street.evil.keys["own"], "id": str(uuid4()), "key_hash": key_hash("b"), "name": "b", "updated_at": FAR},
        ]
    )
    assert [key.is_active for key in street.own().values()] == [True, True]
    watermark = street.house.directory.sync_state(street.registrations[1], "api_keys").watermark
    assert watermark is not None
    assert watermark < datetime.now(UTC)
    street.hostile.instead.clear()
    street.evil.key("own", is_active=False)
    street.evil.keys["b"] = {
        **street.evil.keys["own"],
        "id": str(street.own()["b"].id),
        "key_hash": key_hash("b"),
        "name": "b",
        "revoked_at": seconds_ago(0),
        "user_id": street.evil.keys["own"]["user_id"],
    }
    street.house.tick()
    assert [key.is_active for key in street.own().values()] == [False, False]


def test_work_for_another_organisation_is_failed_and_ids_are_ids(street: Street) -> None:
    before = street.others()
    foreign = [street.evil.job(kind, org_id=str(street.victim.id)) for kind in ("sync_api_keys", "replay", "eval")]
    street.evil.work += [{"job_id": "../../me", "job_type": "eval"}, {"job_id": "x/ack?y=z", "job_type": "replay"}]
    unknown = street.evil.job("run; rm -rf /")
    street.hostile.asked.clear()
    street.house.tick()
    assert street.evil.failed == [*foreign, unknown]
    assert street.evil.acknowledged == []
    assert street.others() == before
    assert {target for _, method, target in street.hostile.asked if method == "POST"} == {
        f"/api/v1/steward/work/{job}/fail" for job in (*foreign, unknown)
    }


def redirect(to: str) -> Put:
    return document(302, None, ("Location", to))


def endless(handler: BaseHTTPRequestHandler) -> None:
    """10 GB of one list, as fast as it is taken."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(10 << 30))
    handler.end_headers()
    with suppress(OSError):
        handler.wfile.write(b"[")
        while True:
            handler.wfile.write(b'{"id":1},' * 10_000)


ANSWERS: dict[str, Callable[[str], Put]] = {
    "redirect": redirect,
    "10 GB": lambda _: endless,
    "deep": lambda _: document(200, b"[" * 100_000 + b"]" * 100_000),
    "many": lambda _: document(200, [{}] * 10_001),
    "years": lambda _: document(503, None, ("Retry-After", str(10 * 365 * 86_400))),
    "a word": lambda _: document(200, "sync"),
    "nothing": lambda _: document(204, None),
    "a million": lambda _: document(200, b"[" + b'"a",' * 1_000_000 + b"1]"),
    "compressed": lambda _: document(200, b"\x1f\x8b\x08", ("Content-Encoding", "gzip")),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("path", ["*", "/work", "/api-keys", "/cloud-storage-configs"])
def test_whatever_it_answers_costs_nobody_anything(street: Street, answer: str, path: str) -> None:
    """Memory flat, the token sent to no second host, the others in time, its own keys as they are."""
    before = street.others()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        street.hostile.instead[path] = ANSWERS[answer](
            f"http://127.0.0.1:{elsewhere.getsockname()[1]}/api/v1/steward/me"
        )
        for kind in ("sync_api_keys", "sync_cloud_storage"):
            street.evil.job(kind)
        street.victim.key("new")
        tracemalloc.start()
        street.house.tick(3600)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert peak < 100 << 20
    assert street.house.active("new") is True
    assert street.house.active("own") is True
    assert [row for row in street.dump(street.victim.id) if row in before[0]]
    assert street.dump(LOCAL_ORG) == before[1]
    street.hostile.instead.clear()
    street.evil.key("later")
    street.house.tick(301)
    street.house.tick(301)
    assert street.house.active("later") is True, "five minutes later it is heard again"


def test_invented_keys_without_end_are_bounded(street: Street, said: Said) -> None:
    """Pages that are always full and always new: it goes on with its work, and rests no key for what it did not see."""
    at = datetime.now(UTC) - timedelta(days=1)
    number = itertools.count()

    def page(handler: BaseHTTPRequestHandler) -> None:
        rows = []
        for _ in range(200):
            each = next(number)
            changed = spelled(at + timedelta(seconds=2 * each))
            rows.append(
                {
                    "id": f"{each:08x}-0000-4000-8000-000000000000",
                    "key_hash": key_hash(str(each)),
                    "name": "x",
                    "is_active": True,
                    "created_at": changed,
                    "updated_at": changed,
                }
            )
        document(200, rows)(handler)

    street.hostile.instead["/api-keys"] = page
    bounded = House(street.house.directory, MemoryTurns(), replace(LIMITS, turn_s=-1.0))
    bounded.tick()
    assert len(street.hostile.targets("/api-keys")) <= 3
    assert "sync_incomplete" in said.events()
    assert street.house.active("own") is True
    bounded.syncer.finish(10)


def test_a_revocation_by_butler_and_one_inside_hold_on_every_replica(street: Street) -> None:
    """After each hostile play, both are seen by the next poll of any process."""
    street.says([{**street.evil.keys["own"], "updated_at": FAR}])
    street.hostile.instead.clear()
    street.evil.key("own", is_active=False, revoked_at=seconds_ago(0))
    street.house.tick()
    changed = {key.key_hash: key.is_active for key in street.house.directory.changed_keys()}
    assert changed[key_hash("own")] is False
    shop = street.house.key("shop")
    assert shop is not None
    street.house.directory.revoke_key(street.victim.id, shop.id)
    street.victim.key("shop", description="again")
    street.house.tick()
    changed = {key.key_hash: key.is_active for key in street.house.directory.changed_keys()}
    assert changed[key_hash("shop")] is False
