"""Runs an ASGI application behind uvicorn on a thread of its own: behind our listener, or behind a stock protocol.

It keeps what the event loop complains of, and refuses to end quietly when there was something.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import uvloop

from steward.proxy import Application
from tests.servers.waiting import eventually

Loop = Callable[[], asyncio.AbstractEventLoop]


@dataclass
class Listening:
    """A server that listens on 127.0.0.1."""

    port: int
    server: uvicorn.Server
    faults: list[str] = field(default_factory=list)
    """What no one caught: exceptions of tasks and callbacks."""

    @property
    def connections(self) -> int:
        """How many stand."""
        return len(self.server.server_state.connections)

    @property
    def tasks(self) -> int:
        """Calls that run."""
        return len(self.server.server_state.tasks)


async def nothing() -> None:
    """Nobody needs the loop when it ends."""


@contextmanager
def listening(
    app: Application,
    http: type[asyncio.Protocol] | str,
    loop: Loop = uvloop.new_event_loop,
    at_end: Callable[[], Awaitable[None]] = nothing,
) -> Iterator[Listening]:
    """Serves until the block ends; `at_end` runs on the same loop then. AssertionError when the loop complained."""
    config = uvicorn.Config(
        app,
        http=http,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        running = Listening(sock.getsockname()[1], uvicorn.Server(config))

        async def serve() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, told: running.faults.append(_words(told)))
            try:
                await running.server.serve(sockets=[sock])
            finally:
                await at_end()

        def run() -> None:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run, name="listening")
        thread.start()
        try:
            eventually(lambda: running.server.started, within_s=10)
            yield running
        finally:
            running.server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()
    assert not running.faults


def _words(told: dict[str, Any]) -> str:
    return f"{told.get('message')}: {told.get('exception')!r}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
