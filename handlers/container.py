"""The long-running container: what `steward serve` calls. One process, or a parent that keeps N relaying ones alive.

It knows sockets, signals and processes; what a call is, it leaves to the core.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn
import uvloop

from steward import log
from steward.app import create_app, create_ops_app
from steward.errors import SettingError
from steward.listener import Listener, ListenerLimits, listener
from steward.log_fields import Facts
from steward.proxy import Application
from steward.settings import Settings
from steward.version import VERSION
from steward.wiring import Services, build, check

BACKLOG = 2048
_RESTART_PAUSE_S = 1.0
_FIRST_MOMENT_S = 2.0
_LAST_WORDS_S = 2.0
_PR_SET_PDEATHSIG = 1
_STOP_MARGIN_S = 20
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(settings: Settings) -> int:
    """Listens and relays until told to stop. Returns the exit code. Raises SettingError, also for a port in use."""
    check(settings)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold keys and prompts (SECURITY F18)
    _raise_descriptor_limit()
    sockets = _Sockets(settings)
    facts: Facts = {"host": settings.host, "port": sockets.port, "workers": settings.workers, "version": VERSION}
    if sockets.ops_port is not None:
        facts["ops_port"] = sockets.ops_port
    log.say("listening", **facts)
    log.setting_warnings(settings.warnings)
    if settings.workers == 1:
        return run_process(settings, sockets)
    return Supervisor(settings, sockets).run()


class _Sockets:
    """The listening sockets, bound once and inherited by every worker."""

    def __init__(self, settings: Settings) -> None:
        self.main = _bind(settings.host, settings.port, "PORT")
        self.port: int = self.main.getsockname()[1]
        self.ops = None if settings.ops_port is None else _bind(settings.host, settings.ops_port, "OPS_PORT")
        self.ops_port: int | None = None if self.ops is None else self.ops.getsockname()[1]

    def close(self) -> None:
        """This process listens no more; others that inherited the sockets may."""
        self.main.close()
        if self.ops is not None:
            self.ops.close()


def _bind(host: str, port: int, name: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise SettingError(f"{name}: {host}:{port} cannot be listened on; is another process using the port?") from None
    sock.listen(BACKLOG)
    sock.set_inheritable(True)
    return sock


def run_process(settings: Settings, sockets: _Sockets) -> int:
    """One relaying process, until a signal ends it. A signal that is ignored already stays so."""
    log.catch_crashes()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, sockets))


async def _serve(settings: Settings, sockets: _Sockets) -> int:
    asyncio.get_running_loop().set_exception_handler(log.loop_fault)
    services = build(settings)
    await services.start()
    servers = [_server(settings, services, create_app(services))]
    listening = [[sockets.main]]
    if sockets.ops is not None:
        servers.append(_server(settings, services, create_ops_app(services)))
        listening.append([sockets.ops])
    settle_garbage_collector()
    stopping = _Stopping(settings, services, servers)
    with stopping.signals():
        try:
            await _soon_ready(services)
            await asyncio.gather(*(s.serve(sockets=socks) for s, socks in zip(servers, listening, strict=True)))
        finally:
            await _end_calls(servers)
            await services.stop()
    log.say("stopped")
    return 0


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
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
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


class Supervisor:
    """The parent of N relaying processes: restarts what dies, passes signals on, reaps as PID 1 must."""

    def __init__(self, settings: Settings, sockets: _Sockets) -> None:
        self._settings = settings
        self._sockets = sockets
        self._workers: dict[int, int] = {}
        self._stopping = False

    def run(self) -> int:
        """Until every worker has ended after a signal."""
        for number in _SIGNALS:
            signal.signal(number, self._told)
        signal.signal(signal.SIGALRM, self._overdue)
        for index in range(self._settings.workers):
            self._start(index)
        while self._workers:
            self._reap()
        return 0

    def _told(self, number: int, frame: object) -> None:
        """Passed on, every time: a worker knows the second one from the first."""
        self._stopping = True
        self._sockets.close()  # nobody here accepts: what stayed open would take connections and leave them hanging
        settings = self._settings
        signal.alarm(round(settings.shutdown_delay_s + settings.shutdown_grace_s) + _STOP_MARGIN_S)
        self._send(signal.SIGTERM)

    def _overdue(self, number: int, frame: object) -> None:
        """A worker that does not end in its time is ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _start(self, index: int) -> None:
        # No signal between the fork and the note of it: a worker that nobody knows of is never told to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        parent = os.getpid()
        pid = 0 if self._stopping else os.fork()
        if pid:
            self._workers[pid] = index
        if pid or self._stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # Ctrl-C reaches all of a terminal's processes: the parent's word alone counts, else it would count twice.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _end_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            code = run_process(self._settings, self._sockets)
        except BaseException as exc:  # a fork must never return into its parent's code
            log.error("worker_failed", exc, worker=index)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        pid, status = os.waitpid(-1, 0)
        index = self._workers.pop(pid, None)
        if index is None:
            return
        if self._stopping:
            return
        log.say("worker_died", logging.ERROR, worker=index, pid=pid, status=os.waitstatus_to_exitcode(status))
        time.sleep(_RESTART_PAUSE_S)
        if not self._stopping:
            self._start(index)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed drains and ends, too: nobody would restart it, and it would keep the port."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor: as many as the host allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
