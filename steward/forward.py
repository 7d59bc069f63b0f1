"""Carries one call to the provider and its answer back, over connections that are kept.

It refuses to buy twice (a POST that was written is never sent again), to mix two callers (a connection returns to the
pool only when nothing is left on it) and to follow a redirect. The nineteen cases of DESIGN 7 are its contract, tested
in `tests/contracts/test_upstream.py`; the connections themselves are in `lane.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from steward.errors import CallerGone, StewardError, UpstreamBroke
from steward.exchange import Origin, Outbound
from steward.lane import Connection, Lane, PooledAnswer, PoolLimits
from steward.ports import RequestBody

__all__ = ["Pool", "PoolLimits", "tls_context"]

CONTINUE_WAIT_S = 1.0
_JOIN_BYTES = 64 * 1024
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class Pool:
    """The Upstream that keeps connections. One per event loop; made inside it or before it."""

    def __init__(self, limits: PoolLimits, tls: ssl.SSLContext | None = None) -> None:
        self._limits = limits
        self._tls = tls
        self._lanes: dict[Origin, Lane] = {}
        self._recent: tuple[Origin | None, Lane | None] = (None, None)
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def connections(self) -> int:
        """How many connections stand or are being opened."""
        return sum(lane.in_use for lane in self._lanes.values())

    async def send(self, outbound: Outbound, body: RequestBody, on_sent: Callable[[], None]) -> PooledAnswer:
        """See ports.Upstream."""
        origin, lane = self._recent
        if lane is None or origin is not outbound.origin:
            lane = self._lanes.get(outbound.origin) or self._open_lane(outbound.origin)
            self._recent = (outbound.origin, lane)
        call = _Call(lane, outbound, body, on_sent)
        connection = lane.take_idle() or await lane.acquire()
        while True:
            try:
                answer = call.goes_over(connection)
                if not answer.sent_whole:
                    await call.streams_over(connection)
                elif not answer.head_known:
                    await answer.head()
            except BaseException as error:
                if not call.may_go_again(error):
                    raise
            else:
                return answer
            connection = await lane.acquire(fresh=True)

    def _open_lane(self, origin: Origin) -> Lane:
        lane = self._lanes[origin] = Lane(origin, self._limits, self._tls)
        if self._sweeper is None:
            self._sweeper = lane.loop.call_later(self._limits.sweep_s, self._sweep, lane.loop)
        return lane

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        for lane in self._lanes.values():
            lane.sweep()
        if not self._closed:
            self._sweeper = loop.call_later(self._limits.sweep_s, self._sweep, loop)

    def forget_idle(self) -> None:
        """See ports.Upstream."""
        for lane in self._lanes.values():
            lane.forget_idle()

    async def close(self) -> None:
        """Closes every connection."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lane in self._lanes.values():
            lane.close()


class _Call:
    """One request on its way out: once, or once more when that buys nothing twice."""

    # Set on the class and overwritten on the call: one is made for every call.
    _answer: PooledAnswer | None = None
    _again = False
    _written = False

    def __init__(self, lane: Lane, outbound: Outbound, body: RequestBody, on_sent: Callable[[], None]) -> None:
        self._lane = lane
        self._outbound = outbound
        self._body = body
        self._on_sent = on_sent

    def may_go_again(self, error: BaseException) -> bool:
        """After this connection, which ends here, another one (DESIGN 7, case 13)."""
        answer, self._answer = self._answer, None
        if answer is None:
            return False
        answer.fail(error if isinstance(error, StewardError) else CallerGone())
        if self._again or answer.started or not isinstance(error, UpstreamBroke):
            return False
        if self._outbound.length != 0 and self._body.whole() is None:
            return False
        self._again = True
        return not self._written or self._idempotent()

    def _idempotent(self) -> bool:
        outbound = self._outbound
        return outbound.method in _IDEMPOTENT or any(name == b"idempotency-key" for name, _ in outbound.headers)

    def goes_over(self, connection: Connection) -> PooledAnswer:
        """This connection is the call's, until its answer is whole. Head and body go out in one when all is here.

        Raises UpstreamBroke when the connection is gone.
        """
        lane, outbound, transport = self._lane, self._outbound, connection.transport
        self._written = False
        self._answer = answer = PooledAnswer(lane, connection, outbound.method == b"HEAD")
        if connection.closed or transport.is_closing():
            raise UpstreamBroke
        connection.answer = answer
        connection.deadline = lane.now() + lane.limits.header_timeout_s
        whole = b"" if outbound.length == 0 else self._body.whole()
        if whole is None or outbound.expects_continue:
            return answer
        self._on_sent()
        self._written = True
        if outbound.length is None:
            whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole) if whole else b"0\r\n\r\n"
        head = lane.head(outbound)
        if len(whole) <= _JOIN_BYTES:
            transport.write(head + whole)
        else:
            transport.write(head)
            transport.write(whole)
        answer.sent_whole = True
        return answer

    async def streams_over(self, connection: Connection) -> None:
        """Head first, then the body as it comes, until the final head is known."""
        assert self._answer is not None
        self._on_sent()
        self._written = True
        await self._stream(connection, self._answer)

    async def _stream(self, connection: Connection, answer: PooledAnswer) -> None:
        """Head first, then the body as the caller sends it, until the provider's final head."""
        connection.transport.write(self._lane.head(self._outbound))
        upload = asyncio.ensure_future(self._upload(connection, answer))
        head = asyncio.ensure_future(answer.head())
        try:
            await asyncio.wait((upload, head), return_when=asyncio.FIRST_COMPLETED)
            if upload.done():
                upload.result()
            await head
        finally:
            # A final status before the body's end: stop reading the caller (DESIGN 7, case 9).
            for task in (upload, head):
                task.cancel()
            await asyncio.gather(upload, head, return_exceptions=True)

    async def _upload(self, connection: Connection, answer: PooledAnswer) -> None:
        if self._outbound.expects_continue:
            await self._await_continue(answer)
            if answer.head_known or answer.error:
                return
        chunked = self._outbound.length is None
        write = connection.transport.write
        limits = self._lane.limits
        while (piece := await self._body.next()) is not None:
            if connection.closed:
                return
            write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await connection.drain()
            connection.deadline = self._lane.now() + limits.header_timeout_s
        if chunked:
            write(b"0\r\n\r\n")
        answer.sent_whole = True

    async def _await_continue(self, answer: PooledAnswer) -> None:
        """The provider's 100, any final head, or one second (RFC 9110, 10.1.1)."""
        answer.moved = moved = asyncio.Event()
        try:
            async with asyncio.timeout(CONTINUE_WAIT_S):
                while not (answer.continued or answer.head_known or answer.error):
                    moved.clear()
                    await moved.wait()
        except TimeoutError:
            return


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 and up, HTTP/1.1 alone, the system's authorities or those in `ca_file`."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
