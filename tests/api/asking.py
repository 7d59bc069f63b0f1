"""Asks an ASGI application one thing, without a server between. Asserts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx


def ask(app: Any, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: Any = None) -> Any:
    """The answer, read whole."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://steward.test") as client:
            fields = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
            return await client.request(method, path, headers=fields, json=body)

    return asyncio.run(asked())


def bearer(token: str) -> dict[str, str]:
    """The header of an operator."""
    return {"Authorization": f"Bearer {token}"}
