"""A small egress proxy, as companies have them: CONNECT tunnels and forwards absolute-form requests.

It keeps what it was asked and looks into no tunnel. With `user_password` it wants Basic credentials, else answers 407.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import Self


class EgressProxy:
    """The server. `asked` holds the first line of every request, `heads` the whole heads."""

    def __init__(
        self,
        user_password: str | None = None,
        connect_answer: bytes | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.asked: list[bytes] = []
        self.heads: list[bytes] = []
        self._credential = base64.b64encode(user_password.encode()) if user_password else None
        self._connect_answer = connect_answer
        """What it says to CONNECT instead of making a tunnel."""
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The proxy's URL, without credentials."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        except asyncio.CancelledError:
            # The server closes: asyncio's streams want no cancelled tasks.
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        self.asked.append(head.split(b"\r\n")[0])
        self.heads.append(head)
        if self._credential is not None and self._credential not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        if self._connect_answer is not None:
            writer.write(self._connect_answer)
            await writer.drain()
            await reader.read()
            return
        if method == b"CONNECT":
            host, port, first = *target.rsplit(b":", 1), b""
        else:
            authority, _, path = target.removeprefix(b"http://").partition(b"/")
            host, port = authority.rsplit(b":", 1)
            first = head.replace(target, b"/" + path, 1)
        try:
            away_reader, away_writer = await asyncio.open_connection(host.decode(), int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            away_writer.write(first)
        await _join((reader, writer), (away_reader, away_writer))


Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(near: Side, far: Side) -> None:
    """Carries both directions; when one ends, so does the other, with a cut when it was one."""
    ways = [asyncio.create_task(_carry(near[0], far[1])), asyncio.create_task(_carry(far[0], near[1]))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for _, writer in (near, far):
            writer.close()
        await asyncio.gather(*ways, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
