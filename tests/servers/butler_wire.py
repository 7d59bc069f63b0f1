"""A Butler of plain sockets: keeps every call as it came, and answers what a test says, to the octet."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

Reply = Callable[[socket.socket], None]


@dataclass
class Heard:
    """One call, as it stood on the wire."""

    first: str
    """The start line."""
    fields: list[tuple[str, str]]
    """Names as they were spelled."""
    body: bytes


@dataclass
class WireButler:
    """What it heard, over how many connections."""

    url: str
    calls: list[Heard] = field(default_factory=list)
    connections: int = 0


def says(status: int, document: object = None, *fields: str) -> Reply:
    """An ordinary answer."""
    body = b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
    head = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", *fields, "", ""]
    return octets("\r\n".join(head).encode("latin-1") + body)


def octets(data: bytes, then_closes: bool = False) -> Reply:
    """These, and nothing else."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(data)
        if then_closes:
            connection.shutdown(socket.SHUT_RDWR)

    return reply


def without_end(head: bytes, piece: bytes, stop: threading.Event, pause_s: float = 0.0) -> Reply:
    """A head, and pieces until the other side leaves or `stop` is set."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(head)
        while not stop.wait(pause_s):
            connection.sendall(piece)

    return reply


@contextmanager
def wire_butler(replies: Sequence[Reply], tls: ssl.SSLContext | None = None) -> Iterator[WireButler]:
    """Gives each reply once, the last for ever."""
    left = list(replies)
    with socket.create_server(("127.0.0.1", 0)) as server:
        scheme = "http" if tls is None else "https"
        butler = WireButler(f"{scheme}://127.0.0.1:{server.getsockname()[1]}")

        def serve(plain: socket.socket) -> None:
            with plain, contextlib.suppress(OSError):
                talk(plain if tls is None else tls.wrap_socket(plain, server_side=True))

        def talk(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection, connection.makefile("rb") as reader:
                while first := reader.readline():
                    fields = []
                    while (line := reader.readline().decode("latin-1").rstrip("\r\n")) != "":
                        name, _, value = line.partition(":")
                        fields.append((name, value.strip()))
                    length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
                    butler.calls.append(Heard(first.decode("latin-1").rstrip(), fields, reader.read(length)))
                    (left.pop(0) if len(left) > 1 else left[0])(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    butler.connections += 1
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield butler
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
