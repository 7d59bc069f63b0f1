"""The provider's stand-in: answers each numbered call as its kind says, and notes every call that it saw.

It counts nothing that did not arrive whole, and never asks who calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.faults.loop_thread import paced, say
from tests.faults.plays import STREAMS, Kind, answered

_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT_PAUSE_S = 0.005
OPEN_PAUSE_S = 0.2
DRIP_PAUSE_S = 0.002
DRIPPED = 120
"""Octets that go one by one, before the rest at once."""


class StandIn:
    """An HTTP/1.1 server on 127.0.0.1. Made and used on its event loop."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        """How often each number came."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Ends every connection."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(_value(head, b"content-length") or 0))
                number, kind = int(_value(head, b"x-call")), Kind(_value(head, b"x-kind").decode())
                self.seen[number] += 1
                if not await _answer(writer, number, kind):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()


def _value(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()


async def _answer(writer: asyncio.StreamWriter, number: int, kind: Kind) -> bool:
    """False when the connection ends with it."""
    pieces = answered(number, kind)
    if kind in STREAMS:
        say(writer, _SSE)
        for at, piece in enumerate(pieces):
            if kind is Kind.RESET and at == len(pieces) // 2:
                await writer.drain()
                return False
            say(writer, b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await paced(OPEN_PAUSE_S if kind is Kind.OPEN else EVENT_PAUSE_S)
        say(writer, b"0\r\n\r\n")
        return True
    [body] = pieces
    head = _JSON % len(body)
    if kind is Kind.DRIP:
        for octet in body[:DRIPPED]:
            say(writer, head + bytes((octet,)))
            head = b""
            await paced(DRIP_PAUSE_S)
        body = body[DRIPPED:]
    say(writer, head + body)
    await writer.drain()
    return True
