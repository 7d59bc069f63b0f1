"""A provider that streams: server-sent events one by one, each in a piece of its own. `GET /sent` tells how many.

`python -m tests.bench.streams PORT EVENTS PAUSE_MS`.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":'
    b'[{"index":0,"delta":{"content":"a few words at a time"},"finish_reason":null}]}\n\n'
)


class Streams:
    """The provider."""

    def __init__(self, events: int, pause_s: float) -> None:
        self._events = events
        self._pause_s = pause_s
        self._sent = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers request after request on one connection, until the other side closes it."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if length:
                    await reader.readexactly(int(length[0].split(b":")[1]))
                if head.startswith(b"GET /sent"):
                    said = b"%d" % self._sent
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))
                    continue
                await self._stream(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        chunk = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
        for _ in range(self._events):
            await asyncio.sleep(self._pause_s)
            writer.write(chunk)
            self._sent += 1
        writer.write(b"0\r\n\r\n")


async def _main(port: int, events: int, pause_ms: float) -> None:
    server = await asyncio.start_server(Streams(events, pause_ms / 1000).talk, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
