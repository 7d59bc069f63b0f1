"""Lambda's Runtime API as a runtime sees it, over real sockets: hands events out, keeps responses chunk by chunk.

It refuses to be Lambda: it freezes nothing, counts no time and knows no front. A test reads what has come so far, and
may hold the reading, hang up, or answer before a response has ended.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, BinaryIO

import orjson

from tests.servers.plain_http import Ended, Fields, Head, chunk, read_body, read_head

WITHIN_S = 60.0
_LOOK_S = 0.02
RUNTIME = "/2018-06-01/runtime"


@dataclass
class Invoked:
    """One event, and what became of it."""

    id: str
    event: bytes
    deadline_s: float
    head: Head | None = None
    """Of the POST that brought the response."""
    chunks: queue.Queue[bytes | None] = field(default_factory=queue.Queue)
    """As they came, never joined; None after the last."""
    trailers: Fields = field(default_factory=list)
    error: Any = None
    """What was posted in place of a response."""
    cut: bool = False
    """The connection ended before the response did."""
    reads: threading.Event = field(default_factory=threading.Event)
    """Cleared: nothing is read from the response."""
    refuse_after: bytes | None = None
    """Once a chunk holds this, 413 is said and the line closed."""
    read_bytes: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    """The response, or the error, is here."""
    behind: threading.Event = field(default_factory=threading.Event)
    """The runtime has asked for the next event after it."""
    _prelude: Any = None
    _body: bytes = b""

    def next_chunk(self) -> bytes | None:
        """The next one, waited for; None after the last."""
        return self.chunks.get(timeout=WITHIN_S)

    def prelude(self) -> Any:
        """Status, headers and cookies, waited for. What of the body came with them is left for `next_piece`."""
        if self._prelude is None:
            first = self.next_chunk()
            assert first is not None, "no response"
            said, ends, self._body = first.partition(bytes(8))
            assert ends == bytes(8)
            self._prelude = orjson.loads(said)
        return self._prelude

    def next_piece(self) -> bytes | None:
        """The next piece of the body; None after the last."""
        self.prelude()
        if self._body:
            piece, self._body = self._body, b""
            return piece
        return self.next_chunk()

    def body(self) -> bytes:
        """The rest of it, to its end, whichever that is."""
        pieces = []
        while (piece := self.next_piece()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def request_id(self) -> str:
        """Of the call, as its row has it."""
        return str(self.prelude()["headers"]["x-majordomo-request-id"])

    def fault(self) -> tuple[str, Any]:
        """What the trailers say: the type, and the error's document."""
        said = {name.lower(): value for name, value in self.trailers}
        kind = said[b"lambda-runtime-function-error-type"].decode()
        return kind, json.loads(base64.b64decode(said[b"lambda-runtime-function-error-body"]))


class RuntimeApiServer:
    """The server, on 127.0.0.1, a thread a connection."""

    def __init__(self) -> None:
        self.next_asked = threading.Semaphore(0)
        """Released each time a runtime asks for the next event."""
        self.init_errors: queue.Queue[tuple[Head, Any]] = queue.Queue()
        self.chunked_events = False
        """Events are handed out in chunks, as Go's server does."""
        self.answer_next: bytes | None = None
        """Octets written in place of any answer to GET next."""
        self._events: queue.Queue[Invoked] = queue.Queue()
        self._invoked: dict[str, Invoked] = {}
        self._numbers = count(1)
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def invoke(self, event: Mapping[str, Any] | bytes, within_s: float = 600.0, **options: Any) -> Invoked:
        """Hands an event to the next runtime that asks."""
        octets = event if isinstance(event, bytes) else orjson.dumps(event)
        ident = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        invoked = Invoked(ident, octets, time.time() + within_s, **options)
        if not options.get("reads"):
            invoked.reads.set()
        self._invoked[ident] = invoked
        self._events.put(invoked)
        return invoked

    def close(self) -> None:
        """Hangs up on everybody."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for invoked in self._invoked.values():
            invoked.reads.set()
        for thread in self._threads:
            thread.join(WITHIN_S)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(WITHIN_S)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as stream, contextlib.suppress(OSError, Ended):
            head = read_head(stream)
            if head is None:
                return
            path = head.first.split(b" ")[1].decode().removeprefix(RUNTIME)
            if path == "/invocation/next":
                self._next(sock)
            elif path == "/init/error":
                self.init_errors.put((head, orjson.loads(read_body(stream, head))))
                _accepted(sock)
            else:
                _, _, ident, what = path.split("/")
                invoked = self._invoked[ident]
                (self._error if what == "error" else self._response)(sock, stream, head, invoked)

    def _next(self, sock: socket.socket) -> None:
        self.next_asked.release()
        for each in list(self._invoked.values()):
            if each.done.is_set():
                each.behind.set()
        if self.answer_next is not None:
            sock.sendall(self.answer_next)
            return
        while True:
            invoked = None
            with contextlib.suppress(queue.Empty):
                invoked = self._events.get(timeout=_LOOK_S)
            if self._closed or select.select([sock], [], [], 0)[0]:  # who asked is gone; another may have it
                if invoked is not None:
                    self._events.put(invoked)
                return
            if invoked is None:
                continue
            lines = [b"HTTP/1.1 200 OK", b"Lambda-Runtime-Aws-Request-Id: " + invoked.id.encode()]
            lines.append(b"Lambda-Runtime-Deadline-Ms: %d" % (invoked.deadline_s * 1000))
            body = invoked.event
            if self.chunked_events:
                lines.append(b"Transfer-Encoding: chunked")
                half = len(body) // 2 + 1
                body = chunk(body[:half]) + chunk(body[half:]) + b"0\r\n\r\n"
            else:
                lines.append(b"Content-Length: %d" % len(body))
            sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            return

    def _error(self, sock: socket.socket, stream: BinaryIO, head: Head, invoked: Invoked) -> None:
        invoked.head = head
        invoked.error = orjson.loads(read_body(stream, head))
        invoked.chunks.put(None)
        invoked.done.set()
        _accepted(sock)

    def _response(self, sock: socket.socket, stream: BinaryIO, head: Head, invoked: Invoked) -> None:
        invoked.head = head
        try:
            while piece := _chunk(stream, invoked):
                invoked.read_bytes += len(piece)
                invoked.chunks.put(piece)
                if invoked.refuse_after is not None and invoked.refuse_after in piece:
                    sock.sendall(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n")
                    return
            while (line := stream.readline()) != b"\r\n":
                if not line:
                    raise Ended
                name, _, value = line.partition(b":")
                invoked.trailers.append((name, value.strip()))
            invoked.done.set()
            _accepted(sock)
        except (Ended, OSError):
            invoked.cut = True
        finally:
            invoked.chunks.put(None)
            invoked.done.set()


def _chunk(stream: BinaryIO, invoked: Invoked) -> bytes:
    assert invoked.reads.wait(WITHIN_S)
    line = stream.readline()
    if not line:
        raise Ended
    size = int(line, 16)
    data = stream.read(size)
    if len(data) < size or (size and stream.read(2) != b"\r\n"):
        raise Ended
    return data


def _accepted(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
