"""The long-running container: what `steward serve` calls. One process, or a parent of relaying ones and a settling one.

It knows sockets, signals and processes; what a call is, it leaves to the core.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

import uvicorn
import uvloop

from handlers.listening_sockets import BACKLOG, Sockets, raise_descriptor_limit
from handlers.settler import DRAIN_S, run_settler
from handlers.spool_folder import prepare
from handlers.supervisor import SIGNALS, Child, StopTimes, Supervisor
from handlers.viewer import run_viewer, server_tls
from steward import cloud_run, log, metrics
from steward.app import create_app, create_ops_app
from steward.listener import Listener, ListenerLimits, listener
from steward.log_fields import Facts
from steward.metric_files import Board
from steward.metric_memory import MemoryBoard
from steward.proxy import Application
from steward.settings import Settings
from steward.version import VERSION
from steward.wiring.database import preload
from steward.wiring.relay import Services, build, check

_FIRST_MOMENT_S = 2.0
_LAST_WORDS_S = 2.0


def serve(settings: Settings, by_call: bool = False) -> int:
    """Listens and relays until told to stop. Returns the exit code. Raises SettingError, also for a port in use.

    `by_call`: the host gives the processor while a call runs, and not between calls (Cloud Run).
    """
    check(settings)
    server_tls(settings)
    spooled, views = settings.after_response == "spool", settings.view_auth != "off"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold keys and prompts (SECURITY F18)
    raise_descriptor_limit()
    sockets = Sockets(settings)
    doubts = prepare(settings.spool_dir) if spooled else []
    alone = settings.workers == 1 and not spooled and not views
    board = MemoryBoard() if alone and by_call else metrics.prepare(settings.spool_dir / "metrics" if spooled else None)
    facts: Facts = {"host": settings.host, "port": sockets.port, "workers": settings.workers, "version": VERSION}
    if sockets.ops_port is not None:
        facts["ops_port"] = sockets.ops_port
    if views:
        facts["view_port"] = settings.view_port
    if not alone:
        preload()
    log.say("listening", **facts)
    log.setting_warnings([*settings.warnings, *doubts])
    if alone:
        return run_process(settings, sockets, board, by_call)
    children = [Child(partial(_relay, settings, sockets, board, by_call), index) for index in range(settings.workers)]
    if views:
        children.append(Child(partial(_view, settings, sockets, board), views=True))
    if spooled:
        children.append(Child(partial(_settle, settings, sockets, board), settles=True))
    times = StopTimes(settings.shutdown_delay_s + settings.shutdown_grace_s, DRAIN_S)
    return Supervisor(children, times, sockets.close).run()


def settle_alone(settings: Settings) -> int:
    """What `steward settle` calls: the settling process, without relaying ones. Raises SettingError."""
    check(settings)
    queued = settings.after_response in {"sqs", "pubsub"}
    doubts = [] if queued else prepare(settings.spool_dir)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    raise_descriptor_limit()
    log.setting_warnings([*settings.warnings, *doubts])
    return run_settler(settings, metrics.prepare(None if queued else settings.spool_dir / "metrics"))


def _settle(settings: Settings, sockets: Sockets, board: Board) -> int:
    """The settling process, beside the relaying ones; it accepts no connection."""
    sockets.close()
    return run_settler(settings, board)


def _relay(settings: Settings, sockets: Sockets, board: Board, by_call: bool) -> int:
    """A relaying process among others."""
    sockets.close_view()
    return run_process(settings, sockets, board, by_call)


def _view(settings: Settings, sockets: Sockets, board: Board) -> int:
    """The viewer's process: of the sockets it keeps its own alone."""
    assert sockets.view is not None
    sockets.close_main()
    return run_viewer(settings, sockets.view, board)


def run_process(settings: Settings, sockets: Sockets, board: Board, by_call: bool = False) -> int:
    """One relaying process, until a signal ends it. A signal that is ignored already stays so."""
    log.catch_crashes()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, sockets, board, by_call))


@dataclass(frozen=True, slots=True)
class _Core:
    """What a relaying process serves."""

    services: Services
    app: Application
    first_moment: Callable[[], Awaitable[None]]
    """Before the first connection is taken; in bounds."""
    stop: Callable[[], Awaitable[None]]


def _core(settings: Settings, board: Board) -> _Core:
    services = build(settings, board)
    return _Core(services, create_app(services, at_once=True), partial(_soon_ready, services), services.stop)


def _core_by_call(settings: Settings, board: Board) -> _Core:
    """One that does nothing between calls."""
    from handlers.hosted_app import HostedApp
    from steward.wiring.hosted import build_hosted

    hosted = build_hosted(settings, caller_waits=True, board=board)
    app = HostedApp(settings, hosted, caller_waits=True, of_the_front=cloud_run.OF_THE_FRONT)

    async def stop() -> None:
        await app.close()
        await hosted.close()

    return _Core(hosted.services, app, hosted.prepare, stop)


async def _serve(settings: Settings, sockets: Sockets, board: Board, by_call: bool) -> int:
    asyncio.get_running_loop().set_exception_handler(log.loop_fault)
    core = _core_by_call(settings, board) if by_call else _core(settings, board)
    services = core.services
    await services.start()
    servers = [_server(settings, services, core.app)]
    listening = [[sockets.main]]
    if sockets.ops is not None:
        servers.append(_server(settings, services, create_ops_app(services)))
        listening.append([sockets.ops])
    settle_garbage_collector()
    stopping = _Stopping(settings, services, servers)
    showing = asyncio.ensure_future(metrics.RelayMetrics(board).keep(lambda: _state(services, servers[0])))
    with stopping.signals():
        try:
            await core.first_moment()
            await asyncio.gather(*(s.serve(sockets=socks) for s, socks in zip(servers, listening, strict=True)))
        finally:
            await _end_calls(servers)
            showing.cancel()
            await core.stop()
    log.say("stopped")
    return 0


def _state(services: Services, server: _Server) -> metrics.RelayState:
    """What is shown of this process, once a second."""
    return services.relay_state(len(server.server_state.tasks), len(server.server_state.connections))


async def _end_calls(servers: list[_Server]) -> None:
    """What still runs is cut, and hands its exchange over, before those who take it end."""
    running = [task for server in servers for task in server.server_state.tasks]
    for task in running:
        if not task.cancelling():
            task.cancel()
    if running:
        await asyncio.wait(running, timeout=_LAST_WORDS_S)


async def _soon_ready(services: Services) -> None:
    """The first moment: connections wait in the backlog rather than get 503. Without a database it serves anyway."""
    until = time.monotonic() + _FIRST_MOMENT_S
    while services.ready() == "database" and time.monotonic() < until:  # noqa: ASYNC110 - many facts make it ready
        await asyncio.sleep(0.01)


def settle_garbage_collector() -> None:
    """What was imported lives as long as the process: it is not looked through again, and the young less often.

    A call makes some sixty objects that are freed by counting; by default, cycles are looked for every dozen calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which ignores a second SIGTERM and ends the process too early."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `_Stopping`'s."""
        yield


def _server(settings: Settings, services: Services, app: Application) -> _Server:
    limits = ListenerLimits(max_connections=settings.max_connections)
    config = uvicorn.Config(
        app,
        http=listener(limits, services.stages.refusals),
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
    )
    return _Server(config)


class _Stopping:
    """The first signal drains, the second cuts."""

    def __init__(self, settings: Settings, services: Services, servers: list[_Server]) -> None:
        self._settings = settings
        self._services = services
        self._servers = servers
        self._asked = 0

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """While the process serves, signals come here."""
        loop = asyncio.get_running_loop()
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in heard:
            loop.add_signal_handler(number, self._told)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def _told(self) -> None:
        self._asked += 1
        if self._asked == 1:
            log.say("draining", seconds=self._settings.shutdown_delay_s)
            self._services.health.draining = True
            asyncio.get_running_loop().call_later(self._settings.shutdown_delay_s, self._close)
        else:
            self._close()
            for server in self._servers:
                server.force_exit = True
                for connection in list(server.server_state.connections):
                    if isinstance(connection, Listener):
                        connection.stop()
                for running in list(server.server_state.tasks):
                    running.cancel()

    def _close(self) -> None:
        for server in self._servers:
            server.should_exit = True
