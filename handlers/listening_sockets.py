"""The container's listening sockets, and the descriptors that their connections take. It accepts none itself."""

from __future__ import annotations

import resource
import socket

from steward.errors import SettingError
from steward.settings import Settings

BACKLOG = 2048


class Sockets:
    """The listening sockets, bound once and inherited by every worker."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingError, naming the port that cannot be had."""
        self.main = _bind(settings.host, settings.port, "PORT")
        self.port: int = self.main.getsockname()[1]
        self.ops = None if settings.ops_port is None else _bind(settings.host, settings.ops_port, "OPS_PORT")
        self.ops_port: int | None = None if self.ops is None else self.ops.getsockname()[1]
        views = settings.view_auth != "off"
        self.view = _bind(settings.view_host, settings.view_port, "VIEW_PORT") if views else None

    def close(self) -> None:
        """This process listens no more; others that inherited the sockets may."""
        self.close_main()
        self.close_view()

    def close_view(self) -> None:
        """The same of the viewer's."""
        if self.view is not None:
            self.view.close()

    def close_main(self) -> None:
        """The same of all but the viewer's."""
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


def raise_descriptor_limit() -> None:
    """A connection is a descriptor: as many as the host allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
