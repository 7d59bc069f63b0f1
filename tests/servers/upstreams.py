"""The implementations of the Upstream port, each opened against a misbehaving provider, and bodies for them to send.

Nothing here asserts; the contract stands in `tests/contracts/test_upstream.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import trustme
import uvloop

from steward.adapters.httpx_upstream import HttpxUpstream
from steward.errors import CallerGone
from steward.exchange import Headers, Origin, Outbound
from steward.forward import Pool, PoolLimits
from steward.ports import Answer, Upstream
from steward.words import Secret
from tests.servers.egress_proxy import EgressProxy
from tests.servers.misbehaving import CANARY, PLAY, Provider, client_tls

LIMITS = PoolLimits(connect_timeout_s=30, header_timeout_s=30, silence_timeout_s=30, queue_timeout_s=30)
"""Longer than any test: what is meant to run out is set shorter where it is meant to."""
TARGET = b"/v1/chat/completions"
TURNS = 10


@cache
def authority() -> trustme.CA:
    """The one authority that the tests' certificates come from."""
    return trustme.CA()


@dataclass(frozen=True, slots=True)
class Way:
    """One implementation over one kind of connection and one event loop."""

    name: str
    loop: Callable[[], asyncio.AbstractEventLoop]
    tls: bool = False
    proxied: bool = False

    def __str__(self) -> str:
        return self.name

    def run(self, story: Callable[[], Coroutine[Any, Any, None]], within_s: float = 60.0) -> None:
        """Runs a test's story on this way's loop; TimeoutError when it hangs."""

        async def told() -> None:
            async with asyncio.timeout(within_s):
                await story()
            await settle()

        with asyncio.Runner(loop_factory=self.loop) as runner:
            runner.run(told())

    @asynccontextmanager
    async def open(self, limits: PoolLimits = LIMITS) -> AsyncIterator[tuple[Upstream, Provider]]:
        """The upstream, and a provider of its own."""
        async with Provider(authority() if self.tls else None) as provider, self.upstream(limits) as upstream:
            yield upstream, provider

    @asynccontextmanager
    async def upstream(self, limits: PoolLimits = LIMITS) -> AsyncIterator[Upstream]:
        """The upstream alone."""
        tls = client_tls(authority())
        if not self.proxied:
            pool = Pool(limits, tls)
            try:
                yield pool
            finally:
                await pool.close()
            return
        async with EgressProxy() as proxy:
            httpx = HttpxUpstream(limits, Secret(proxy.url), tls)
            try:
                yield httpx
            finally:
                await httpx.close()


POOL = Way("pool", uvloop.new_event_loop)
POOL_TLS = Way("pool-tls", uvloop.new_event_loop, tls=True)
TUNNEL = Way("httpx-tunnel", uvloop.new_event_loop, tls=True, proxied=True)
FORWARDED = Way("httpx-forwarded", uvloop.new_event_loop, proxied=True)
POOL_ASYNCIO = replace(POOL, name="pool-asyncio", loop=asyncio.new_event_loop)
TUNNEL_ASYNCIO = replace(TUNNEL, name="httpx-tunnel-asyncio", loop=asyncio.new_event_loop)
WAYS = (POOL, POOL_TLS, TUNNEL, FORWARDED, POOL_ASYNCIO, TUNNEL_ASYNCIO)


class Bytes:
    """A body that is here already."""

    def __init__(self, data: bytes = b"{}") -> None:
        self._data = data
        self._left: bytes | None = data or None

    def whole(self) -> bytes | None:
        """All of it."""
        return self._data

    async def next(self) -> bytes | None:
        """All of it, once."""
        piece, self._left = self._left, None
        return piece


class Pieces:
    """A body that comes piece by piece; `given` counts them. After the last it ends, is cut short, or never ends."""

    END, CUT, HANG = "end", "cut", "hang"

    def __init__(self, pieces: Iterable[bytes], then: str = END) -> None:
        self._pieces = iter(pieces)
        self._then = then
        self.given = 0

    def whole(self) -> bytes | None:
        """Never: it is still coming."""
        return None

    async def next(self) -> bytes | None:
        """The next piece."""
        piece = next(self._pieces, None)
        if piece is not None:
            self.given += 1
            return piece
        if self._then == self.CUT:
            raise CallerGone
        if self._then == self.HANG:
            await asyncio.Event().wait()
        return None


def call(
    origin: Origin,
    play: str = "honest",
    canary: bytes = b"canary",
    method: bytes = b"POST",
    *,
    length: int | None = 2,
    headers: Headers | None = None,
    target: bytes = TARGET,
    has_length: bool = True,
    expects_continue: bool = False,
) -> Outbound:
    """What is sent: a call to this scenario, with this canary."""
    fields = [(PLAY, play.encode()), (CANARY, canary), *(headers or [])]
    return Outbound(origin, method, target, fields, length, expects_continue, has_length)


def nothing() -> None:
    """Nobody asks when the first octet went out."""


async def send(
    upstream: Upstream, outbound: Outbound, body: Bytes | Pieces | None = None, on_sent: Callable[[], None] = nothing
) -> Answer:
    """Sends with a body of two octets when none is given (none at all when the length is 0)."""
    return await upstream.send(outbound, body or Bytes(b"{}" if outbound.length else b""), on_sent)


async def settle() -> None:
    """Lets the loop turn: connections go back to their pool, aborted ones are closed."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def read(answer: Answer) -> bytes:
    """The whole body."""
    pieces = []
    while (piece := answer.take()) is not None:
        if piece:
            pieces.append(piece)
        else:
            await answer.wait()
    assert answer.complete
    await settle()
    return b"".join(pieces)
