"""`/docs` and `/openapi.json`: for operators, without a script, and without an address that is not ours."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI

from steward.api import health, pages
from steward.api.operators import Doors


def get(path: str, operator: bool, title: str = "Steward") -> httpx.Response:
    """One request to an application of these routes."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health.router)
    app.include_router(pages.router)
    app.state.doors = Doors(None, open_to_all=operator)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://steward") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_nobody_else_sees_them(path: str) -> None:
    answer = get(path, operator=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "operators_only"
    assert "paths" not in answer.text


def test_the_document_names_our_routes_and_no_other() -> None:
    document = get("/openapi.json", operator=True).json()
    assert set(document["paths"]) == {"/health", "/readyz"}


def test_the_page_is_static_and_its_own() -> None:
    answer = get("/docs", operator=True)
    assert answer.status_code == 200
    assert "<code>/readyz</code>" in answer.text
    assert re.findall(r"<script|src=|href=|https?://|//[a-z]", answer.text) == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_what_it_shows_is_escaped() -> None:
    answer = get("/docs", operator=True, title="<script>alert(1)</script>")
    assert "<script>" not in answer.text
    assert "&lt;script&gt;" in answer.text
