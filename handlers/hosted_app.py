"""The core between the calls of a host that gives no time of its own: prepared before a call, a turn after it.

It knows neither the host nor its server. Where the piece that ends a response waits for its turn already
(AFTER_RESPONSE_WAIT), nothing is left to do after it.
"""

from __future__ import annotations

import asyncio

from steward.app import create_app
from steward.proxy import Receive, Scope, Send
from steward.settings import Settings
from steward.wiring.hosted import Hosted
from steward.wiring.tasks import open_tasks

_ALIVE = b"/health"
"""Asked of a process that may not have heard its database: nothing is prepared for it."""


class HostedApp:
    """ASGI: what callers are served by."""

    def __init__(
        self, settings: Settings, hosted: Hosted, caller_waits: bool, of_the_front: frozenset[bytes] = frozenset()
    ) -> None:
        """`caller_waits`: what the host does unless AFTER_RESPONSE_WAIT says otherwise. Raises SettingError.

        `of_the_front`: fields that whoever stands before this process set, and that are for nobody behind it.
        """
        self._of_the_front = of_the_front
        self._hosted = hosted
        self._tasks = open_tasks(settings, self._sweep)
        self._app = create_app(hosted.services, self._tasks)
        waits = settings.after_response_wait
        self._turns = None if (caller_waits if waits is None else waits) else _Turns(hosted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope = self._without_the_fronts(scope)
            if scope["raw_path"] != _ALIVE:
                await self._hosted.prepare()
        try:
            await self._app(scope, receive, send)
        finally:
            if self._turns is not None:
                self._turns.ask()

    def _without_the_fronts(self, scope: Scope) -> Scope:
        left = [item for item in scope["headers"] if item[0] not in self._of_the_front]
        if len(left) == len(scope["headers"]):
            return scope
        cycle = scope.get("extensions", {}).get("steward")
        if cycle is not None:
            cycle.head = None  # it was read with them
        return {**scope, "headers": left}

    async def close(self) -> None:
        """Waits for the turn that runs, and gives back all but the process's own ground."""
        if self._turns is not None:
            await self._turns.rest()
        if self._tasks is not None:
            await asyncio.to_thread(self._tasks.close)

    def _sweep(self, until: float) -> None:
        """What waits in this process, then all that is due."""
        self._hosted.turn()
        self._hosted.sweep(until)


class _Turns:
    """One turn at a time, and one more where calls ended meanwhile."""

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted
        self._asked = False
        self._running: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """A call ended."""
        self._asked = True
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run())

    async def rest(self) -> None:
        """Until none runs."""
        if self._running is not None:
            await asyncio.wait((self._running,))

    async def _run(self) -> None:
        while self._asked:
            self._asked = False
            if self._hosted.by_call.waiting():  # what was turned away, or a queue took, leaves nothing to do
                await asyncio.to_thread(self._hosted.turn)
