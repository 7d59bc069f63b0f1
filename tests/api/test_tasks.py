"""`/tasks/*`: for one account's signed calls alone; what they carry is bounded, and acknowledged once it is settled."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from steward.adapters.oidc_calls import SignedCaller, SignedCalls
from steward.api import tasks
from steward.api.tasks import MAX_BODY_BYTES, SWEEP_S, Pushed, Settle, Tasks
from steward.errors import LedgerUnavailable
from steward.forward import tls_context
from tests.api.asking import ask, bearer
from tests.servers.openid import OpenId, open_id
from tests.servers.signed_calls import ACCOUNT, AUDIENCE, WRONG_CLAIMS, WRONG_SIGNATURES, Sign, claims, right, signed

PATHS = ("/tasks/settle", "/tasks/scheduled")


@pytest.fixture(scope="module")
def issuer() -> Iterator[OpenId]:
    with open_id() as running:
        yield running


class House:
    """The routes, and what reached the consumer and the schedule behind them."""

    def __init__(self, issuer: OpenId, keys_url: str = "") -> None:
        self.issuer = issuer
        self.settled: list[Pushed] = []
        self.swept: list[float] = []
        self.faults: dict[str, str | None] = {}
        self.broken = False
        self.sweeps_begun, self.may_sweep = Event(), Event()
        self.may_sweep.set()
        caller = SignedCaller(ACCOUNT, AUDIENCE, issuer.issuer, keys_url or f"{issuer.issuer}/jwks")
        self.signed = SignedCalls(caller, tls_context(None))
        self.app = self.serving(self.settle)

    def serving(self, settle: Settle | None) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(tasks.router)
        app.state.tasks = Tasks(self.signed, settle, self.sweep)
        return app

    def settle(self, messages: Sequence[Pushed]) -> Mapping[str, str | None]:
        if self.broken:
            raise LedgerUnavailable
        self.settled += messages
        return {each.id: self.faults.get(each.id) for each in messages}

    def sweep(self, until: float) -> None:
        self.sweeps_begun.set()
        assert self.may_sweep.wait(30)
        if self.broken:
            raise LedgerUnavailable
        self.swept.append(until - time.monotonic())

    def ask(self, path: str, token: str | None = None, body: Any = None) -> httpx.Response:
        headers = bearer(right(self.issuer) if token is None else token)
        answer: httpx.Response = ask(self.app, path, headers, "POST", push() if body is None else body)
        return answer

    def untouched(self) -> bool:
        return not self.settled and not self.swept


@pytest.fixture
def house(issuer: OpenId) -> Iterator[House]:
    made = House(issuer)
    yield made
    made.signed.close()


def push(ident: str = "17", data: bytes = b"sealed", **message: Any) -> dict[str, Any]:
    """As Pub/Sub pushes it."""
    told = {"data": base64.b64encode(data).decode(), "attributes": {"v": "1"}, "messageId": ident, **message}
    told |= {"message_id": ident, "publishTime": "2026-11-28T05:00:00Z"}
    return {"message": told, "subscription": "projects/a-project/subscriptions/calls"}


def test_a_pushed_message_is_settled_and_acknowledged(house: House) -> None:
    answer = house.ask("/tasks/settle")
    assert (answer.status_code, answer.content) == (204, b"")
    assert house.settled == [Pushed("17", b"sealed", {"v": "1"})]
    assert "sealed" not in repr(house.settled)


def test_what_was_not_settled_comes_again(house: House) -> None:
    house.faults["17"] = "ledger_unavailable"
    assert house.ask("/tasks/settle").status_code == 503
    house.broken = True
    assert house.ask("/tasks/settle").status_code == 503
    house.broken, house.faults = False, {}
    assert house.ask("/tasks/settle").status_code == 204


def test_a_schedule_runs_what_is_due_within_its_time(house: House) -> None:
    answer = house.ask("/tasks/scheduled")
    assert (answer.status_code, answer.content) == (204, b"")
    [left_s] = house.swept
    assert 0 < left_s <= SWEEP_S < 180
    house.broken = True
    assert house.ask("/tasks/scheduled").status_code == 503
    house.broken = False
    assert house.ask("/tasks/scheduled").status_code == 204


def test_one_sweep_at_a_time(house: House) -> None:
    house.may_sweep.clear()
    with ThreadPoolExecutor(1) as other:
        first = other.submit(house.ask, "/tasks/scheduled")
        assert house.sweeps_begun.wait(30)
        assert house.ask("/tasks/scheduled").status_code == 202
        house.may_sweep.set()
        assert first.result(30).status_code == 204
    assert len(house.swept) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("changes", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
def test_a_token_that_is_not_exactly_right_is_refused_without_a_word(
    house: House, path: str, changes: dict[str, Any]
) -> None:
    answer = house.ask(path, right(house.issuer, **changes))
    assert (answer.status_code, answer.content) == (401, b"")
    assert house.untouched()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sign", WRONG_SIGNATURES)
def test_a_token_that_another_signed_is_refused_without_a_word(house: House, path: str, sign: Sign) -> None:
    answer = house.ask(path, sign(house.issuer, claims(house.issuer)))
    assert (answer.status_code, answer.content) == (401, b"")
    assert house.untouched()


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_nothing_is_read(house: House, path: str) -> None:
    token = right(house.issuer)
    for headers in ({}, {"Authorization": token}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {token}"}):
        answer: httpx.Response = ask(house.app, path, headers, "POST", push())
        assert (answer.status_code, answer.content) == (401, b"")
    assert house.untouched()


def test_of_two_tokens_none_counts(house: House) -> None:
    headers = [("Authorization", f"Bearer {right(house.issuer)}")] * 2
    answer = ask_with(house.app, "/tasks/settle", headers, b"{}")
    assert answer.status_code == 401


def ask_with(app: FastAPI, path: str, headers: list[tuple[str, str]], content: bytes) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://steward.test") as client:
            return await client.post(path, headers=headers, content=content)

    return asyncio.run(asked())


def test_keys_that_cannot_be_had_are_neither_yes_nor_no(issuer: OpenId) -> None:
    house = House(issuer, "http://127.0.0.1:1/jwks")
    answer = house.ask("/tasks/settle")
    assert (answer.status_code, answer.content) == (503, b"")
    assert house.untouched()


BAD_PUSHES: dict[str, Any] = {
    "no object": [1],
    "no message": {"subscription": "s"},
    "a message that is none": {"message": 7},
    "no id": {"message": {"data": ""}},
    "an id that is no text": push(messageId=7),
    "an empty id": push(""),
    "an endless id": push("1" * 300),
    "data that is not base64": {"message": {"messageId": "1", "data": "%%"}},
    "data that is no text": {"message": {"messageId": "1", "data": 7}},
    "attributes that are none": {"message": {"messageId": "1", "attributes": [1]}},
    "an attribute that is no text": {"message": {"messageId": "1", "attributes": {"a": 1}}},
}


@pytest.mark.parametrize("body", BAD_PUSHES.values(), ids=BAD_PUSHES)
def test_what_is_no_push_is_not_acknowledged(house: House, body: Any) -> None:
    answer = house.ask("/tasks/settle", body=body)
    assert (answer.status_code, answer.json()) == (400, {"error": {"code": "invalid_message"}})
    assert house.untouched()


def test_octets_that_are_no_json_are_not_acknowledged(house: House) -> None:
    headers = [("Authorization", f"Bearer {right(house.issuer)}")]
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        assert ask_with(house.app, "/tasks/settle", headers, content).status_code == 400
    assert house.untouched()


def test_the_largest_message_of_pub_sub_is_taken_and_no_larger_one(house: House) -> None:
    assert house.ask("/tasks/settle", body=push(data=bytes(10 << 20))).status_code == 204
    headers = [("Authorization", f"Bearer {right(house.issuer)}")]
    assert ask_with(house.app, "/tasks/settle", headers, b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert len(house.settled) == 1


def test_a_message_without_data_or_attributes_is_one(house: House) -> None:
    assert house.ask("/tasks/settle", body={"message": {"messageId": "1"}}).status_code == 204
    assert house.settled == [Pushed("1", b"", {})]


def test_without_a_queue_there_is_nothing_to_settle(house: House) -> None:
    house.app = house.serving(None)
    assert house.ask("/tasks/settle").status_code == 404
    assert house.ask("/tasks/settle", "wrong").status_code == 401
    assert house.ask("/tasks/scheduled").status_code == 204


def test_a_key_that_changed_is_learnt(house: House) -> None:
    assert house.ask("/tasks/settle").status_code == 204
    fresh = House(house.issuer)
    house.issuer.new_key(f"key-{len(house.issuer.keys)}")
    assert fresh.ask("/tasks/settle", signed(house.issuer, claims(house.issuer))).status_code == 204
    fresh.signed.close()
