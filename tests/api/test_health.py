"""`/health` and `/readyz`: one word for everyone, the reason for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from fastapi import FastAPI

from steward.api import health
from steward.api.operators import Doors
from steward.words import Secret
from tests.api.asking import ask, bearer


def get(
    path: str, word: str = "ready", operator: bool = False, method: str = "GET", **details: object
) -> httpx.Response:
    """One request to an application of these routes alone."""
    app = FastAPI()
    app.include_router(health.router)
    app.state.doors = Doors(None, open_to_all=operator)

    def said() -> Mapping[str, object]:
        return details

    app.state.readiness = health.Readiness(lambda: word, said)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://steward") as client:
            return await client.request(method, path)

    return asyncio.run(ask())


def test_alive_is_alive_whatever_else_is_not() -> None:
    answer = get("/health", word="database")
    assert (answer.status_code, answer.text) == (200, "alive")


@pytest.mark.parametrize("word", sorted(set(health.REASONS) - {"ready"}))
def test_unready_is_one_word_and_no_reason(word: str) -> None:
    answer = get("/readyz", word=word, database="db.internal")
    assert (answer.status_code, answer.text) == (503, "unready")


@pytest.mark.parametrize("token", ["", "x" * 40, "mdm_sk_" + "a" * 40])
def test_a_wrong_token_is_told_no_more_than_none(token: str) -> None:
    app = FastAPI()
    app.include_router(health.router)
    app.state.doors = Doors(Secret("t" * 40))
    app.state.readiness = health.Readiness(lambda: "key", lambda: {"database": "db.internal"})
    answer = ask(app, "/readyz", bearer(token))
    assert (answer.status_code, answer.text) == (503, "unready")
    assert ask(app, "/readyz", bearer("t" * 40)).json()["state"] == "key"


def test_what_is_to_be_done_stands_in_the_reason() -> None:
    assert "steward migrate" in health.REASONS["schema"]
    assert "ENCRYPTION_KEY" in health.REASONS["key"]


def test_ready_is_one_word() -> None:
    answer = get("/readyz", database="db.internal")
    assert (answer.status_code, answer.text) == (200, "ready")


@pytest.mark.parametrize("word", sorted(health.REASONS))
def test_operators_get_the_reason_and_the_details(word: str) -> None:
    answer = get("/readyz", word=word, operator=True, database="db.internal")
    assert answer.status_code == (200 if word == "ready" else 503)
    assert answer.json() == {"state": word, "reason": health.REASONS[word], "database": "db.internal"}


@pytest.mark.parametrize("path", ["/health", "/readyz"])
def test_a_probe_may_ask_for_the_head_alone(path: str) -> None:
    asked = get(path, method="HEAD")
    assert (asked.status_code, asked.text) == (200, "")
