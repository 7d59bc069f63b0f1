"""The network between a process and its PostgreSQL: it can hold what is said, cut, vanish without a word, or be down.

It refuses to read the protocol. Octets that it holds are never let go by themselves.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_PIECE = 1 << 16


@dataclass(eq=False)
class _Connection:
    near: socket.socket
    far: socket.socket
    lost: bool = False
    """What is said is thrown away; both ends of the near side stay open."""


@dataclass
class Way:
    """A port of 127.0.0.1 that leads to the server."""

    port: int
    made: int = 0
    """Connections so far."""
    _passes: threading.Event = field(default_factory=threading.Event)
    _held: threading.Event = field(default_factory=threading.Event)
    _down: bool = False
    _standing: list[_Connection] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self) -> None:
        """From now on nothing reaches the server."""
        self._held.clear()
        self._passes.clear()

    def wait_held(self, within_s: float = 20.0) -> None:
        """Returns once something is being held."""
        assert self._held.wait(within_s), "nothing was said"

    def drop(self) -> None:
        """What is held is thrown away with its connections; new ones are served."""
        self.cut()
        self._passes.set()

    def release(self) -> None:
        """What is held goes on."""
        self._passes.set()

    def cut(self) -> None:
        """Every connection that stands is closed, at both ends."""
        for each in self._taken():
            each.lost = True
            _shut(each.near, each.far)

    def vanish(self) -> None:
        """Every connection that stands is gone without a word: the server knows, the process does not."""
        for each in self._taken():
            each.lost = True
            _shut(each.far)

    def go_down(self) -> None:
        """Cut, and every new connection is closed at once, until `come_up`."""
        self._down = True
        self.cut()

    def come_up(self) -> None:
        self._down = False

    def _taken(self) -> list[_Connection]:
        with self._lock:
            standing, self._standing = self._standing, []
        return standing

    def _meet(self, near: socket.socket, server: tuple[str, int]) -> None:
        if self._down:
            near.close()
            return
        with near, contextlib.suppress(OSError), socket.create_connection(server) as far:
            connection = _Connection(near, far)
            with self._lock:
                self.made += 1
                self._standing.append(connection)
            back = threading.Thread(target=self._answers, args=(connection,), daemon=True)
            back.start()
            self._asks(connection)
            back.join()

    def _asks(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while piece := connection.near.recv(_PIECE):
                if not self._passes.is_set():
                    self._held.set()
                    self._passes.wait()
                if not connection.lost:
                    connection.far.sendall(piece)
        _shut(connection.far)

    def _answers(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while piece := connection.far.recv(_PIECE):
                connection.near.sendall(piece)
        if not connection.lost:
            _shut(connection.near)


def _shut(*socks: socket.socket) -> None:
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def way_to(host: str, port: int) -> Iterator[Way]:
    """Listens until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        made = Way(server.getsockname()[1])
        made.release()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = server.accept()
                    threading.Thread(target=made._meet, args=(near, (host, port)), daemon=True).start()  # noqa: SLF001

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
        made.drop()
    thread.join()
