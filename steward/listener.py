"""The HTTP/1.1 listener: uvicorn's httptools protocol with bounds on every head, body and silence (DESIGN 7).

It knows nothing of keys, routes or providers. Stock uvicorn takes a head without end, turns trailers into headers and
drops the connection on a 304 with a length; this refuses, in time and in JSON, what a caller must not send, and tells
the relay when the caller has left. It departs from a thin subclass where the cost was: the cycle (`cycle.py`) is
our own, because uvicorn's allocates an event and two timers a call, and a request that is plainly whole in one piece is
read without the parser (`_whole`).
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steward.cycle import Cycle, refusal
from steward.errors import (
    BadRequest,
    CallerFault,
    HeadTooLarge,
    RequestTimeout,
    StewardError,
    TooManyConnections,
    Unsupported,
)
from steward.refusals import Refusals
from steward.wire.known_heads import KnownHeads

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.server import ServerState

HIGH_WATER_BYTES = 64 * 1024
_NEVER = float("inf")
_PIPELINED = 8
"""Calls that may wait behind the one that is served before nothing more is read."""
_NO_GRACE = struct.pack("ii", 1, 0)


_PLAIN_START = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[!-\"$-~]*+) HTTP/1\.1\r\n")
_VERSIONS = frozenset({"1.0", "1.1"})
_ASGI = {"version": "3.0", "spec_version": "2.3"}


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Bounds of one listener. Times in seconds."""

    head_bytes: int = 64 * 1024
    head_fields: int = 128
    head_timeout_s: float = 10.0
    body_window_s: float = 30.0
    body_min_bytes_per_s: int = 1024
    keep_alive_s: float = 75.0
    linger_s: float = 1.0
    stall_s: float = 300.0
    """How long a caller may leave what was sent to him unread."""
    max_connections: int = 10_000

    @property
    def sweep_s(self) -> float:
        """How often deadlines are looked at."""
        return min(1.0, self.head_timeout_s / 4, self.body_window_s / 4, self.keep_alive_s / 4, self.linger_s)


class Sweeper:
    """One timer for all connections of a loop: a timer each would cost every call."""

    def __init__(self, limits: ListenerLimits) -> None:
        self._limits = limits
        self._connections: set[Listener] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Listener) -> None:
        """From now on its deadlines count."""
        self._connections.add(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(self._limits.sweep_s, self._sweep, connection.loop)

    def forget(self, connection: Listener) -> None:
        """The connection is gone."""
        self._connections.discard(connection)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._limits.sweep_s, self._sweep, loop) if self._connections else None
        now = loop.time()
        for connection in list(self._connections):
            connection.check(now)


def listener(limits: ListenerLimits, refusals: Refusals | None = None) -> type[Listener]:
    """The protocol class to give to uvicorn as `http=`; one for each listening process."""
    bound = {
        "limits": limits,
        "sweeper": Sweeper(limits),
        "refusals": refusals or Refusals(),
        "heads": KnownHeads(),
    }
    return type("BoundListener", (Listener,), bound)


class Listener(HttpToolsProtocol):
    """One caller's connection."""

    limits: ListenerLimits
    sweeper: Sweeper
    refusals: Refusals
    heads: KnownHeads
    flow: FlowControl
    transport: asyncio.Transport
    cycle: Cycle  # type: ignore[assignment]
    pipeline: deque[tuple[Cycle, ASGI3Application]]  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline = _NEVER
        self._running: Cycle | None = None
        """The call that is served; `cycle` is the newest, and may wait behind it."""
        self._in_message = False
        """Between a message's first octet and its last, as the parser sees it."""
        self._in_head = False
        self._head_bytes = 0
        self._head_slack = 0
        self._chunk_bytes = 0
        self._barren_bytes = 0
        """Octets since the head or the last of a body: of chunk sizes, of trailers."""
        self._window_bytes = 0
        self._window_end = _NEVER
        self._stall_end = _NEVER
        self._linger_end = _NEVER
        self._refusal: CallerFault | None = None
        """Why nothing more is parsed."""
        self._owed: StewardError | None = None
        """What is answered once the calls received whole before it are."""
        self._dropped_bytes = 0

    # what asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller connected: his first head must come in time."""
        super().connection_made(transport)
        self.deadline = self.loop.time() + self.limits.head_timeout_s
        self.sweeper.watch(self)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller left: every call of his on this connection learns of it."""
        self.sweeper.forget(self)
        self.connections.discard(self)
        if self.flow is not None:
            self.flow.resume_writing()
        for cycle, _ in self.pipeline:
            cycle.lost()
        if self._running is not None:
            self._running.lost()
        self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Octets from the caller."""
        if self._refusal is not None:
            self._drop(len(data))
            return
        if not self._in_message and self._whole(data):
            return
        self._chunk_bytes = len(data)
        self._window_bytes += len(data)
        self._barren_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(self._refusal or Unsupported())
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest())
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes - self._head_slack > self.limits.head_bytes:
                self._refuse(HeadTooLarge())
        elif self._barren_bytes > self.limits.head_bytes and self.cycle is not None and self.cycle.more_body:
            self._refuse(HeadTooLarge())

    def eof_received(self) -> None:
        """The caller closed his side; the transport closes ours."""

    # what the parser calls

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_message = True
        self.url = b""
        self.headers = []
        self._head_bytes = 0
        # What stands before it in the same piece is not its own.
        self._head_slack = 0 if self.cycle is None else self._chunk_bytes
        self._in_head = True
        self.deadline = self.loop.time() + self.limits.head_timeout_s

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; what comes after the head is a trailer, and dropped."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: the application starts, before any octet of the body is looked at."""
        self._in_head = False
        self.deadline = _NEVER
        self._check_head()
        parser = self.parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            self._give_up(BadRequest())
        busy = self.cycle is not None and not self.cycle.response_complete
        method = parser.get_method().decode("ascii")
        scope = self._scope(version, method, self.url, self.headers)
        cycle = Cycle(self, scope, version != "1.0" and parser.should_keep_alive())
        self.cycle = cycle
        self._window_end = self.loop.time() + self.limits.body_window_s
        self._window_bytes = 0
        self._barren_bytes = 0
        if busy:
            self.pipeline.appendleft((cycle, self.app))
            if len(self.pipeline) >= _PIPELINED:
                self.flow.pause_reading()
        else:
            self._start(cycle)

    def _check_head(self) -> None:
        """Bounds and framing. The exact size is only added up for a head that might be too large."""
        limits, headers = self.limits, self.headers
        if len(headers) > limits.head_fields:
            self._give_up(HeadTooLarge())
        if self._head_bytes + self._chunk_bytes > limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > limits.head_bytes:
                self._give_up(HeadTooLarge())
        if self.parser.should_upgrade():
            self._give_up(Unsupported())
        named = dict(headers)
        expect = named.get(b"expect")
        self.expect_100_continue = (
            expect is not None and expect.strip().lower() == b"100-continue" and self.parser.get_http_version() != "1.0"
        )
        if b"transfer-encoding" in named:
            codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
            if codings != [b"chunked"]:
                self._give_up(Unsupported())

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._barren_bytes = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body.append(body)
        cycle.body_bytes += len(body)
        if cycle.body_bytes > HIGH_WATER_BYTES:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        """The body ended."""
        self._in_message = False
        self._window_end = _NEVER
        cycle = self.cycle
        if not self.parser.should_keep_alive():
            # Perhaps said in a trailer. The parser passes over what follows, and would leave a part of it to `_whole`.
            cycle.keep_alive = False
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.wake()

    # our own

    def _whole(self, data: bytes) -> bool:
        """Serves what is plainly one whole request and no octet more; False, and nothing is done, for all else.

        Most calls come so, and a callback for every field costs more than all the rest that is done here. What it takes
        is a part of what the parser would, and it leaves no octet over, so the two never see a request differently.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        start = _PLAIN_START.match(data)
        end = data.find(b"\r\n\r\n") + 4
        limits = self.limits
        if start is None or not 4 <= end <= limits.head_bytes:
            return False
        known = self.heads.read(data[start.end() : end - 2], limits.head_fields)
        if known is None:
            return False
        headers, head = known
        if (head.length or 0) != len(data) - end:
            return False
        self.expect_100_continue = False
        scope = self._scope("1.1", start[1].decode("ascii"), start[2], headers)
        self.cycle = cycle = Cycle(self, scope, keep_alive=True)
        cycle.head = head
        cycle.more_body = False
        if end < len(data):
            cycle.body.append(data[end:])
            cycle.body_bytes = len(data) - end
        self.deadline = _NEVER
        self._start(cycle)
        return True

    def _scope(self, version: str, method: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        if not url.startswith(b"/"):
            # Absolute form: its host is ignored (RFC 9112, 3.2.2 lets a proxy say so; ours has one provider a route).
            _, found, rest = url.partition(b"://")
            if found:
                authority = rest.partition(b"/")[0].partition(b"?")[0]
                path = rest[len(authority) :]
                url = path if path.startswith(b"/") else b"/" + path
        raw_path, _, query = url.partition(b"?")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": {},
        }

    def _start(self, cycle: Cycle) -> None:
        self._running = cycle
        # Taken off the set by the cycle itself: a callback would cost every call another turn of the loop.
        cycle.task = task = self.loop.create_task(cycle.run_asgi(self.app))
        self.tasks.add(task)

    def _give_up(self, error: CallerFault) -> None:
        """From inside the parser: remembers why, and stops it."""
        self._refusal = error
        raise error

    def _refuse(self, error: StewardError) -> None:
        """Answers what cannot be served, in JSON, and closes; what was received whole before it is served first."""
        self._refusal = error if isinstance(error, CallerFault) else BadRequest()
        newest = self.cycle
        unfinished = newest is not None and newest.more_body and not newest.response_complete
        if unfinished and newest is self._running:
            self._refuse_body(newest, error)
            return
        self.refusals.count(error.code)
        if self.cycle_done():
            self._answer_refusal(error)
            return
        if unfinished:
            self.pipeline.popleft()  # it waits, and its body will never be whole
        self._owed = error
        self._in_head = False
        self.deadline = self._window_end = _NEVER

    def _refuse_body(self, cycle: Cycle, error: StewardError) -> None:
        """The running call's own body is at fault: its caller is told, unless an answer has begun; that one breaks."""
        if cycle.response_started:
            cycle.lost()
            self.reset()
        else:
            cycle.lost(error)
            self._answer_refusal(error)

    def _answer_refusal(self, error: StewardError) -> None:
        self.transport.write(refusal(error))
        self.linger()

    def _drop(self, count: int) -> None:
        """Octets behind a refusal. Reading goes on for a while, or a caller who leaves meanwhile would go unnoticed."""
        self._dropped_bytes += count
        if self._dropped_bytes > self.limits.head_bytes:
            self.flow.pause_reading()

    def linger(self) -> None:
        """Sends what is written, reads nothing more, and closes for good a moment later.

        Closing at once would reset the connection, and the caller could lose the answer that says why.
        """
        self._refusal = self._refusal or BadRequest()
        transport = self.transport
        if transport.is_closing():
            return
        self.flow.pause_reading()
        if transport.can_write_eof():
            transport.write_eof()
        now = self.loop.time()
        self.deadline = now + self.limits.linger_s
        self._linger_end = now + self.limits.stall_s
        self._window_end = _NEVER

    def close(self) -> None:
        """Closes when all that was written is sent; a caller who does not read it has `stall_s`."""
        self.deadline = self.loop.time() + self.limits.stall_s
        self._window_end = _NEVER
        self.transport.close()

    def reset(self) -> None:
        """Ends the connection as no answer ends: with a reset, where a plain close could be taken for the end."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_GRACE)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """A response went out whole: the next one of the pipeline, or rest."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or (self._refusal is not None and self._owed is None):
            return
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._start(cycle)
        elif self._owed is not None:
            self._answer_refusal(self._owed)
            return
        elif not self._in_head:
            self.deadline = self.loop.time() + self.limits.keep_alive_s
        if self.flow.read_paused:
            self.read_on()

    def read_on(self) -> None:
        """Reads, unless enough waits to be served: while nothing is read, nobody learns that the caller left."""
        newest = self.cycle
        if self._dropped_bytes > self.limits.head_bytes:
            return
        if len(self.pipeline) < _PIPELINED and (newest.body_bytes <= HIGH_WATER_BYTES or newest.response_complete):
            self.flow.resume_reading()

    def refuse_running(self, cycle: Cycle, error: StewardError) -> None:
        """Answers a call whose application failed before it began to answer."""
        cycle.response_complete = True
        self.transport.write(refusal(error))
        self.linger()

    def pause_writing(self) -> None:
        """The caller reads more slowly than the provider sends."""
        super().pause_writing()
        self._stall_end = self.loop.time() + self.limits.stall_s

    def resume_writing(self) -> None:
        """The caller reads again."""
        super().resume_writing()
        self._stall_end = _NEVER

    def check(self, now: float) -> None:
        """What is overdue ends: a slow head (408), a slow body, a caller who does not read, a rest too long."""
        if now > self._stall_end or (now > self.deadline and self.transport.is_closing()):
            self.transport.abort()
            return
        if now > self.deadline:
            if self._refusal is not None and now < self._linger_end and self.transport.get_write_buffer_size():
                self.deadline = now + self.limits.linger_s
            elif self._in_head and self._refusal is None and self.cycle_done():
                self._refuse(RequestTimeout())
            elif self.cycle_done() or self._refusal is not None:
                self.transport.abort()
            return
        if now > self._window_end:
            self._check_body(now)

    def _check_body(self, now: float) -> None:
        limits = self.limits
        waiting = self.cycle is not None and self.cycle.waits_for_body
        if waiting and self._window_bytes < limits.body_min_bytes_per_s * limits.body_window_s:
            self._refuse_body(self.cycle, RequestTimeout())
            return
        self._window_bytes = 0
        self._window_end = now + limits.body_window_s

    def stop(self) -> None:
        """The process ends now: nothing that waits is begun, and the connection ends with the call that runs."""
        self._refusal = self._refusal or BadRequest()
        self._owed = None
        for cycle, _ in self.pipeline:
            cycle.lost()
        self.pipeline.clear()
        if self.cycle_done():
            self.transport.close()
        elif self._running is not None:
            self._running.keep_alive = False

    def cycle_done(self) -> bool:
        """No call is under way."""
        return self._running is None or self._running.response_complete

    def timeout_keep_alive_handler(self) -> None:
        """Unused: the sweeper ends connections at rest."""
