"""Gates in front of a service: open, shut, slow, or answering in its place; made and used on their event loop.

What passes is passed unchanged: signatures made for a gate's address are checked behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tests.faults.loop_thread import paced, say

_PIECE = 65_536


class Gate:
    """In front of anything that speaks TCP."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.shut = False
        """New connections are closed at once."""
        self.delay_s = 0.0
        """Every piece waits so long, in either direction."""
        self.port = 0

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Every connection there is ends in the middle of whatever it does."""
        for writer in list(self._open):
            writer.transport.abort()

    async def stop(self) -> None:
        """Nobody listens any more."""
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.shut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._open -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # of a side that is closed, uvloop says the latter
            while piece := await reader.read(_PIECE):
                if self.delay_s:
                    await paced(self.delay_s)
                say(writer, piece)
                await writer.drain()
            writer.write_eof()


@dataclass(frozen=True)
class Instead:
    """What is answered in a service's place."""

    status: int
    code: str

    def octets(self) -> bytes:
        """As an S3 server says it."""
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        head = f"HTTP/1.1 {self.status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


BROKEN = Instead(500, "InternalError")
FORBIDDEN = Instead(403, "AccessDenied")


class HttpGate:
    """In front of an S3 server: request by request, each on a connection of its own behind the gate."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.instead: Instead | None = None
        """Answered to all, and nothing passes."""
        self.delay_s = 0.0
        """Every request waits so long before it passes."""
        self.refused = 0
        """Requests that did not pass."""
        self.port = 0

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=1 << 20, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Nobody listens any more."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines[1:]}
        if b"expect" in fields:
            say(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        if self.delay_s:
            await paced(self.delay_s)
        if self.instead is not None:
            self.refused += 1
            say(writer, self.instead.octets())
            await writer.drain()
            return True
        kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"expect", b"connection")]
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            say(back, b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body)
            say(writer, await there.read(-1))
            await writer.drain()
        finally:
            back.transport.abort()
        return False
