"""Stand-ins before a PostgreSQL server, or instead of one: TLS, no TLS, hostile. Each keeps what it was sent in clear.

Refuses to be helpful: a door does what its kind says and nothing more.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
AUTHENTICATION_CLEAR_TEXT = b"R" + struct.pack("!ii", 8, 3)
_SAID = b"SFATAL\0C28P01\0Mno\0\0"
REFUSAL = b"E" + struct.pack("!i", 4 + len(_SAID)) + _SAID

Story = Callable[["Door", socket.socket], None]


class Door:
    """A listener on 127.0.0.1 that lives each connection by one story."""

    def __init__(self, story: Story, tls: ssl.SSLContext | None = None, backend: tuple[str, int] | None = None) -> None:
        self.tls = tls
        self.backend = backend
        self.in_clear: list[bytes] = []
        """What each connection sent before, or without, TLS."""
        self.in_private: list[bytes] = []
        """What a story read within TLS."""
        self._story = story
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._lives: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)
        for life in self._lives:
            life.join(10)

    def read(self, sock: socket.socket, count: int) -> bytes:
        """So many octets, noted; fewer when the other side ends."""
        got = b""
        while len(got) < count and (piece := sock.recv(count - len(got))):
            got += piece
        (self.in_private if isinstance(sock, ssl.SSLSocket) else self.in_clear).append(got)
        return got

    def read_startup(self, sock: socket.socket) -> bytes:
        """A start-up packet, or nothing when the other side ends."""
        head = self.read(sock, 4)
        return self.read(sock, struct.unpack("!i", head)[0] - 4) if len(head) == 4 else b""

    def read_message(self, sock: socket.socket) -> bytes:
        """One message after the start-up packet, without its head; nothing when the other side ends."""
        head = self.read(sock, 5)
        return self.read(sock, struct.unpack("!i", head[1:])[0] - 4) if len(head) == 5 else b""

    def read_to_the_end(self, sock: socket.socket) -> None:
        """All that comes until the other side is gone."""
        with contextlib.suppress(OSError):
            while self.read(sock, 1):
                pass

    def relay(self, sock: socket.socket, first: bytes = b"") -> None:
        """Octets both ways between the connection and the server, after `first`, until either side ends."""
        assert self.backend is not None
        with socket.create_connection(self.backend) as behind:
            behind.sendall(first)
            pairs = {sock: behind, behind: sock}
            with contextlib.suppress(OSError):
                while True:
                    pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
                    for ready in [sock] if pending else select.select(list(pairs), [], [])[0]:
                        piece = ready.recv(65536)
                        if not piece:
                            return
                        pairs[ready].sendall(piece)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                life = threading.Thread(target=self._live, args=(sock,))
                self._lives.append(life)
                life.start()

    def _live(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(20)
            self._story(self, sock)


def _within_tls(door: Door, sock: socket.socket) -> ssl.SSLSocket:
    assert door.tls is not None
    return door.tls.wrap_socket(sock, server_side=True)


def tls(door: Door, sock: socket.socket) -> None:
    """Agrees to TLS and passes on to the server."""
    if door.read(sock, 8) == SSL_REQUEST:
        sock.sendall(b"S")
        with _within_tls(door, sock) as private:
            door.relay(private)


def no_tls(door: Door, sock: socket.socket) -> None:
    """Answers N, notes what comes next, and passes on to the server if there is one."""
    if door.read(sock, 8) == SSL_REQUEST:
        sock.sendall(b"N")
        if door.backend is None:
            door.read_to_the_end(sock)
        else:
            door.relay(sock)


def plain(door: Door, sock: socket.socket) -> None:
    """Passes on to the server, whatever is asked."""
    door.relay(sock)


def hangs_up_on_tls(door: Door, sock: socket.socket) -> None:
    """Answers S, and then nothing that is TLS; a connection that asks for none is passed on."""
    first = door.read(sock, 8)
    if first == SSL_REQUEST:
        sock.sendall(b"S" + b"no TLS at all")
        door.read_to_the_end(sock)
    else:
        door.relay(sock, first)


def answers_with_an_error(door: Door, sock: socket.socket) -> None:
    """What a server from before TLS says to the request."""
    door.read(sock, 8)
    sock.sendall(b"E" + struct.pack("!i", 30) + b"SFATAL\0C0A000\0Munsupported\0\0")
    door.read_to_the_end(sock)


def says_nothing(door: Door, sock: socket.socket) -> None:
    """Hangs up at once."""
    door.read(sock, 8)


def asks_in_clear(door: Door, sock: socket.socket) -> None:
    """No TLS, and then: the password, please."""
    if door.read(sock, 8) == SSL_REQUEST:
        sock.sendall(b"N")
        door.read_startup(sock)
    else:
        door.read(sock, struct.unpack("!i", door.in_clear[-1][:4])[0] - 8)
    sock.sendall(AUTHENTICATION_CLEAR_TEXT)
    if door.read_message(sock):
        sock.sendall(REFUSAL)


def asks_within_tls(door: Door, sock: socket.socket) -> None:
    """TLS, and then: the password, please. Refuses it, whatever it is."""
    if door.read(sock, 8) == SSL_REQUEST:
        sock.sendall(b"S")
        with _within_tls(door, sock) as private:
            door.read_startup(private)
            private.sendall(AUTHENTICATION_CLEAR_TEXT)
            door.read_message(private)
            private.sendall(REFUSAL)


def garbage(door: Door, sock: socket.socket) -> None:
    """Another protocol altogether."""
    door.read(sock, 8)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
