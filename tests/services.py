"""Services of settings that stand in a test alone, and a story told while they run. Asserts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from steward.settings import Settings, load
from steward.wiring.relay import Services
from tests.servers.postgres import Database
from tests.servers.waiting import eventually_async

ENCRYPTION_KEY = bytes(range(32)).hex()


def settings(database: Database | None = None, /, **given: str) -> Settings:
    """As from an environment that holds nothing else."""
    environ = {"ENCRYPTION_KEY": ENCRYPTION_KEY, "PRICING_REMOTE_URL": "", "AFTER_RESPONSE": "inline", **given}
    if database is not None:
        address = database.address
        environ |= {"POSTGRES_HOST": address.host, "POSTGRES_PORT": str(address.port)}
        environ |= {"POSTGRES_USER": address.user, "POSTGRES_DB": address.database}
    return load(environ, None)


def run(services: Services, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The story while the services run; they are stopped in the end, whatever it does."""

    async def told() -> None:
        await services.start()
        try:
            async with asyncio.timeout(60):
                await story()
        finally:
            await services.stop()

    asyncio.run(told())


async def becomes(services: Services, word: str) -> None:
    await eventually_async(lambda: services.ready() == word, 20)
