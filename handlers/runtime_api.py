"""The Lambda Runtime API by HTTP: the next event, a response in pieces as they come, an error.

It knows no application and no event's shape. Each request has a connection of its own: none that may have died while
the sandbox was frozen is used again. A response ends by its last chunk alone; what cannot be finished ends with the
trailers that say so, never as if it were whole.
"""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import dataclass, field
from typing import Final, cast

import httptools
import orjson

RUNTIME: Final = b"/2018-06-01/runtime"
MAX_ANSWER_BYTES: Final = 32 << 20
"""Of what the Runtime API says at once. It hands over at most 6 MB, and more for what JSON escapes."""
HTTP_RESPONSE: Final = b"application/vnd.awslambda.http-integration-response"
ERROR_DOCUMENT: Final = b"application/vnd.aws.lambda.error+json"
ERROR_TYPE: Final = b"Lambda-Runtime-Function-Error-Type"
ERROR_BODY: Final = b"Lambda-Runtime-Function-Error-Body"
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,128}")
_TRAILERS: Final = ERROR_TYPE + b", " + ERROR_BODY


class RuntimeApiLost(Exception):
    """The Runtime API cannot be reached, hung up, or says what it may not: this process has no further use."""


class ResponseRefused(Exception):
    """The Runtime API takes no more of this response: it is too large, too late, or was ended already."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an invocation, or the start, failed: a word in the form `Steward.Reason` and a fixed sentence of ours."""

    kind: str
    message: str

    def document(self) -> bytes:
        """As Lambda writes errors, in JSON."""
        return orjson.dumps({"errorMessage": self.message, "errorType": self.kind, "stackTrace": []})


@dataclass(frozen=True, slots=True)
class Invocation:
    """An event to work on."""

    id: str
    deadline_s: float
    """By the wall clock, in seconds since 1970: the process is ended then."""
    event: bytes = field(repr=False)
    """As it came, JSON."""


class RuntimeApi:
    """One runtime's side of it. `authority`: host and port, as AWS_LAMBDA_RUNTIME_API says them."""

    def __init__(self, authority: str) -> None:
        host, _, port = authority.rpartition(":")
        self._host, self._port = (host, int(port)) if host and port.isdigit() else (authority, 80)
        self._authority = authority.encode("ascii")

    async def next(self) -> Invocation:
        """Waits for the next event, however long; the sandbox may freeze meanwhile. Raises RuntimeApiLost."""
        line = await self._connect()
        line.write(self._head(b"GET", b"/invocation/next"), b"\r\n")
        try:
            answer = await line.answer
        finally:
            line.close()
        ident = answer.headers.get(b"lambda-runtime-aws-request-id", b"").decode("latin-1")
        deadline = answer.headers.get(b"lambda-runtime-deadline-ms", b"")
        if answer.status != 200 or not _ID.fullmatch(ident) or not deadline.isdigit():
            raise RuntimeApiLost
        return Invocation(ident, int(deadline) / 1000, bytes(answer.body))

    async def fail(self, invocation_id: str, fault: Fault) -> None:
        """The invocation failed before a response began. Raises RuntimeApiLost."""
        await self._report(b"/invocation/" + invocation_id.encode("ascii") + b"/error", fault)

    async def init_failed(self, fault: Fault) -> None:
        """This process cannot start. Raises RuntimeApiLost."""
        await self._report(b"/init/error", fault)

    async def respond(self, invocation_id: str) -> StreamedResponse:
        """Begins a response in streaming mode. Raises RuntimeApiLost."""
        line = await self._connect()
        path = b"/invocation/" + invocation_id.encode("ascii") + b"/response"
        fields = (
            (b"Content-Type", HTTP_RESPONSE),
            (b"Lambda-Runtime-Function-Response-Mode", b"streaming"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Trailer", _TRAILERS),
        )
        return StreamedResponse(line, self._head(b"POST", path, *fields) + b"\r\n")

    async def _report(self, path: bytes, fault: Fault) -> None:
        document = fault.document()
        fields = (
            (b"Content-Type", ERROR_DOCUMENT),
            (ERROR_TYPE, fault.kind.encode("ascii")),
            (b"Content-Length", b"%d" % len(document)),
        )
        line = await self._connect()
        line.write(self._head(b"POST", path, *fields), b"\r\n", document)
        try:
            answer = await line.answer
        finally:
            line.close()
        if answer.status != 202:
            raise RuntimeApiLost

    def _head(self, method: bytes, path: bytes, *fields: tuple[bytes, bytes]) -> bytes:
        lines = [method + b" " + RUNTIME + path + b" HTTP/1.1", b"Host: " + self._authority, b"Connection: close"]
        return b"\r\n".join([*lines, *map(b": ".join, fields), b""])

    async def _connect(self) -> _Line:
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.create_connection(lambda: _Line(loop), self._host, self._port)
        except OSError as exc:
            raise RuntimeApiLost from exc
        return line


class StreamedResponse:
    """One response on its way, in chunks; each is sent as it is given."""

    def __init__(self, line: _Line, head: bytes) -> None:
        self._line = line
        self._head = head

    async def write(self, piece: bytes) -> None:
        """A piece that is not empty; returns when there is room for the next. Raises ResponseRefused."""
        if not self._line.takes_more():
            raise ResponseRefused
        self._line.write(self._begin(), b"%x\r\n" % len(piece), piece, b"\r\n")
        await self._line.drained()

    async def end(self) -> None:
        """The response is whole; returns when the Runtime API has it. Raises ResponseRefused, RuntimeApiLost."""
        await self._finish(b"0\r\n\r\n")

    async def break_off(self, fault: Fault) -> None:
        """It cannot be finished, and says so in its trailers. Raises ResponseRefused, RuntimeApiLost."""
        said = ERROR_TYPE + b": " + fault.kind.encode("ascii") + b"\r\n"
        said += ERROR_BODY + b": " + base64.b64encode(fault.document()) + b"\r\n"
        await self._finish(b"0\r\n" + said + b"\r\n")

    async def refused(self) -> None:
        """Returns when the Runtime API takes no more, though nothing was ended. For a task that is cancelled then."""
        await asyncio.wait((self._line.answer,))

    def close(self) -> None:
        """Hangs up, whatever was said."""
        self._line.close()

    async def _finish(self, last: bytes) -> None:
        if not self._line.takes_more():
            raise ResponseRefused
        self._line.write(self._begin(), last)
        try:
            answer = await self._line.answer
        finally:
            self.close()
        if answer.status != 202:
            raise ResponseRefused

    def _begin(self) -> bytes:
        head, self._head = self._head, b""
        return head


@dataclass(slots=True)
class _Answer:
    """What the Runtime API answered."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class _Line(asyncio.Protocol):
    """One connection: a request out, its answer in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[_Answer] = loop.create_future()
        # Nobody may be waiting for it when the line breaks; who writes next learns of it.
        self.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._loop = loop
        self._said = _Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        """Octets of the answer."""
        if self.answer.done():
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost()

    def connection_lost(self, exc: Exception | None) -> None:
        """The Runtime API hung up, or we did."""
        self._lost()

    def pause_writing(self) -> None:
        """What was written is not taken yet."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """It was."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the answer's head."""
        self._said.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._said.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A piece of the answer."""
        self._said.body += body
        if len(self._said.body) > MAX_ANSWER_BYTES:
            self._lost()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if not self.answer.done() and self._said.status >= 200:
            self.answer.set_result(self._said)
            self.resume_writing()

    # our own

    def write(self, *octets: bytes) -> None:
        """Writes, unless the line broke."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines([each for each in octets if each])

    def takes_more(self) -> bool:
        """Whether anybody waits for the rest of the request."""
        return not self.answer.done()

    async def drained(self) -> None:
        """Returns when there is room, or nobody reads any more."""
        if self._room is not None:
            await self._room

    def close(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.close()

    def _lost(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(RuntimeApiLost())
        self.resume_writing()
        self.close()
