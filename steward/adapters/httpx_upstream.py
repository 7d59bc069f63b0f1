"""Carries a call to the provider through the company's egress proxy, with httpx's engine (httpcore).

It refuses what the pool refuses (DESIGN 7): an `AnswerReader` reads along on every connection, so that the nineteen
cases hold here too. httpx's own client and pool stay out of the way: its URLs rewrite targets, its pool hands what
follows one answer to the next caller, and loses a place for good when TLS fails inside a tunnel.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import aiohappyeyeballs
import httpcore
import httpx

from steward.errors import (
    BadRequest,
    CallerGone,
    SettingError,
    StewardError,
    UpstreamBadAnswer,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from steward.exchange import Headers, Origin, Outbound
from steward.forward import PoolLimits, tls_context
from steward.ports import Answer, RequestBody
from steward.wire.answer import AnswerReader
from steward.wire.headers import from_provider
from steward.words import Secret

HIGH_WATER_BYTES = 256 * 1024
CONTINUE_WAIT_S = 1.0
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


def goes_through_proxy(origin: Origin, https_proxy: bool, no_proxy: str) -> bool:
    """Whether calls to this origin take the way `HTTPS_PROXY` names.

    `no_proxy` lists, by commas or spaces: `*`, hosts, suffixes (`.example.com`, `*.example.com`; a bare name means its
    subdomains too), addresses and CIDR ranges, each with or without `:port`. Loopback and `http://` never go through.
    """
    host = origin.host.lower().rstrip(".")
    address = _address(host)
    if not https_proxy or origin.scheme != "https" or host == "localhost" or (address and address.is_loopback):
        return False
    return not any(_exempts(entry, host, address, origin.port) for entry in no_proxy.lower().replace(",", " ").split())


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _exempts(entry: str, host: str, address: Address | None, port: int) -> bool:
    """Whether one entry of NO_PROXY means this host."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, named_port = entry.rpartition(":")
    if colon and named_port.isdigit() and _address(entry) is None:
        if int(named_port) != port:
            return False
        entry = name
    if address is not None:
        return _address(entry) == address
    entry = entry.removeprefix("*").strip(".")
    return bool(entry) and (host == entry or host.endswith("." + entry))


class HttpxUpstream:
    """The Upstream through one egress proxy: CONNECT for `https`, absolute form for `http`. One per event loop."""

    def __init__(self, limits: PoolLimits, proxy_url: Secret[str], tls: ssl.SSLContext | None = None) -> None:
        """`proxy_url` may hold Basic credentials. Raises SettingError when it is no `http://` or `https://` URL."""
        self._limits = limits
        self._proxy = _read_proxy_url(proxy_url)
        self._tls = tls or tls_context(None)
        self._lanes: dict[Origin, _Lane] = {}
        # httpcore writes whole heads, set-cookie and all, to its loggers at DEBUG (SECURITY F4).
        logging.getLogger("httpcore").setLevel(logging.WARNING)

    def connections(self) -> int:
        """How many connections carry an answer or rest."""
        return sum(lane.open for lane in self._lanes.values())

    async def send(self, outbound: Outbound, body: RequestBody, on_sent: Callable[[], None]) -> Answer:
        """See ports.Upstream. Raises BadRequest, too, for a head that h11 will not write."""
        lane = self._lanes.get(outbound.origin)
        if lane is None:
            lane = self._lanes[outbound.origin] = _Lane(outbound.origin, self._limits, self._engine)
        call = _Call(outbound, body, on_sent, self._limits)
        await lane.enter()
        try:
            try:
                return await self._over(lane, lane.take_idle() or lane.create(), call)
            except UpstreamBroke:
                if not call.may_go_again():
                    raise
            return await self._over(lane, lane.create(), call)
        except BaseException:
            lane.leave()
            raise

    async def _over(self, lane: _Lane, connection: httpcore.AsyncConnectionInterface, call: _Call) -> Answer:
        """Sends over this connection; on failure it is closed."""
        try:
            with _mapped(call):
                token = _CALL.set(call)
                try:
                    response = await connection.handle_async_request(call.request())
                finally:
                    _CALL.reset(token)
                headers = from_provider([(name.lower(), value) for name, value in response.headers])
        except BaseException:
            if call.wire is not None:
                call.wire.abort()
            await connection.aclose()
            raise
        assert call.wire is not None
        return _HttpxAnswer(lane, connection, call, response, headers)

    def _engine(self) -> httpcore.AsyncHTTPProxy:
        """What makes connections that go through the proxy."""
        proxy = self._proxy
        return httpcore.AsyncHTTPProxy(
            proxy_url=httpcore.URL(
                scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
            ),
            proxy_auth=proxy.raw_auth,
            ssl_context=self._tls,
            proxy_ssl_context=self._tls if proxy.url.scheme == "https" else None,
            network_backend=_Network(self._limits),
        )

    def forget_idle(self) -> None:
        """See ports.Upstream."""
        for lane in self._lanes.values():
            lane.forget_idle()

    async def close(self) -> None:
        """Closes every connection."""
        for lane in self._lanes.values():
            await lane.close()


def _read_proxy_url(proxy_url: Secret[str]) -> httpx.Proxy:
    try:
        proxy = httpx.Proxy(proxy_url.reveal())
    except (ValueError, httpx.InvalidURL):
        raise SettingError("HTTPS_PROXY is not a URL.") from None
    if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        raise SettingError("HTTPS_PROXY must begin with http:// or https:// and name a host.")
    return proxy


class _Lane:
    """The connections of one origin: at most `max_conns` calls at a time, idle connections used last-in first-out."""

    def __init__(self, origin: Origin, limits: PoolLimits, engine: Callable[[], httpcore.AsyncHTTPProxy]) -> None:
        self._target = httpcore.Origin(origin.scheme.encode(), origin.host.encode("ascii"), origin.port)
        self._limits = limits
        self._engine = engine()
        self._places = asyncio.Semaphore(limits.max_conns)
        self._idle: list[tuple[httpcore.AsyncConnectionInterface, _Wire]] = []
        self._answers: set[_HttpxAnswer] = set()

    @property
    def open(self) -> int:
        """Connections that carry an answer or rest."""
        return len(self._answers) + len(self._idle)

    async def enter(self) -> None:
        """A place, or a turn in the queue. Raises UpstreamBusy."""
        try:
            async with asyncio.timeout(self._limits.queue_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise UpstreamBusy from None

    def leave(self) -> None:
        """Gives the place back."""
        self._places.release()

    def create(self) -> httpcore.AsyncConnectionInterface:
        """A connection that will be opened by its first call."""
        return self._engine.create_connection(self._target)

    def take_idle(self) -> httpcore.AsyncConnectionInterface | None:
        """The connection used last, if it may serve again."""
        while self._idle:
            connection, wire = self._idle.pop()
            if wire.wake():
                return connection
        return None

    def began(self, answer: _HttpxAnswer) -> None:
        """An answer that holds a place until it is over."""
        self._answers.add(answer)

    def over(self, answer: _HttpxAnswer, connection: httpcore.AsyncConnectionInterface, wire: _Wire) -> None:
        """The answer is over: its connection rests when nothing is left on it, else it is closed."""
        self._answers.discard(answer)
        if connection.is_idle() and wire.clean and len(self._idle) < self._limits.max_conns:
            wire.rest(lambda: self._idle.remove((connection, wire)))
            self._idle.append((connection, wire))
        else:
            wire.abort()
        self.leave()

    def forget_idle(self) -> None:
        """What rests serves no more."""
        while self._idle:
            _, wire = self._idle.pop()
            if wire.wake():
                wire.abort()

    async def close(self) -> None:
        """Ends every connection."""
        for answer in list(self._answers):
            answer.abort()
        for _, wire in list(self._idle):
            wire.abort()
        await asyncio.gather(*(answer.pump for answer in self._answers), return_exceptions=True)


class _Call:
    """One request on its way out, and what became of it."""

    def __init__(self, outbound: Outbound, body: RequestBody, on_sent: Callable[[], None], limits: PoolLimits) -> None:
        self.outbound = outbound
        self.wire: _Wire | None = None
        """The connection that bears it; None while the way there is being made."""
        self.connect_by = 0.0
        self.wrote = False
        self.body_bytes = 0
        """Octets of the answer's body that came so far."""
        self._body = body
        self._on_sent = on_sent
        self._limits = limits
        self._again = False

    def request(self) -> httpcore.Request:
        """The request as httpcore wants it: our own fields around the caller's, nothing of the library's."""
        outbound = self.outbound
        self.wire, self.wrote = None, False
        self.connect_by = asyncio.get_running_loop().time() + self._limits.connect_timeout_s
        headers = [(b"host", outbound.origin.authority), *outbound.headers]
        if outbound.length is None:
            headers.append((b"transfer-encoding", b"chunked"))
        elif outbound.has_length:
            headers.append((b"content-length", b"%d" % outbound.length))
        origin = outbound.origin
        url = httpcore.URL(
            scheme=origin.scheme.encode(), host=origin.host.encode("ascii"), port=origin.port, target=outbound.target
        )
        return httpcore.Request(method=outbound.method, url=url, headers=headers, content=self._pieces())

    def begun(self, wire: _Wire) -> None:
        """Its first octet goes out."""
        self.wire = wire
        self._on_sent()

    def may_go_again(self) -> bool:
        """DESIGN 7, case 13: once, on a fresh connection, when that buys nothing twice."""
        wire, outbound = self.wire, self.outbound
        if self._again or wire is None or (wire.reader is not None and wire.reader.started):
            return False
        if outbound.length != 0 and self._body.whole() is None:
            return False
        self._again = True
        keyed = any(name == b"idempotency-key" for name, _ in outbound.headers)
        return not self.wrote or keyed or outbound.method in IDEMPOTENT

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body. Ends early, by httpcore's own WriteError, when the answer came first (case 9)."""
        wire = self.wire
        if self.outbound.length == 0 or wire is None:
            return
        if self.outbound.expects_continue:
            await wire.continued(CONTINUE_WAIT_S)
        elif (whole := self._body.whole()) is not None:
            if whole:
                yield whole
            return
        while (piece := await self._next(wire)) is not None:
            yield piece

    async def _next(self, wire: _Wire) -> bytes | None:
        if wire.is_answered():
            raise httpcore.WriteError
        piece = asyncio.ensure_future(self._body.next())
        answered = asyncio.ensure_future(wire.answered())
        try:
            await asyncio.wait((piece, answered), return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                raise httpcore.WriteError
            return piece.result()
        finally:
            piece.cancel()
            answered.cancel()
            await asyncio.gather(piece, answered, return_exceptions=True)


_CALL: ContextVar[_Call] = ContextVar("_CALL")
"""The call in whose name httpcore reads and writes: it tells its network nothing of the request."""


@contextmanager
def _mapped(call: _Call) -> Iterator[None]:
    """httpcore's errors become ours."""
    try:
        yield
    except StewardError:
        raise
    except httpcore.LocalProtocolError as exc:
        raise BadRequest from exc
    except httpcore.ProxyError as exc:
        raise UpstreamUnreachable("The egress proxy refused the connection.") from exc
    except httpcore.ProtocolError as exc:
        raise (UpstreamUnreachable() if call.wire is None else UpstreamBadAnswer()) from exc
    except (httpcore.NetworkError, httpcore.TimeoutException) as exc:
        raise (UpstreamUnreachable() if call.wire is None else UpstreamBroke()) from exc


class _Network(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface; the limit is the call's own
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Wire:
        """A connection to any of the host's addresses (happy eyeballs, RFC 8305)."""
        loop = asyncio.get_running_loop()
        with _opening():
            async with asyncio.timeout_at(_CALL.get().connect_by):
                infos = await loop.getaddrinfo(host, port, type=1)
                sock = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=0.25, loop=loop)
                try:
                    _, wire = await loop.create_connection(lambda: _Wire(self._limits), sock=sock)
                except BaseException:
                    sock.close()
                    raise
                return wire


@contextmanager
def _opening() -> Iterator[None]:
    """What may happen while a connection is made."""
    try:
        yield
    except TimeoutError:
        raise UpstreamTimeout("The provider could not be reached in time.") from None
    except (OSError, ssl.SSLError, UnicodeError) as exc:
        raise UpstreamUnreachable from exc


class _Wire(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection: octets in and out for httpcore, with backpressure, deadlines, and a reader of our own."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._born = self._loop.time()
        self._moved = self._born
        self._arrived = bytearray()
        self._eof = False
        self._lost = False
        self._full = False
        self._paused = False
        self._error: StewardError | None = None
        self._changed = asyncio.Event()
        self._idle_end: asyncio.TimerHandle | None = None
        self._on_end: Callable[[], None] | None = None
        self._call: _Call | None = None
        self.reader: AnswerReader | None = None
        """Reads the running call's answer along; None while a tunnel is made."""
        self.clean = True
        """No octet came that belongs to no call."""

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The way stands."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Octets of the running call's answer, or of the proxy's; on an idle connection, its end."""
        reader = self.reader
        if reader is not None:
            if reader.ended:
                self.abort()
                return
            try:
                reader.feed(data)
            except UpstreamBadAnswer as error:
                self._error = error
            if self._call is not None:
                self._call.body_bytes += sum(len(piece) for piece in reader.pieces)
            reader.pieces.clear()
            if _leaves_something(reader):
                self.clean = False
        self._arrived += data
        if len(self._arrived) > HIGH_WATER_BYTES and (reader is None or reader.head_known):
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        """The provider closed its side: so do we."""
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, cleanly (exc is None) or not."""
        self._end(exc)
        self._lost = True
        self._forget_rest()

    def _end(self, exc: Exception | None) -> None:
        if not self._eof:
            self._eof = True
            self.clean = False
            try:
                if self.reader is not None:
                    if exc is not None and not self.reader.ended:
                        raise UpstreamBroke
                    self.reader.eof()
            except UpstreamBroke as error:
                self._error = self._error or error
        self._changed.set()

    def pause_writing(self) -> None:
        """The provider reads more slowly than the caller sends."""
        self._full = True

    def resume_writing(self) -> None:
        """The provider reads again."""
        self._full = False
        self._changed.set()

    # httpcore calls these

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        """What arrived, `b""` at the end. A head comes whole and in one piece, after our reader has found it good."""
        if self.reader is not None and self.reader.head_known:
            self._moved = self._loop.time()
        while not self._readable():
            await self._until(self._deadline())
        if self._error is not None and not (self._arrived and self.reader is not None and self.reader.head_known):
            raise self._error
        data = bytes(self._arrived)
        self._arrived.clear()
        if self._paused and not self._eof:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _readable(self) -> bool:
        whole_head = self.reader is None or self.reader.head_known
        return self._eof or self._error is not None or bool(self._arrived and whole_head)

    def _deadline(self) -> float:
        reader = self.reader
        if reader is None:
            return _CALL.get().connect_by
        limits = self._limits
        return self._moved + (limits.silence_timeout_s if reader.head_known else limits.header_timeout_s)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        """Sends; waits while the provider does not read. Raises httpcore.WriteError once the answer is there."""
        if not buffer:
            return
        call = _CALL.get()
        if call is not self._call and not buffer.startswith(b"CONNECT "):
            self._begin(call)
        if self.is_answered() or self._eof:
            raise httpcore.WriteError
        call.wrote = call.wire is not None
        self._transport.write(buffer)
        self._moved = self._loop.time()
        while self._full and not self.is_answered() and not self._eof:
            await self._until(self._moved + self._limits.silence_timeout_s)
        self._moved = self._loop.time()

    def _begin(self, call: _Call) -> None:
        """A call's first octets: whatever is left of the last one ends the connection here."""
        if self._arrived or not self.clean or self._eof:
            self.clean = False
            self.reader = AnswerReader(False)
            call.wire = self
            self.abort()
            raise UpstreamBroke
        self._call = call
        self.reader = AnswerReader(call.outbound.method == b"HEAD")
        call.begun(self)

    async def aclose(self) -> None:
        """See abort."""
        self.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> _Wire:
        """The same connection, inside TLS."""
        inner = _Wire(self._limits)
        try:
            with _opening():
                if self._arrived or self._eof:
                    raise UpstreamUnreachable
                async with asyncio.timeout_at(_CALL.get().connect_by):
                    transport = await self._loop.start_tls(
                        self._transport, inner, ssl_context, server_hostname=server_hostname
                    )
        except BaseException:
            self.abort()
            raise
        if transport is None:
            raise UpstreamUnreachable
        inner.connection_made(transport)
        return inner

    def get_extra_info(self, info: str) -> Any:
        """Facts that httpcore asks for."""
        if info == "is_readable":
            return not self.clean
        return self._transport.get_extra_info(info)

    # we call these

    def abort(self) -> None:
        """Closes now, without ceremony."""
        self.clean = False
        self._transport.abort()
        self._end(ConnectionAbortedError())
        self._forget_rest()

    def rest(self, on_end: Callable[[], None]) -> None:
        """Idle from now on; ends by itself when it was idle too long."""
        self._on_end = on_end
        self._idle_end = self._loop.call_later(self._limits.idle_s, self.abort)

    def wake(self) -> bool:
        """Whether the idle connection may serve again; if not, it is closed."""
        self._on_end = None
        self._forget_rest()
        if self.clean and self._loop.time() - self._born <= self._limits.max_age_s:
            return True
        self.abort()
        return False

    def _forget_rest(self) -> None:
        if self._idle_end is not None:
            self._idle_end.cancel()
            self._idle_end = None
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def is_answered(self) -> bool:
        """Whether the final head, or an error in its place, is there."""
        return self.reader is not None and (self.reader.head_known or self._error is not None)

    async def answered(self) -> None:
        """Returns when the final head, or the connection's end, is there."""
        while not self.is_answered() and not self._eof:
            await self._change()

    async def continued(self, within_s: float) -> None:
        """Returns with the provider's 100, its answer, or after that time (RFC 9110, 10.1.1)."""
        try:
            async with asyncio.timeout(within_s):
                while not (self.reader and self.reader.continued) and not self.is_answered() and not self._eof:
                    await self._change()
        except TimeoutError:
            return

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _until(self, deadline: float) -> None:
        """Waits for a change. Raises UpstreamTimeout at the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._change()
        except TimeoutError:
            raise UpstreamTimeout from None


def _leaves_something(reader: AnswerReader) -> bool:
    """Whether the answer is over and its connection unfit for another."""
    return reader.ended and not reader.reusable


class _HttpxAnswer:
    """One call's answer, as `ports.Answer` has it; a task brings the body from httpcore, 256 KiB ahead at most."""

    def __init__(
        self,
        lane: _Lane,
        connection: httpcore.AsyncConnectionInterface,
        call: _Call,
        response: httpcore.Response,
        headers: Headers,
    ) -> None:
        assert call.wire is not None
        assert call.wire.reader is not None
        self.status = response.status
        self.headers = headers
        self.length = call.wire.reader.length
        self.complete = False
        self._lane = lane
        self._connection = connection
        self._call = call
        self._wire = call.wire
        self._reader = call.wire.reader
        self._pieces: list[bytes] = []
        self._held = 0
        self._taken = 0
        self._over = False
        self._error: StewardError | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        lane.began(self)
        self.pump = asyncio.create_task(self._bring(response))
        # A task that is cancelled before its first step runs no `finally` of its own.
        self.pump.add_done_callback(self._brought)

    def take(self) -> bytes | None:
        """See ports.Answer."""
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._held = 0
            self._taken += len(data)
            self._room.set()
            self.complete = self._all_taken()
            return data
        if self._error is not None and not self._all_taken():
            raise self._error
        if self._over or self._all_taken():
            self.complete = True
            return None
        return b""

    def _all_taken(self) -> bool:
        return self._reader.ended and self._taken == self._call.body_bytes

    async def wait(self) -> None:
        """See ports.Answer."""
        while not self._pieces and not self._over and not self._all_taken():
            self._news.clear()
            await self._news.wait()

    def abort(self) -> None:
        """See ports.Answer."""
        if not self._over:
            self._wire.abort()
            self.pump.cancel()

    async def _bring(self, response: httpcore.Response) -> None:
        with _mapped(self._call):
            try:
                async for piece in response.aiter_stream():
                    if piece:
                        self._pieces.append(piece)
                        self._held += len(piece)
                        self._news.set()
                    while self._held > HIGH_WATER_BYTES:
                        self._room.clear()
                        await self._room.wait()
            finally:
                await response.aclose()

    def _brought(self, pump: asyncio.Task[None]) -> None:
        """The answer is over, well or not."""
        error = CallerGone() if pump.cancelled() else pump.exception()
        if error is not None:
            self._error = error if isinstance(error, StewardError) else UpstreamBroke()
        self._over = True
        self._lane.over(self, self._connection, self._wire)
        self._news.set()
