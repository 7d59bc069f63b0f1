"""The viewer's process: its own listener, beside the relaying ones and apart from them (SECURITY F5).

It relays nothing and settles nothing. Told to end, it ends at once: what somebody reads can be opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator

import uvicorn
import uvloop

from steward import log
from steward.api.viewer import viewer_app
from steward.errors import SettingError
from steward.listener import ListenerLimits, listener
from steward.metric_files import Board
from steward.proxy import Application
from steward.settings import Settings
from steward.wiring.viewer import ViewerServices, build_viewer

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE_S = 2
_MAX_CONNECTIONS = 256


def run_viewer(settings: Settings, sock: socket.socket, board: Board | None = None) -> int:
    """Serves on this socket until SIGTERM or SIGINT. Returns the exit code. Raises SettingError.

    `board`: where all processes of this Steward count.
    """
    log.catch_crashes()
    tls = server_tls(settings)
    services = build_viewer(settings, board)
    services.looking.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, services, sock, tls))
    finally:
        services.close()
    log.say("stopped")
    return 0


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """The listener's own TLS; None where it stands on loopback, or TLS ends before it. Raises SettingError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password=lambda: b"")
    except (OSError, ValueError):
        raise SettingError("TLS_CERT_FILE: it and TLS_KEY_FILE are no certificate and its key, unencrypted") from None
    return context


async def _serve(settings: Settings, services: ViewerServices, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.loop_fault)
    server = _Server(config(viewer_app(services.viewing, settings.view_url, services.provider), tls))
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, server.end)
    try:
        await server.serve(sockets=[sock])
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours."""
        yield

    def end(self) -> None:
        """The first time within the grace, the second at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def config(app: Application, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """How the viewer is served: by our own listener, with its bounds."""
    made = uvicorn.Config(
        app,
        http=listener(ListenerLimits(max_connections=_MAX_CONNECTIONS)),
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    made.load()
    made.ssl = tls
    return made
