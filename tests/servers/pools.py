"""A pool with a provider of its own, and a clock that a test sets forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from steward.forward import Pool, PoolLimits
from steward.ports import Answer
from tests.servers.misbehaving import Provider
from tests.servers.upstreams import LIMITS, POOL, POOL_ASYNCIO, call, read, send, settle

WITHIN_S = 20.0
LONG = PoolLimits(connect_timeout_s=500, header_timeout_s=1_000, silence_timeout_s=1_000, queue_timeout_s=1_000)
"""The limits of production for idle and old connections; the others out of the way of a clock that leaps."""


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test sets forward."""

    leapt_s = 0.0

    def time(self) -> float:
        """Later than it is."""
        return super().time() + self.leapt_s


LEAPING = replace(POOL_ASYNCIO, name="leaping", loop=LeapingLoop)
both_loops = pytest.mark.parametrize("way", [POOL, POOL_ASYNCIO], ids=str)


def leap(seconds: float) -> None:
    """Sets the clock forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    loop.leapt_s += seconds


@asynccontextmanager
async def pooled(limits: PoolLimits = LIMITS) -> AsyncIterator[tuple[Pool, Provider]]:
    """A pool, and a provider of its own."""
    async with Provider() as provider:
        pool = Pool(limits)
        try:
            yield pool, provider
        finally:
            await pool.close()
            await settle()
            assert pool.connections() == 0


async def fetch(pool: Pool, provider: Provider, canary: bytes = b"canary", play: str = "honest") -> None:
    """One call; its answer is its own."""
    got = await read(await send(pool, call(provider.origin, play, canary)))
    assert got.count(b'"canary": "%b"' % canary) == got.count(b'"canary": ') == 1


async def hold(pool: Pool, provider: Provider, canary: bytes = b"held") -> Answer:
    """A call whose answer goes on until `provider.go_on`."""
    return await send(pool, call(provider.origin, "event_by_event", canary))


def connection_of(provider: Provider, canary: bytes) -> int:
    """Over which of its connections a call came."""
    (seen,) = provider.of(canary)
    return seen.connection
