"""The core as a host serves it: the proxy in front, our own routes behind it, and what operators are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from pydantic import BaseModel

from steward.api.operators import Doors
from steward.app import create_app, create_ops_app, own_routes
from steward.proxy import Application
from steward.settings import load
from steward.wiring import Services, build

TOKEN = "t" * 40


class Given(BaseModel):
    """A body with one field."""

    token: int


async def given(body: Given) -> None:
    """Takes a number."""


@pytest.fixture
def services(tmp_path: object) -> Iterator[Services]:
    """A process put together, with a database that is not there; it connects to nothing."""
    settings = load(
        {
            "ENCRYPTION_KEY": "0123456789abcdef" * 4,
            "POSTGRES_HOST": str(tmp_path),
            "POSTGRES_PASSWORD": "never-shown",
            "BODY_STORE_URL": "s3://calls/prefix",
            "STEWARD_ADMIN_TOKEN": TOKEN,
            "PRICING_REMOTE_URL": "",
        },
        dotenv=None,
    )
    made = build(settings)
    yield made
    asyncio.run(made.stop())


def ask(app: Application, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """One request, without a socket."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://steward") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


def test_our_routes_answer_without_a_key(services: Services) -> None:
    app = create_app(services)
    assert ask(app, "/health").text == "alive"
    assert (ask(app, "/readyz").status_code, ask(app, "/readyz").text) == (503, "unready")


def test_every_other_path_is_a_callers(services: Services) -> None:
    app = create_app(services)
    for path in ("/v1/models", "/healthy", "/docs/", "/"):
        answer = ask(app, path)
        assert (answer.status_code, answer.headers["x-majordomo-error"]) == (401, "missing_key")


def test_operators_are_told_where_things_are_and_no_secret(services: Services) -> None:
    for answer in (
        ask(create_ops_app(services), "/readyz"),
        ask(create_app(services), "/readyz", authorization=f"Bearer {TOKEN}"),
    ):
        said = answer.json()
        assert (answer.status_code, said["state"]) == (503, "database")
        assert said["bodies"] == "s3://calls"
        assert said["origins"]["openai"] == "api.openai.com"
        assert "never-shown" not in answer.text
        assert TOKEN not in answer.text


def test_the_operators_port_relays_nothing(services: Services) -> None:
    answer = ask(create_ops_app(services), "/v1/chat/completions", "POST", **{"x-majordomo-key": "mdm_sk_" + "a" * 40})
    assert answer.status_code == 404


def test_a_wrong_field_is_named_and_its_value_is_not(services: Services) -> None:
    app = own_routes(services, Doors(None))

    app.post("/given")(given)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://steward") as client:
            return await client.post("/given", json={"token": "mdm_st_canary"})

    answer = asyncio.run(send())
    assert answer.status_code == 422
    assert answer.json() == {"error": {"code": "invalid_request", "fields": ["body.token"]}}
    assert "canary" not in answer.text


def test_no_page_of_ours_invites_another_origin(services: Services) -> None:
    for path in ("/health", "/readyz", "/docs", "/openapi.json"):
        answer = ask(create_app(services), path, origin="https://elsewhere.example")
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert ask(create_app(services), "/v1/models", "OPTIONS").status_code == 401
