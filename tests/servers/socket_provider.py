"""A provider made of a plain socket: writes exactly what a test says, and keeps exactly what it was sent.

It refuses to be a framework: no routing, no headers of its own, no date.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import orjson

from tests.servers.plain_http import Ended, Fields, Head, Message, chunk, read_body, read_head


@dataclass(frozen=True)
class Received:
    """One request as it stood on the wire."""

    message: Message
    gone: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set once the peer has closed the connection; known at once where the answer's pieces are a generator."""

    @property
    def method(self) -> bytes:
        """As sent."""
        return self.message.head.first.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """Raw path and query."""
        return self.message.head.first.split(b" ")[1]

    @property
    def path(self) -> str:
        """Without the query."""
        return self.target.decode("latin-1").partition("?")[0]

    def value(self, name: str) -> str:
        """The first value of a field, or nothing."""
        return next(iter(self.message.head.values(name.encode())), b"").decode("latin-1")

    def json(self) -> Any:
        """The body read as JSON; an empty object where it is none."""
        try:
            return orjson.loads(self.message.body)
        except orjson.JSONDecodeError:
            return {}


@dataclass(frozen=True)
class Answer:
    """What the provider writes. Pieces may be a generator that waits for the test between two of them."""

    status: int = 200
    fields: Fields = field(default_factory=list)
    pieces: Iterable[bytes] = ()
    framing: Literal["length", "chunked", "close"] = "length"
    cut: bool = False
    """The connection is closed where the end of the body should stand."""


Respond = Callable[[Received], Answer]


class Provider:
    """The server: one thread a connection, on 127.0.0.1, keep-alive. `respond` runs in the connection's thread."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._newest: Received | None = None
        self._open: dict[socket.socket, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name="provider", daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """What a base URL points at."""
        return f"http://127.0.0.1:{self.port}"

    def take(self) -> list[Received]:
        """What was received since the last call, in order of arrival."""
        with self._lock:
            taken, self._received = self._received, []
        return taken

    def newest(self) -> Received:
        """The last request received, taken or not."""
        assert self._newest is not None, "nothing was received yet"
        return self._newest

    def close(self) -> None:
        """Closes the listener and every connection, and waits for their threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            running = dict(self._open)
        for sock in running:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in running.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(sock,), name="provider connection", daemon=True)
            with self._lock:
                self._open[sock] = thread
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, sock.makefile("rb") as stream, contextlib.suppress(OSError, Ended):
                while self._exchange(sock, stream):
                    pass
                sock.shutdown(socket.SHUT_RDWR)
        finally:
            with self._lock:
                self._open.pop(sock, None)

    def _exchange(self, sock: socket.socket, stream: BinaryIO) -> bool:
        """One request and its answer; False when the connection ends with it."""
        head = read_head(stream)
        if head is None:
            return False
        if head.values(b"expect"):
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        received = Received(Message(head, read_body(stream, head)))
        with self._lock:
            self._received.append(received)
            self._newest = received
        answer = self.respond(received)
        try:
            _write(sock, received, answer)
        except OSError:
            received.gone.set()
            raise
        return not answer.cut and answer.framing != "close" and not _wants_close(head)


def _wants_close(head: Head) -> bool:
    return any(b"close" in value.lower() for value in head.values(b"connection"))


def _write(sock: socket.socket, received: Received, answer: Answer) -> None:
    pieces = answer.pieces if answer.framing != "length" else [b"".join(answer.pieces)]
    lines = [b"HTTP/1.1 %d Said" % answer.status, *(b"%s: %s" % each for each in answer.fields)]
    if answer.framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    elif answer.framing == "length":
        lines.append(b"Content-Length: %d" % len(next(iter(pieces))))
    sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
    if received.method == b"HEAD":
        return
    for piece in _watched(sock, received, pieces):
        sock.sendall(chunk(piece) if answer.framing == "chunked" else piece)
    if answer.framing == "chunked" and not answer.cut:
        sock.sendall(b"0\r\n\r\n")


def _watched(sock: socket.socket, received: Received, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces; for a generator, which may wait between two, a thread tells meanwhile when the peer is gone."""
    if isinstance(pieces, list):
        yield from pieces
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            if sock.recv(1, socket.MSG_PEEK):
                return
        received.gone.set()

    threading.Thread(target=watch, name="provider watch", daemon=True).start()
    yield from pieces
