"""Stands between two who speak TCP, passes every octet on unchanged, and keeps what each said."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_PIECE = 1 << 16


@dataclass
class Tee:
    """What was heard so far, over all connections, in the order of arrival."""

    port: int
    asked: bytearray = field(default_factory=bytearray)
    """What whoever connects here said."""
    answered: bytearray = field(default_factory=bytearray)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def tee(target_port: int) -> Iterator[Tee]:
    """Listens until the block ends. Who cannot be reached behind it is a connection that closes."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        made = Tee(server.getsockname()[1])

        def pass_on(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
            with contextlib.suppress(OSError):
                while piece := source.recv(_PIECE):
                    kept += piece
                    target.sendall(piece)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        def meet(caller: socket.socket) -> None:
            with caller, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target_port)) as there:
                back = threading.Thread(target=pass_on, args=(there, caller, made.answered), daemon=True)
                back.start()
                pass_on(caller, there, made.asked)
                back.join()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, _ = server.accept()
                    made.connections += 1
                    threading.Thread(target=meet, args=(caller,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
