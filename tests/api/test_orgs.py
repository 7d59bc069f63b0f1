"""`/admin/orgs`: for the admin token alone, ten wrong tries a minute, and no value in an answer's complaint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from steward.adapters.butler import HttpButler
from steward.adapters.memory import MemoryDirectory
from steward.api import orgs
from steward.api.orgs import AdminDoor, Organisations
from steward.errors import LedgerUnavailable
from steward.ports import ControlPlane, Identity, Registration
from steward.words import Secret
from tests.api.asking import ask, bearer
from tests.servers.butler_stub import Organisation, StubButler, document, stub_butler

ADMIN = "an-admin-token-of-more-than-32-characters"
PATH = "/admin/orgs"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def opener(url: str, token: Secret[str]) -> ControlPlane:
    return HttpButler(url, token, deadline_s=5)


class House:
    """The routes over a directory in memory."""

    def __init__(self, token: str | None = ADMIN, **parts: Any) -> None:
        self.directory = parts.pop("directory", MemoryDirectory())
        self.clock = Clock()
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self.app.include_router(orgs.router)
        door = AdminDoor(None if token is None else Secret(token), self.clock)
        self.app.state.organisations = Organisations(self.directory, opener, door, **parts)

    def ask(self, path: str = PATH, method: str = "GET", body: Any = None, token: str = ADMIN) -> httpx.Response:
        answer: httpx.Response = ask(self.app, path, bearer(token), method, body)
        return answer

    def post(self, butler: StubButler, who: Organisation, **changes: Any) -> httpx.Response:
        return self.ask(method="POST", body={"token": who.token, "butler_url": butler.url, **changes})


@pytest.fixture
def acme() -> Organisation:
    return Organisation()


@pytest.fixture
def butler(acme: Organisation) -> Iterator[StubButler]:
    with stub_butler(acme) as made:
        yield made


def test_an_organisation_is_registered_listed_and_deregistered(butler: StubButler, acme: Organisation) -> None:
    house = House(waiting=lambda each: {"rows": 3, "approvals": 1})
    made = house.post(butler, acme)
    assert (made.status_code, made.json()["org_id"]) == (201, str(acme.id))
    assert house.directory.token(acme.id) == Secret(acme.token)
    [listed] = house.ask().json()["organisations"]
    assert (listed["org_name"], listed["butler_url"], listed["deregistered_at"]) == ("Acme", butler.url, None)
    assert listed["pending"] == {"rows": 3, "approvals": 1}
    ended = house.ask(f"{PATH}/{acme.id}", "DELETE")
    assert (ended.status_code, ended.json()["org_id"]) == (200, str(acme.id))
    assert house.directory.token(acme.id) is None
    assert house.ask().json()["organisations"][0]["deregistered_at"] is not None
    assert acme.token not in made.text + ended.text + json.dumps(listed)
    assert made.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_without_an_admin_token_it_does_not_exist(method: str, butler: StubButler, acme: Organisation) -> None:
    house = House(token=None)
    path = f"{PATH}/{acme.id}" if method == "DELETE" else PATH
    answer = house.ask(path, method, {"token": acme.token, "butler_url": butler.url})
    assert (answer.status_code, butler.asked) == (404, [])


@pytest.mark.parametrize("token", ["", "x" * 40, ADMIN[:-1], ADMIN + "x", "mdm_sk_" + "a" * 40])
def test_it_opens_to_nobody_else(token: str, butler: StubButler, acme: Organisation) -> None:
    house = House()
    body = {"token": acme.token, "butler_url": butler.url}
    for path, method in ((PATH, "GET"), (PATH, "POST"), (f"{PATH}/{acme.id}", "DELETE")):
        answer = house.ask(path, method, body, token)
        assert (answer.status_code, answer.json()) == (401, {"error": {"code": "admins_only"}})
    assert (butler.asked, house.directory.registrations()) == ([], [])


def test_ten_wrong_tries_a_minute_and_the_right_one_waits_too(butler: StubButler, acme: Organisation) -> None:
    house = House()
    for tries in range(10):
        assert house.ask(token="x" * 40).status_code == 401
        assert house.ask().status_code == (200 if tries < 9 else 429)
        house.clock.now += 1
    for token in ("x" * 40, ADMIN):
        answer = house.ask(token=token)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
    house.clock.now += 50.5
    assert house.ask().status_code == 200
    assert house.ask(token="x" * 40).status_code == 401, "the first of the ten is a minute old"
    assert house.ask(token="x" * 40).status_code == 429


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"token": "CANARY", "butler_url": "https://butler.example"}, ["token"]),
        ({"token": "mdm_st_" + "t" * 32, "butler_url": "http://CANARY.example"}, ["butler_url"]),
        ({"token": "mdm_st_" + "t" * 32, "butler_url": "https://u:CANARY@x.example"}, ["butler_url"]),
        ({"token": ["CANARY"], "butler_url": {"CANARY": 1}}, ["butler_url", "token"]),
        ({"CANARY": 1}, ["butler_url", "token", "body"]),
        ({"token": "mdm_st_" + "t" * 32, "butler_url": "https://x.example", "CANARY": 1}, ["body"]),
        (["CANARY"], ["body"]),
        ("CANARY", ["body"]),
        (None, ["body"]),
    ],
    ids=str,
)
def test_a_wrong_request_is_told_by_names_and_never_by_values(body: Any, fields: list[str]) -> None:
    house = House()
    answer = house.ask(method="POST", body=body)
    assert (answer.status_code, answer.json()["error"]["fields"]) == (422, fields)
    assert "CANARY" not in answer.text
    assert house.directory.registrations() == []


def test_a_body_without_end_is_not_read() -> None:
    assert House().ask(method="POST", body={"token": "x" * 20_000}).status_code == 413


def test_only_allowed_addresses_are_registered(butler: StubButler, acme: Organisation) -> None:
    answer = House(allowed=("https://butler.example",)).post(butler, acme)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "butler_url_not_allowed")
    assert butler.asked == []
    assert House(allowed=(butler.url,)).post(butler, acme).status_code == 201


def test_another_butler_takes_no_organisation_over(butler: StubButler, acme: Organisation) -> None:
    house = House()
    before = house.directory.register(Identity(uuid4(), acme.id, "Acme"), "https://own.example", Secret(acme.token))
    answer = house.post(butler, acme)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "registered_elsewhere")
    assert house.directory.registrations() == [before]


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (401, None, "butler_denied"),
        (404, None, "butler_denied"),
        (500, None, "butler_unavailable"),
        (200, {"org_id": "CANARY"}, "butler_nonsense"),
        (302, None, "butler_nonsense"),
    ],
)
def test_what_butler_does_not_confirm_is_not_kept(
    butler: StubButler, acme: Organisation, status: int, said: object, code: str
) -> None:
    butler.instead["/me"] = document(status, said)
    house = House()
    answer = house.post(butler, acme)
    assert (answer.status_code, answer.json()) == (502, {"error": {"code": code}})
    assert house.directory.registrations() == []


@pytest.mark.parametrize("org", ["x", "%00", "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e", "..%2f..%2fx", "{}"])
def test_what_is_no_organisation_cannot_be_deregistered(org: str) -> None:
    assert House().ask(f"{PATH}/{org}", "DELETE").status_code == 404


def test_a_database_that_is_away_is_503() -> None:
    class Away(MemoryDirectory):
        def registrations(self) -> list[Registration]:
            raise LedgerUnavailable

    answer = House(directory=Away()).ask()
    assert (answer.status_code, answer.json()) == (503, {"error": {"code": "ledger_unavailable"}})


def test_the_door_s_token_stands_in_no_representation() -> None:
    assert ADMIN not in repr(replace(House().app.state.organisations))
