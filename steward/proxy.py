"""The way of a request, top to bottom: read `Proxy.relay` first; every stage it names is a file of its own.

It parses no body, compresses nothing, writes no log line and asks no database but on a key's first use: whatever can
wait happens after the last byte. It never ends cleanly what the provider broke, and never goes on when the caller left.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from steward import log, rewrite
from steward.authenticate import Authenticator
from steward.capture import Capture, Spill
from steward.detect import Detector
from steward.domains import Admitted, admit_tags
from steward.errors import (
    CallerGone,
    Cut,
    InternalError,
    ShuttingDown,
    StewardError,
    TooManyCalls,
    UpstreamFault,
    UpstreamTimeout,
)
from steward.exchange import Caller, Exchange, Headers, Intent, Origin, Outcome, Route, Timings, uuid7
from steward.ports import AfterResponse, Answer, Upstream
from steward.providers import dialect_hint, facts
from steward.refusals import Refusals
from steward.wire.headers import CallerHead, kept, kept_query, read_caller_head

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OUR_PATHS = frozenset({b"/health", b"/readyz", b"/metrics", b"/docs", b"/openapi.json", b"/admin"})
OUR_PREFIXES = (b"/admin/", b"/api/v1/proxy-keys", b"/api/v1/claude-sessions", b"/api/v1/requests")
"""Compared with the raw path, before any decoding (SECURITY F21). All else goes to a provider or is refused."""

EXPIRED = "the host's time is over"
"""What a host cancels a call's task with at its deadline: the call ends as one whose provider took too long."""

_NO_TAGS = Admitted()


def out_of_time() -> UpstreamTimeout:
    """What a host says that gives a call only so much time."""
    return UpstreamTimeout("The provider did not answer within the time that this host gives a call.")


class Chance:
    """The system's randomness, taken 4 KiB at a time: asking for every call costs a twentieth of it."""

    def __init__(self) -> None:
        self._octets = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)  # a copy of this process draws its own

    def __call__(self, count: int) -> bytes:
        """So many random octets, given to nobody else."""
        start, self._at = self._at, self._at + count
        if self._at > len(self._octets):
            self._octets, start, self._at = os.urandom(max(4096, count)), 0, count
        return self._octets[start : self._at]

    def _forget(self) -> None:
        self._octets = b""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time and chance come from."""

    unix_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    random: Callable[[int], bytes] = field(default_factory=Chance)


@dataclass(frozen=True, slots=True)
class Stages:
    """What the way is made of; put together by `wiring/relay.py`."""

    authenticator: Authenticator
    detector: Detector
    origins: dict[str, Origin]
    upstream: Callable[[Origin], Upstream]
    """The pool, or the way through an egress proxy."""
    after_response: AfterResponse
    credential_hash: Callable[[], rewrite.KeyedHash]
    """The keyed hash of provider credentials. Raises KeyCheckUnavailable until the database was heard once."""
    capture_max_bytes: int
    refusals: Refusals = field(default_factory=Refusals)
    key_max_inflight: int = 0
    """Calls that one key may have running; 0: no bound."""
    spill: Spill | None = None
    """Where a side too large for memory goes, when what comes after the response has a place for it."""
    of_the_front: Callable[[bytes], bool] | None = None
    """Which fields the load balancer in front adds: they go to no provider."""
    end_alone: bool = False
    """What a handed-over exchange waits for holds the end of a stream back, not its last octets (DESIGN 6)."""
    clock: Clock = field(default_factory=Clock)


class Proxy:
    """The raw ASGI application in front: provider calls are relayed, our own paths go to FastAPI."""

    def __init__(self, stages: Stages, own: Application, own_too: frozenset[bytes] = frozenset()) -> None:
        """`own_too`: raw paths that are ours on this host besides."""
        self._stages = stages
        self._own = own
        self._own_paths = OUR_PATHS | own_too
        self._inflight: dict[UUID, int] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI."""
        if scope["type"] != "http":
            return self._own(scope, receive, send)
        path = scope["raw_path"]
        if path in self._own_paths or path.startswith(OUR_PREFIXES):
            return self._own(scope, receive, send)
        return self.relay(Call(scope, receive, send, self._stages))

    async def relay(self, call: Call) -> None:
        """The way. An error before the answer began becomes an answer; after it, the caller's stream breaks too."""
        stages = self._stages
        if call.task is None:
            call.task = asyncio.current_task()
        try:
            head = call.head or read_caller_head(call.scope["headers"])
            caller = stages.authenticator.at_once(head.key) or await stages.authenticator.ask(head.key or b"")
            route = stages.detector.route(call.method, call.path, call.query, call.scope["headers"])
            call.admit(caller, route, head)
            self._count(call, caller)
            outbound = rewrite.outbound(stages.origins[route.provider], call.method, route, call.query, head)
            if stages.of_the_front is not None:
                outbound = rewrite.without(outbound, stages.of_the_front)
            if not call.body_is_here(head):
                await call.body_begins(head)
            intended = stages.after_response.intend(call.intent(caller, route))
            if intended is not None:
                await intended
            answer = await stages.upstream(outbound.origin).send(outbound, call, call.on_sent)
            await call.pass_on(answer)
        except StewardError as error:
            await call.fail(error)
        except asyncio.CancelledError as cancelled:
            if not call.caller_gone:
                await call.fail(out_of_time() if cancelled.args == (EXPIRED,) else ShuttingDown())
                raise
            if call.task is not None:
                call.task.uncancel()  # it was ours, and has done its work
            await call.fail(CallerGone())
        except Exception as exc:  # a defect of ours: said once, answered once
            if isinstance(exc, Cut):
                raise
            log.error("relay_failed", exc)
            await call.fail(InternalError())
        finally:
            call.ends()
            if call.counted is not None:
                self._uncount(call.counted)

    def _count(self, call: Call, caller: Caller) -> None:
        """Bounds what one key has running (SECURITY F14). Raises TooManyCalls."""
        bound = self._stages.key_max_inflight
        if not bound:
            return
        running = self._inflight.get(caller.key_id, 0)
        if running >= bound:
            raise TooManyCalls
        self._inflight[caller.key_id] = running + 1
        call.counted = caller.key_id

    def _uncount(self, key_id: UUID) -> None:
        running = self._inflight[key_id] - 1
        if running:
            self._inflight[key_id] = running
        else:
            del self._inflight[key_id]


class Call:
    """One call on its way: its captures, its times, and what is known of it so far. Also the `RequestBody`."""

    # Set on the class, overwritten on the call: most calls need few of them, and setting thirty costs 3 us.
    caller: Caller | None = None
    route: Route | None = None
    caller_gone = False
    task: asyncio.Task[None] | None = None
    """What is cancelled when the caller leaves before the provider answers."""
    head: CallerHead | None = None
    """The caller's head, if the listener has taken it apart already."""
    counted: UUID | None = None
    """The key whose running calls this one is counted among."""
    _tags = _NO_TAGS
    _credential_hash: str | None = None
    _pending: bytes | None = None
    _body_ended = False
    _answer: Answer | None = None
    _started = False
    _submitted = False
    _sent_us: int | None = None
    _head_us: int | None = None
    _first_us: int | None = None
    _last_us: int | None = None
    _watcher: asyncio.Task[None] | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send, stages: Stages) -> None:
        clock = stages.clock
        self._monotonic_ns = clock.monotonic_ns
        self._began_ns = clock.monotonic_ns()
        unix_ns = clock.unix_ns()
        self._requested_at = datetime.fromtimestamp(unix_ns / 1e9, UTC)
        self.id = uuid7(unix_ns // 1_000_000, clock.random(10))
        self.scope = scope
        self.path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.method: bytes = scope["method"].encode("ascii")
        self._receive = receive
        self._send = send
        self._stages = stages
        self._cycle = scope.get("extensions", _NO_EXTENSIONS).get("steward")
        self._head_now: Callable[[Message], bool] = _never
        self._piece_now: Callable[[bytes, bool], bool] = _never
        if self._cycle is not None:
            self._cycle.on_lost = self.caller_left
            self._head_now, self._piece_now = self._cycle.head_now, self._cycle.piece_now
            self.task = self._cycle.task
            self.head = self._cycle.head

    # admission

    def admit(self, caller: Caller, route: Route, head: CallerHead) -> None:
        """Who calls and where to is known: from here on there is a row, whatever happens. Raises LeakedKey."""
        keyed_hash = self._stages.credential_hash()
        self.route = route
        self.head = head
        if head.majordomo:
            self._tags = admit_tags(head.majordomo)
        stages = self._stages
        limit = 0 if route.secretive else stages.capture_max_bytes
        self._request = Capture(limit, stages.spill, (self.id, "q", caller.key_id))
        self._response = Capture(limit, stages.spill, (self.id, "r", caller.key_id))
        self.caller = caller
        found = rewrite.credential(head, self.query, facts(route.dialect))
        self._credential_hash = keyed_hash.of(found)

    # the caller's body

    def body_is_here(self, head: CallerHead) -> bool:
        """Takes the body when there is none, or our listener has all of it already."""
        if not head.has_body:
            self._body_ended = True
            self._watch()
            return True
        if self._cycle is None or head.expects_continue:
            return False
        body: bytes | None = self._cycle.body_now()
        if body is None:
            return False
        self._request.add(body)
        self._pending, self._body_ended = body, True
        return True

    async def body_begins(self, head: CallerHead) -> None:
        """Takes what has come of the body, so that a small one goes out in one piece with the head."""
        if not head.expects_continue:
            self._pending = await self._more()

    async def _more(self) -> bytes | None:
        """The next piece from the caller, kept; None after the last."""
        if self._body_ended:
            return None
        message = await self._receive()
        if message["type"] != "http.request":
            raise CallerGone
        piece: bytes = message.get("body", b"")
        if piece:
            self._request.add(piece)
        if not message.get("more_body", False):
            self._body_ended = True
            self._watch()
        return piece

    def whole(self) -> bytes | None:
        """See ports.RequestBody."""
        return self._pending if self._body_ended else None

    async def next(self) -> bytes | None:
        """See ports.RequestBody."""
        piece, self._pending = self._pending, None
        while not piece:
            if self._body_ended:
                return None
            piece = await self._more()
        return piece

    # the caller leaving

    def caller_left(self) -> None:
        """He left, or was refused (told by the listener, or the watcher): the provider's side is closed at once."""
        self.caller_gone = True
        if self._answer is not None:
            self._answer.abort()
        elif self.task is not None:
            self.task.cancel()

    def _watch(self) -> None:
        """On hosts whose server cannot tell: a task waits for the caller to leave. (With our listener: nothing.)"""
        if self._cycle is None and self._watcher is None:
            self._watcher = asyncio.ensure_future(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if not self._submitted:
            self.caller_left()

    # the provider's answer

    def on_sent(self) -> None:
        """The first byte goes to the provider."""
        self._sent_us = self._elapsed_us()

    async def pass_on(self, answer: Answer) -> None:
        """Relays the answer as it comes; hands the exchange over before the piece that ends it is sent."""
        self._answer = answer
        self._head_us = self._elapsed_us()
        send, head_now, piece_now = self._send, self._head_now, self._piece_now
        piece = answer.take()
        self._started = True
        message: Message = {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [*answer.headers, (b"x-majordomo-request-id", str(self.id).encode("ascii"))],
            "steward.hold": piece is None or bool(piece),
        }
        if not head_now(message):
            await send(message)
        while piece is not None:
            if piece:
                if self._first_us is None:
                    self._first_us = self._elapsed_us()
                self._response.add(piece)
                if answer.complete:
                    break
                if not piece_now(piece, True):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            else:
                await answer.wait()
            piece = answer.take()
        if self.caller_gone:
            raise CallerGone
        self._last_us = self._elapsed_us()
        self._submitted = True
        accepted = self._stages.after_response.submit(self.exchange(Outcome.COMPLETE))
        if accepted is not None:
            if piece and self._stages.end_alone and not _has_length(answer.headers):
                if not piece_now(piece, True):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = b""
            await self._until(accepted)
        if not piece_now(piece or b"", False):
            await send({"type": "http.response.body", "body": piece or b"", "more_body": False})

    async def _until(self, accepted: Awaitable[None]) -> None:
        """The whole exchange was handed over. A process that ends before it was accepted cuts the answer short."""
        try:
            await accepted
        except asyncio.CancelledError:
            if not self.caller_gone:
                raise Cut from None
            raise

    async def fail(self, error: StewardError) -> None:
        """Ends the call that cannot go on: its exchange is handed over, and the caller told or cut."""
        if self._submitted:
            return
        refused = None if self._cycle is None else self._cycle.refused
        if refused is not None:
            error = refused
        elif self.caller_gone and not isinstance(error, CallerGone):
            error = CallerGone()
        if self._answer is not None:
            self._answer.abort()
        whole = self._cycle is not None and self._cycle.take_back()
        if whole:
            self._started = False  # a host that answers whole: nobody has seen any of it
        told = refused is not None or (not self._started and not isinstance(error, CallerGone))
        if refused is not None and whole:
            await self._refuse(error)  # at once: the host may not wait for what comes next
        if self.caller is not None and self.route is not None:
            self._last_us = self._elapsed_us() if told or self._first_us is not None else None
            await self._submit(self.exchange(_outcome(error, told), error, told))
        if refused is not None:
            self._count_refusal(error)  # the listener has answered, or the host has it
        elif told:
            self._count_refusal(error)
            await self._refuse(error)
        elif self._started:
            raise Cut

    def _count_refusal(self, error: StewardError) -> None:
        if self.caller is None:
            self._stages.refusals.count(error.code)

    async def _refuse(self, error: StewardError) -> None:
        """Our own answer, in the dialect of the route or the likeliest one."""
        self._started = True
        dialect = self.route.dialect if self.route else dialect_hint(self.path, self.scope["headers"])
        document = facts(dialect).error_document(error.status, error.code, error.message)
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(document)),
            (b"x-majordomo-error", error.code.encode("ascii")),
            (b"x-majordomo-request-id", str(self.id).encode("ascii")),
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        if isinstance(error, ShuttingDown):
            headers.append((b"connection", b"close"))  # else the calls that wait behind this one would begin
        await self._send(
            {"type": "http.response.start", "status": error.status, "headers": headers, "steward.hold": True}
        )
        await self._send({"type": "http.response.body", "body": document, "more_body": False})

    # the exchange

    def intent(self, caller: Caller, route: Route) -> Intent:
        """What is known before the first byte goes upstream."""
        return Intent(self.id, caller, route, self._requested_at, self.scope["method"])

    async def _submit(self, exchange: Exchange) -> None:
        self._submitted = True
        accepted = self._stages.after_response.submit(exchange)
        if accepted is not None:
            await accepted

    def exchange(self, outcome: Outcome, error: StewardError | None = None, told: bool = False) -> Exchange:
        """What is known of the call now. Only for a call that was admitted."""
        assert self.caller is not None and self.route is not None and self.head is not None
        answer, tags = self._answer, self._tags
        status = error.status if told and error is not None else (answer.status if answer is not None else None)
        return Exchange(
            id=self.id,
            caller=self.caller,
            route=self.route,
            requested_at=self._requested_at,
            method=self.scope["method"],
            outcome=outcome,
            status=status,
            timings=Timings(self._sent_us, self._head_us, self._first_us, self._last_us),
            request=self._request.body(),
            response=self._response.body(),
            request_headers=self.head.kept,
            response_headers=kept(answer.headers) if answer is not None else [],
            query=kept_query(self.query),
            tags=tags.tags,
            tags_dropped=tags.dropped,
            tags_refused=tags.refused,
            provider_api_key_hash=self._credential_hash,
            provider_api_key_alias=tags.provider_alias,
            client=tags.client,
            claude_session_id=tags.claude_session_id,
            claude_session_name=tags.claude_session_name,
            error=error.code if error is not None else None,
        )

    def ends(self) -> None:
        """Gives back what nobody took over."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._cycle is not None:
            self._cycle.on_lost = None
        if not self._submitted and self.caller is not None:
            self._request.discard()
            self._response.discard()

    def _elapsed_us(self) -> int:
        return (self._monotonic_ns() - self._began_ns) // 1000


def _outcome(error: StewardError, told: bool) -> Outcome:
    """How a call that did not go its way ended, as the caller saw it. Our own refusal is a whole answer."""
    if isinstance(error, CallerGone):
        return Outcome.CLIENT_CANCELLED
    if isinstance(error, ShuttingDown):
        return Outcome.INTERRUPTED
    if isinstance(error, UpstreamTimeout):
        return Outcome.TIMED_OUT
    if isinstance(error, UpstreamFault) or not told:
        return Outcome.UPSTREAM_FAILED
    return Outcome.COMPLETE


def _has_length(headers: Headers) -> bool:
    """Whether whoever reads knows the end by a count: then his last octet is the end."""
    return any(name == b"content-length" for name, _ in headers)


_NO_EXTENSIONS: dict[str, Any] = {}


def _never(*said: object) -> bool:
    """On servers that are not ours, nothing is sent without a turn of the loop."""
    return False
