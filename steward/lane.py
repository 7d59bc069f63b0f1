"""The connections to one origin: opening them, lending each to one call at a time, and the queue for them.

It refuses to lend a connection on which anything is left, and to lose a place: whatever becomes of a call, the next in
the queue gets its turn. What is sent over them, and whether twice, is `forward.py`'s.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast

import aiohappyeyeballs

from steward.errors import (
    CallerGone,
    StewardError,
    UpstreamBadAnswer,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from steward.exchange import Origin, Outbound
from steward.wire.answer import AnswerReader

HIGH_WATER_BYTES = 256 * 1024
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Times in seconds, counts per origin."""

    connect_timeout_s: float = 10.0
    header_timeout_s: float = 600.0
    silence_timeout_s: float = 600.0
    max_conns: int = 512
    queue_timeout_s: float = 5.0
    idle_s: float = 15.0
    max_age_s: float = 300.0

    @property
    def sweep_s(self) -> float:
        """How often deadlines are looked at: fine enough for the shortest of them."""
        return min(1.0, self.header_timeout_s / 4, self.silence_timeout_s / 4, self.idle_s / 4)


class Connection(asyncio.Protocol):
    """One connection to one origin; at most one call at a time."""

    __slots__ = (
        "_drained",
        "_lane",
        "_paused_writing",
        "answer",
        "born",
        "closed",
        "deadline",
        "idle_since",
        "transport",
    )

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._drained: asyncio.Future[None] | None = None
        self._paused_writing = False
        self.answer: PooledAnswer | None = None
        self.transport: asyncio.Transport
        self.born = 0.0
        self.idle_since = 0.0
        self.deadline = _NEVER
        self.closed = False

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The way to the provider stands."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self.born = self._lane.now()

    def data_received(self, data: bytes) -> None:
        """Octets of the running call's answer; on an idle connection, its end."""
        answer = self.answer
        if answer is None:
            self.abort()
            return
        answer.arrived(data)

    def eof_received(self) -> bool:
        """The provider closed its side: so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, cleanly (exc is None) or not."""
        self.closed = True
        self.resume_writing()
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.ended_by_close(exc)
        self._lane.lost(self)

    def pause_writing(self) -> None:
        """The provider reads more slowly than the caller sends."""
        self._paused_writing = True

    def resume_writing(self) -> None:
        """The provider reads again."""
        self._paused_writing = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self) -> None:
        """Waits while the provider does not read."""
        if self._paused_writing and not self.closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def abort(self) -> None:
        """Closes now, without ceremony."""
        self.closed = True
        self.transport.abort()

    def usable(self, now: float) -> bool:
        """Whether an idle connection may take another call."""
        limits = self._lane.limits
        return (
            not self.closed
            and not self.transport.is_closing()
            and now - self.idle_since <= limits.idle_s
            and now - self.born <= limits.max_age_s
        )


class PooledAnswer(AnswerReader):
    """One call's answer, as `ports.Answer` has it: the reader of its octets, and the connection they come over."""

    # Set on the class and overwritten on the answer: one is made for every call.
    complete = False
    sent_whole = False
    moved: asyncio.Event | None = None
    """Set at every arrival, for the rare call that waits for a 100."""
    error: StewardError | None = None
    """Why the answer will not go on."""
    _buffered = 0
    _paused = False
    _released = False
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, lane: Lane, connection: Connection, is_head: bool) -> None:
        self._lane = lane
        self._connection = connection
        self._is_head = is_head
        self.headers = []
        self.pieces = []

    def take(self) -> bytes | None:
        """See ports.Answer."""
        pieces = self.pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.pieces = []
            self._buffered = 0
            if self._paused:
                self._paused = False
                self._connection.deadline = self._lane.now() + self._lane.limits.silence_timeout_s
                self._connection.transport.resume_reading()
            self.complete = self.ended
            return data
        if self.ended:
            self.complete = True
            return None
        if self.error is not None:
            raise self.error
        return b""

    def wait(self) -> asyncio.Future[None]:
        """See ports.Answer."""
        self._waiter = waiter = self._lane.loop.create_future()
        if self.pieces or self.ended or self.error is not None:
            waiter.set_result(None)
        return waiter

    async def head(self) -> None:
        """Returns when the final head is known; raises what happened instead."""
        while not self.head_known:
            if self.error is not None:
                raise self.error
            self._waiter = self._lane.loop.create_future()
            await self._waiter

    def wake(self) -> None:
        """Whoever waits looks again."""
        if self.moved is not None:
            self.moved.set()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def abort(self) -> None:
        """See ports.Answer."""
        self.fail(CallerGone())

    def fail(self, error: StewardError) -> None:
        """The call ends here, and its connection with it."""
        if not self.ended and self.error is None:
            self.error = error
        if not self._released:
            self._released = True
            self._connection.answer = None
            self._connection.abort()
        self.wake()

    def arrived(self, data: bytes) -> None:
        """Octets from the socket."""
        try:
            self.feed(data)
        except UpstreamBadAnswer as error:
            self.fail(error)
            return
        if self.ended:
            self._release()
        elif self.head_known:  # until then the head's own deadline stands, however the octets drip
            connection = self._connection
            connection.deadline = self._lane.now() + self._lane.limits.silence_timeout_s
            if self.pieces:
                self._buffered += len(data)
                if self._buffered > HIGH_WATER_BYTES and not self._paused:
                    self._paused = True
                    connection.deadline = _NEVER
                    connection.transport.pause_reading()
        self.wake()

    def _release(self) -> None:
        """The answer is whole: the connection serves again if nothing is left on it."""
        connection = self._connection
        connection.answer = None
        connection.deadline = _NEVER
        self._released = True
        if self.reusable and self.sent_whole:
            self._lane.give_back(connection)
        else:
            connection.abort()

    def ended_by_close(self, exc: Exception | None) -> None:
        """The connection went away under the answer."""
        self._released = True
        try:
            if exc is not None and not self.ended:
                raise UpstreamBroke
            self.eof()
        except UpstreamBroke as error:
            self.error = self.error or error
        self.wake()

    def overdue(self) -> None:
        """No octet came in time."""
        self.fail(UpstreamTimeout())


class Lane:
    """The connections of one origin."""

    def __init__(self, origin: Origin, limits: PoolLimits, tls: ssl.SSLContext | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.limits = limits
        self._origin = origin
        self._tls = tls if origin.scheme == "https" else None
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._queue: deque[asyncio.Future[Connection | None]] = deque()
        self._host = b"host: " + origin.authority

    @property
    def in_use(self) -> int:
        """Connections with a call, being opened or idle."""
        return len(self._all) + self._opening

    def take_idle(self) -> Connection | None:
        """The connection used last, if it may serve again."""
        now = self.now()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(now):
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> None:
        """A connection on which nothing is left: the first in the queue gets it, else it rests."""
        connection.idle_since = self.now()
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is gone: the first in the queue may open another."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._slot_free()

    def _slot_free(self) -> None:
        while self._queue and self.in_use < self.limits.max_conns:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def acquire(self, fresh: bool = False) -> Connection:
        """An idle connection, a new one, or a turn in the queue. Raises UpstreamBusy, UpstreamUnreachable.

        `fresh`: no idle one, for a call whose first connection broke; the others may be as stale.
        """
        until = self.now() + self.limits.queue_timeout_s
        join = self._queue.append
        while True:
            connection = None if fresh else self.take_idle()
            if connection is not None:
                return connection
            if fresh and self._idle and self.in_use >= self.limits.max_conns:
                self._idle.pop(0).abort()
            if self.in_use < self.limits.max_conns:
                return await self.open()
            waiter: asyncio.Future[Connection | None] = self.loop.create_future()
            join(waiter)
            join = self._queue.appendleft  # who was called and found the place taken does not begin anew
            try:
                async with asyncio.timeout_at(until):
                    connection = await waiter
            except BaseException as exc:
                self._left_queue(waiter)
                if isinstance(exc, TimeoutError):
                    raise UpstreamBusy from None
                raise
            if connection is not None:
                if connection.usable(self.now()):
                    return connection
                connection.abort()

    def _left_queue(self, waiter: asyncio.Future[Connection | None]) -> None:
        """A waiter that gave up in the moment it was served hands its turn on."""
        if waiter.cancelled() or not waiter.done():
            waiter.cancel()
        elif (handed := waiter.result()) is not None and not handed.closed:
            self.give_back(handed)
        else:
            self._slot_free()

    async def open(self) -> Connection:
        """A fresh connection: all addresses within the connect limit (happy eyeballs, RFC 8305)."""
        self._opening += 1
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                connection = await self._connect()
        except TimeoutError:
            raise UpstreamTimeout("The provider could not be reached in time.") from None
        except (OSError, ssl.SSLError, UnicodeError) as exc:
            raise UpstreamUnreachable from exc
        finally:
            self._opening -= 1
            if connection is None or connection.closed:
                self._slot_free()
            else:
                self._all.add(connection)
        return connection

    async def _connect(self) -> Connection:
        origin = self._origin
        infos = await self.loop.getaddrinfo(origin.host, origin.port, type=1)
        sock = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=0.25, loop=self.loop)
        try:
            _, connection = await self.loop.create_connection(
                lambda: Connection(self),
                sock=sock,
                ssl=self._tls,
                server_hostname=origin.host if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def head(self, outbound: Outbound) -> bytes:
        """The request's head: start line, our own fields, the caller's."""
        lines = outbound.lines
        if lines is None:
            lines = b"".join([b"%b: %b\r\n" % item for item in outbound.headers])
        if outbound.length is None:
            last = b"transfer-encoding: chunked\r\n\r\n"
        elif outbound.has_length:
            last = b"content-length: %d\r\n\r\n" % outbound.length
        else:
            last = b"\r\n"
        return b"%b %b HTTP/1.1\r\n%b\r\n%b%b" % (outbound.method, outbound.target, self._host, lines, last)

    def sweep(self) -> None:
        """Ends what is overdue: calls in silence, connections idle or old."""
        now = self.now()
        for connection in list(self._all):
            if connection.answer is not None and now > connection.deadline:
                connection.answer.overdue()
        for connection in [idle for idle in self._idle if not idle.usable(now)]:
            self._idle.remove(connection)
            connection.abort()

    def forget_idle(self) -> None:
        """What rests serves no more: the other side may have gone while this process was frozen."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()

    def close(self) -> None:
        """Ends every connection."""
        for connection in list(self._all):
            connection.abort()
