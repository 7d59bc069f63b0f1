"""`/docs` and `/openapi.json`: for operators, without a script, and without an address that is not ours."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI

from steward.api import health, pages
from steward.api.operators import Doors
from tests.api.asking import ask


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


HOSTILE = "<script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>"


class Elements(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_a_careless_description_of_a_route_is_text_and_nothing_else() -> None:
    app = FastAPI(title=HOSTILE, summary=HOSTILE, docs_url=None, openapi_url=None)
    app.include_router(pages.router)
    app.state.doors = Doors(None, open_to_all=True)

    @app.get("/careless", summary=HOSTILE, description=HOSTILE, responses={418: {"description": HOSTILE}})
    async def careless() -> str:
        return ""

    page = ask(app, "/docs")
    found = Elements(page.text)
    assert "/careless" in page.text
    assert not found.tags & {"script", "img", "link", "iframe", "object", "embed", "form", "base", "a", "svg"}
    assert not [name for name in found.attributes if name.startswith("on") or name in {"src", "href", "action"}]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "script-src" not in page.headers["content-security-policy"]


def test_what_it_shows_is_escaped() -> None:
    answer = get("/docs", operator=True, title="<script>alert(1)</script>")
    assert "<script>" not in answer.text
    assert "&lt;script&gt;" in answer.text
