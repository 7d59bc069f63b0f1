"""Cloud Functions: the target `steward` of functions-framework, for callers and for Pub/Sub and Cloud Scheduler.

    functions-framework --source handlers/cloud_function.py --target steward

A deployed function's `main.py` says `from handlers.cloud_function import steward`. The framework finds by the target's
own mark that it is asynchronous, and hands it every path. What it answers hands the connection over to the one core, so
that the raw path counts and streams stream. No lifespan is run there: the core starts at the first call, once, and at
SIGTERM ends behind the last one, as a task that the framework's server waits for.

What the framework keeps to itself: GET of `/robots.txt` and `/favicon.ico` is its 404; methods other than GET, POST,
PUT, DELETE, OPTIONS, HEAD and PATCH its 405; a line break in a decoded path its 404. It adds `function-execution-id` to
every head, which therefore never goes to a provider. Google's front end takes 32 MB, and 10 MB of a streamed answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import FrameType
from typing import Any

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from handlers import framework_listener
from handlers.hosted_app import HostedApp
from steward import cloud_run, log
from steward.errors import Cut, SettingError, ShuttingDown
from steward.log_fields import Sentence
from steward.metric_memory import MemoryBoard
from steward.proxy import Application, Receive, Scope, Send
from steward.settings import load
from steward.wiring.hosted import build_hosted

framework_listener.put_beneath()

_FRAMEWORKS_OWN = b"function-execution-id"
_SCOPE = (
    *("type", "asgi", "http_version", "server", "client", "scheme", "method", "path", "raw_path", "query_string"),
    *("extensions", "state"),
)
"""What of the framework's scope is the call's; the rest is its router's."""


class House:
    """The one core of this process, from its first call on."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = asyncio.Lock()
        self._app: HostedApp | None = None
        self._calls = Calls()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call, which ends with the process's grace at the latest.

        The first one starts the core; others that come meanwhile wait for it. Raises SettingError, ShuttingDown.
        """
        if self._app is None:
            async with self._lock:
                if self._app is None:
                    self._app = self._open(waited_for(scope))
        await self._calls.serve(self._app, scope, receive, send)

    def _open(self, server_waits_for: set[asyncio.Task[Any]]) -> HostedApp:
        settings = load(cloud_run.settings_there(self._environ))
        settings.needed_encryption_key()
        log.configure(settings.log_level, severity=cloud_run.is_here(self._environ))
        log.catch_crashes()
        log.setting_warnings(settings.warnings)
        hosted = build_hosted(settings, caller_waits=True, board=MemoryBoard())
        framework_listener.Connection.refusals = hosted.services.stages.refusals
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log.loop_fault)

        fronts = cloud_run.OF_THE_FRONT if cloud_run.is_here(self._environ) else frozenset()
        app = HostedApp(settings, hosted, caller_waits=True, of_the_front=fronts)

        async def close() -> None:
            await app.close()
            await hosted.close()
            log.say("stopped")

        def told_to_stop() -> None:
            if not hosted.services.health.draining:
                hosted.services.health.draining = True
                grace_s = settings.shutdown_delay_s + settings.shutdown_grace_s
                self._calls.end(grace_s, close, server_waits_for)

        log.say("started")
        _when_told_to_stop(lambda: loop.call_soon_threadsafe(told_to_stop))
        return app


class Calls:
    """Those that run, and their end: one last turn comes behind them, while the server still waits."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._over = False

    async def serve(self, app: Application, scope: Scope, receive: Receive, send: Send) -> None:
        """One call. Raises ShuttingDown once there is nothing left to serve it."""
        if self._over:
            raise ShuttingDown
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await app(scope, receive, send)
        finally:
            self._running.discard(task)

    def end(
        self, grace_s: float, close: Callable[[], Awaitable[None]], server_waits_for: set[asyncio.Task[Any]]
    ) -> None:
        """Closes once no call runs any more; what still runs after the grace is cut."""
        asyncio.get_running_loop().call_later(grace_s, self._cut)
        ending = asyncio.ensure_future(self._end(close))
        server_waits_for.add(ending)
        ending.add_done_callback(server_waits_for.discard)

    async def _end(self, close: Callable[[], Awaitable[None]]) -> None:
        while self._running:
            await asyncio.wait(self._running)
        self._over = True
        await close()

    def _cut(self) -> None:
        """What still runs hands its exchange over now, while there is time."""
        log.say("draining", count=len(self._running))
        for task in self._running:
            task.cancel()


def waited_for(scope: Scope) -> set[asyncio.Task[Any]]:
    """What the server waits for before it ends: it ends the process right then. Of a listener not ours: unknown."""
    cycle = scope.get("extensions", {}).get("steward")
    return set() if cycle is None else cycle.waited_for


class HandedOver(Response):
    """A response that is the core's own."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Nothing is raised into the framework: it would log the words of an error, and end a broken answer
        cleanly. An answer that is not finished when this returns is broken by the server."""
        try:
            await self._house.serve(_call(scope), receive, send)
        except Cut:
            return
        except SettingError as wrong:
            log.configure()
            log.setting_warnings([Sentence(wrong.message)])
            await _say(send, 500, b"misconfigured")
        except ShuttingDown:
            await _say(send, 503, b"shutting_down")
        except _NoLength:
            await _say(send, 411, b"length_required")


class _NoLength(Exception):
    """A body without a length from a server that is not our listener: a trailer may stand among the head's fields."""


def _call(scope: Scope) -> Scope:
    """The call as our listener gave it to the framework. Raises _NoLength."""
    fields = [item for item in scope["headers"] if item[0] != _FRAMEWORKS_OWN]
    cycle = scope.get("extensions", {}).get("steward")
    if cycle is None:
        if any(name == b"transfer-encoding" for name, _ in fields):
            raise _NoLength
    else:
        cycle.head = None  # read before the framework's own field was taken away
    return {**{name: scope[name] for name in _SCOPE if name in scope}, "root_path": "", "headers": fields}


async def _say(send: Send, status: int, code: bytes) -> None:
    body = b'{"error":{"code":"%b"}}' % code
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _when_told_to_stop(told: Callable[[], object]) -> None:
    """Beside what the server does at SIGTERM. Elsewhere than in the main thread nobody can be told."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)

    def heard(number: int, frame: FrameType | None) -> None:
        told()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, heard)


_HOUSE = House(os.environ)


@functions_framework.aio.http
async def steward(request: Request) -> Response:
    """The target: every call of a caller, and those that Google's services sign."""
    return HandedOver(_HOUSE)
