"""The process under measurement: the real listener, proxy, key check and pool.

`python -m tests.bench.relay PORT PROVIDER_PORT KEY [SPOOL_DIR]`, pinned to a core by who starts it. Exchanges go to the
spool, which nobody settles here; without SPOOL_DIR to a sink in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Awaitable
from pathlib import Path

import uvicorn
import uvloop

from handlers.container import settle_garbage_collector
from steward import log
from steward.adapters.memory import MemoryDirectory
from steward.adapters.spool import Spool, SpoolLimits
from steward.authenticate import Authenticator
from steward.detect import Detector
from steward.exchange import LOCAL_ORG, Exchange, Intent, Origin
from steward.forward import Pool, PoolLimits
from steward.listener import ListenerLimits, listener
from steward.ports import AfterResponse
from steward.proxy import Message, Proxy, Receive, Scope, Send, Stages
from steward.rewrite import KeyedHash
from steward.seal import Keyring
from steward.words import Secret


class Sink:
    """An AfterResponse that takes what it is given and keeps the count."""

    def __init__(self) -> None:
        self.taken = 0

    def intend(self, intent: Intent) -> Awaitable[None] | None:
        """Nothing to keep."""
        return None

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """One more."""
        self.taken += 1
        return None

    async def close(self) -> None:
        """Nothing to give back."""


def _after_response(spool: str | None) -> AfterResponse:
    if spool is None:
        return Sink()
    keyring, limits = Keyring(Secret(os.urandom(32))), SpoolLimits(max_bytes=1 << 40)
    return Spool(Path(spool), keyring, limits, asyncio.get_running_loop())


async def _not_ours(scope: Scope, receive: Receive, send: Send) -> None:
    message: Message = {"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]}
    await send(message)
    await send({"type": "http.response.body", "body": b""})


async def _serve(port: int, provider_port: int, key: str, spool: str | None = None) -> None:
    directory = MemoryDirectory()
    directory.create_key(LOCAL_ORG, "bench", hashlib.sha256(key.encode()).hexdigest())
    authenticator = Authenticator(directory)
    polling = asyncio.ensure_future(authenticator.poll())
    pool = Pool(PoolLimits())
    origin = Origin("http", "127.0.0.1", provider_port)
    hashed = KeyedHash(Secret(b"k" * 32))
    stages = Stages(
        authenticator=authenticator,
        detector=Detector(),
        origins=dict.fromkeys(("openai", "anthropic", "gemini"), origin),
        upstream=lambda _: pool,
        after_response=_after_response(spool),
        credential_hash=lambda: hashed,
        capture_max_bytes=256 << 20,
    )
    config = uvicorn.Config(
        Proxy(stages, _not_ours),
        host="127.0.0.1",
        port=port,
        http=listener(ListenerLimits()),
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    settle_garbage_collector()
    await uvicorn.Server(config).serve()
    polling.cancel()


if __name__ == "__main__":
    log.configure("error")
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
