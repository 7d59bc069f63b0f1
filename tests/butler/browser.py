"""Asks a Butler in this process as a program, a Steward or a browser would; cookies are kept as browsers keep them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI

from steward.words import Secret


class Asker:
    """One client of one application."""

    def __init__(self, app: FastAPI, token: Secret[str] | None = None, address: str = "203.0.113.9") -> None:
        self._app = app
        self._address = address
        self.headers = {} if token is None else {"authorization": f"Bearer {token.reveal()}"}
        self.cookies = httpx.Cookies()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, one answer; no redirect is followed."""
        return asyncio.run(self._ask(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("POST", path, **options)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app, client=(self._address, 40000), raise_app_exceptions=False)
        headers = {**self.headers, **options.pop("headers", {})}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:7690", cookies=self.cookies, trust_env=False
        ) as client:
            answer = await client.request(method, path, headers=headers, **options)
            self.cookies = client.cookies
            return answer
