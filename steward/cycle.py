"""One request and its response on a caller's connection, as ASGI sees them; the listener's other half.

uvicorn's own allocates an event and two timers a call, sends a head apart from its body, and never tells the
application that the caller left. It knows no key, route or provider, and frames nothing it was not told to send.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from steward import log
from steward.errors import Cut, InternalError, StewardError
from steward.wire.headers import CallerHead

_NO_BODY = frozenset({204, 304})
_JOIN_BYTES = 64 * 1024
_END = (b"", b"")
"""After a head's last line."""
_LAST = (b"connection: close", b"", b"")
"""The same, of the connection's last answer."""


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode("ascii")


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


class Writable(Protocol):
    """How much the transport still holds back."""

    read_paused: bool
    write_paused: bool

    async def drain(self) -> None:
        """Waits until the caller reads again."""


class CallersConnection(Protocol):
    """What a cycle asks of the connection it is on."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    tasks: set[asyncio.Task[None]]
    expect_100_continue: bool

    @property
    def flow(self) -> Writable:
        """The connection's own."""

    def read_on(self) -> None:
        """The cycle has taken what was there."""

    def on_response_complete(self) -> None:
        """The response went out whole, and the connection goes on."""

    def refuse_running(self, cycle: Cycle, error: StewardError) -> None:
        """The application failed before it began to answer."""

    def linger(self) -> None:
        """Closes, but leaves the caller time to read why."""

    def close(self) -> None:
        """Closes once all is sent."""

    def reset(self) -> None:
        """Closes so that nobody takes what came for whole."""


class Cycle:
    """One request and its response, as ASGI sees them."""

    # Set on the class and overwritten on the cycle: one is made for every call.
    task: asyncio.Task[None] | None = None
    on_lost: Callable[[], None] | None = None
    """Called once when the caller leaves, or is refused, before his response is whole."""
    refused: StewardError | None = None
    """Why the listener itself has answered: the application has nobody left to tell."""
    head: CallerHead | None = None
    """The caller's head taken apart, when the listener has done so."""
    waits_for_body = False
    body_bytes = 0
    more_body = True
    disconnected = False
    response_started = False
    response_complete = False
    _end_told = False
    _waiter: asyncio.Future[None] | None = None
    _held = b""
    _chunked = False
    _has_body = True
    _left: int | None = None

    def __init__(self, connection: CallersConnection, scope: dict[str, Any], keep_alive: bool) -> None:
        self._connection = connection
        self.scope = scope
        scope["extensions"] = {"steward": self}
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = connection.expect_100_continue
        self.body: list[bytes] = []

    def wake(self) -> None:
        """`receive` looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def lost(self, refused: StewardError | None = None) -> None:
        """The caller left; or his request broke off by his own fault, and he was told so."""
        if self.response_complete or self.disconnected:
            return
        self.disconnected = True
        self.refused = refused
        self.wake()
        if self.on_lost is not None:
            self.on_lost()

    async def run_asgi(self, app: Any) -> None:
        """Runs the application for this request; what it raises closes the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except Cut:
            self._break()
        except Exception as exc:  # the last line of defence: nothing above may end the process
            log.error("listener_failed", exc)
            if self.response_started or self.disconnected:
                self._break()
            else:
                self._connection.refuse_running(self, InternalError())
        else:
            if not self.response_complete:
                self._break()
        finally:
            self._connection.tasks.discard(self.task)

    def _break(self) -> None:
        """Ends what cannot be finished, so that nobody takes it for finished."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        if self._left is None and not self._chunked:
            self._connection.reset()
        else:
            self._connection.close()

    # What an application that knows us may use beside ASGI, so that a small call costs no turn of the loop

    @property
    def waited_for(self) -> set[asyncio.Task[None]]:
        """What its server waits for before it ends: every call that runs, and what is added."""
        return self._connection.tasks

    def body_now(self) -> bytes | None:
        """The whole body when all of it is here; from then on `receive` tells of a leaver alone. Else None."""
        if self.more_body or self._end_told or self.disconnected:
            return None
        self._end_told = True
        pieces, self.body, self.body_bytes = self.body, [], 0
        if self._connection.flow.read_paused:
            self._connection.read_on()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def head_now(self, message: Any) -> bool:
        """`send` of a head when nothing holds it back; False, and nothing is done, when something does."""
        if self.disconnected or self.response_complete or self._connection.flow.write_paused:
            return False
        self._head(message)
        return True

    def piece_now(self, body: bytes, more: bool) -> bool:
        """The same of a piece of the body."""
        if self.disconnected or self.response_complete or self._connection.flow.write_paused:
            return False
        self._piece(body, more)
        return True

    def take_back(self) -> bool:
        """Whether an answer that began can be unsaid: never, here it is on its way."""
        return False

    # ASGI

    async def receive(self) -> dict[str, Any]:
        """The next piece of the body, or that the caller left."""
        if self.waiting_for_100_continue and not self._connection.transport.is_closing():
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not self.disconnected and not self.response_complete and self._nothing_yet():
            self._connection.read_on()
            self._waiter = self._connection.loop.create_future()
            self.waits_for_body = self.more_body
            try:
                await self._waiter
            finally:
                self._waiter = None
                self.waits_for_body = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self.body, self.body_bytes = self.body, [], 0
        self._connection.read_on()
        self._end_told = not self.more_body
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def _nothing_yet(self) -> bool:
        """Nothing to say: the body's next piece has not come, or its end was told and only a disconnect is news."""
        return self._end_told or (self.more_body and not self.body)

    async def send(self, message: Any) -> None:
        """A response's head, or a piece of its body. Silent once the caller left or all is said."""
        flow = self._connection.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected or self.response_complete:
            return
        if not self.response_started:
            self._head(message)
        else:
            self._piece(message.get("body", b""), message.get("more_body", False))

    def _head(self, message: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        status = message["status"]
        headers = message["headers"]
        named = dict(headers)
        length = named.get(b"content-length")
        if b"connection" in named:
            self.keep_alive = self.keep_alive and named[b"connection"].lower() != b"close"
            headers = [item for item in headers if item[0] != b"connection"]
        lines = [_STATUS_LINES[status], *map(b": ".join, headers)]
        if self.scope["method"] == "HEAD" or status in _NO_BODY:
            self._has_body = False
            self._left = 0
        elif length is not None:
            self._left = int(length)
        elif self.scope["http_version"] == "1.0":
            self.keep_alive = False
        else:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        if self.more_body:
            # The answer came before the request's end: what the caller still sends is not read.
            self.keep_alive = False
        lines += _END if self.keep_alive else _LAST
        head = b"\r\n".join(lines)
        if message.get("steward.hold"):
            self._held = head
        else:
            self._connection.transport.write(head)

    def _piece(self, body: bytes, more: bool) -> None:
        if not self._has_body:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (not more and self._left):
                raise InternalError
        transport = self._connection.transport
        if self._held:
            held, self._held = self._held, b""
            if len(body) > _JOIN_BYTES:
                transport.write(held)
            else:
                body = held + body
        if body:
            transport.write(body)
        if not more:
            self._finish()

    def _finish(self) -> None:
        self.response_complete = True
        self.wake()
        if self.keep_alive:
            self._connection.on_response_complete()
        elif self.more_body:
            self._connection.linger()
        else:
            self._connection.close()


def refusal(error: StewardError) -> bytes:
    """A whole response for a request of which no route is known."""
    document = orjson.dumps({"error": {"message": error.message, "type": "invalid_request_error", "code": error.code}})
    retry = b"" if error.retry_after_s is None else b"\r\nretry-after: %d" % error.retry_after_s
    return b"".join(
        (
            _STATUS_LINES[error.status],
            b"\r\ncontent-type: application/json\r\nx-majordomo-error: ",
            error.code.encode("ascii"),
            retry,
            b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(document),
            document,
        )
    )
