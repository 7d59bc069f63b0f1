"""A caller who keeps to no rule: octets out as given, octets in until the other side closes. It frames nothing.

`Caller` is the other kind, for crowds: one kept connection, one call after another, canaries and all.
"""

from __future__ import annotations

import asyncio
import re
import selectors
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back over one connection until its end."""

    octets: bytes
    sent_bytes: int
    closed: bool
    """The other side closed within the time."""

    @property
    def status(self) -> int:
        """The first status, interim ones included; 0 when nothing came."""
        return int(self.octets[9:12]) if self.octets.startswith(b"HTTP/1.1 ") else 0

    @property
    def statuses(self) -> list[int]:
        """Every status line's, in order."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", self.octets)]

    @property
    def head(self) -> bytes:
        """The first head, lower-case."""
        return self.octets.partition(b"\r\n\r\n")[0].lower()


def say(port: int, pieces: bytes | Iterable[bytes], within_s: float = WITHIN_S, until: bytes | None = None) -> Heard:
    """Sends while it listens; stops sending once something came back; returns at the close, at `until`, or in time."""
    waiting = iter([pieces] if isinstance(pieces, bytes) else pieces)
    out, heard, sent = b"", bytearray(), 0
    deadline = time.monotonic() + within_s
    with socket.create_connection(("127.0.0.1", port)) as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        sending = True
        while (left := deadline - time.monotonic()) > 0:
            if sending and not out:
                out = next(waiting, b"")
                sending = bool(out)
                if not sending:
                    selector.modify(sock, selectors.EVENT_READ)
            ready = sum(events for _, events in selector.select(left))
            try:
                if ready & selectors.EVENT_READ:
                    piece = sock.recv(65_536)
                    if not piece:
                        return Heard(bytes(heard), sent, closed=True)
                    heard += piece
                    if sending:
                        sending = False
                        selector.modify(sock, selectors.EVENT_READ)
                    if until is not None and until in heard:
                        return Heard(bytes(heard), sent, closed=False)
                elif ready:
                    count = sock.send(out)
                    out, sent = out[count:], sent + count
            except ConnectionError:
                return Heard(bytes(heard), sent, closed=True)
    return Heard(bytes(heard), sent, closed=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, as far as it came."""

    status: int
    head: bytes
    body: bytes
    whole: bool
    """It came to its announced end."""


class Caller:
    """One caller with one connection, opened anew when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def call(self, request: bytes, method: bytes = b"POST") -> Reply:
        """One request, whole; its answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        head, body = b"", bytearray()
        try:
            writer.write(request)
            while not head or head.startswith(b"HTTP/1.1 1"):
                head = (await reader.readuntil(b"\r\n\r\n")).lower().replace(b"http/1.1", b"HTTP/1.1", 1)
            await _read_body(reader, head, method, body)
        except (asyncio.IncompleteReadError, ConnectionError, OSError) as exc:
            body += getattr(exc, "partial", b"")
            self._drop()
            return Reply(int(head[9:12] or 0), head, bytes(body), whole=False)
        if b"\r\nconnection: close" in head:
            self._drop()
        return Reply(int(head[9:12]), head, bytes(body), whole=True)


async def _read_body(reader: asyncio.StreamReader, head: bytes, method: bytes, body: bytearray) -> None:
    if method == b"HEAD" or head[9:12] in (b"204", b"304"):
        return
    if b"\r\ntransfer-encoding: chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
    elif b"\r\ncontent-length: " in head:
        body += await reader.readexactly(int(head.partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0]))
    else:
        body += await reader.read()
