"""One request and its answer where the host takes an answer whole or not at all: the relay's other half, for Lambda.

Nothing of an answer is with the caller before all of it is here. So an answer that breaks off, or that the host could
not carry, becomes one of our errors in the caller's dialect, and its row says what the caller saw; no body is ever cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

import orjson

from handlers.answer_size import AnswerSize
from handlers.aws_answers import Response, spelled
from handlers.aws_events import Front, Request
from steward import log
from steward.errors import (
    AnswerTooLarge,
    Cut,
    InternalError,
    StewardError,
    StreamingUnavailable,
    TooLarge,
)
from steward.exchange import Headers, Origin, Outbound
from steward.ports import Answer, RequestBody, Upstream
from steward.providers import dialect_hint, facts
from steward.proxy import Application, out_of_time
from steward.wire.headers import CallerHead

_STREAMED = b"text/event-stream"
_BUFFERED = (b"x-majordomo-streaming", b"buffered")
_RUNNING: ContextVar[BufferedCycle] = ContextVar("steward_cycle")


class BufferedCycle:
    """One call. Also the `steward` extension of its scope: see `steward.cycle.Cycle`, whose other users it serves."""

    def __init__(self, request: Request, sent_by: Front, ascii_only: bool = False, streaming: bool = True) -> None:
        """`ascii_only`: see AnswerSize. `streaming`: whether a call that asks for a stream is served, whole."""
        self.request = request
        self.front = sent_by
        self.scope = request.scope()
        self.scope["extensions"] = {"steward": self}
        self.ascii_only = ascii_only
        self.task: asyncio.Task[Any] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.refused: StewardError | None = None
        self.head: CallerHead | None = None
        self._streaming = streaming
        self._told_body = False
        self._status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._complete = False

    # what the relay uses beside ASGI

    def body_now(self) -> bytes:
        """All of it. Raises TooLarge for what the host does not carry, StreamingUnavailable where streams are refused,
        BadRequest for what could not be read.

        Asked once the caller and the route are known: the row is written, and the answer in his dialect.
        """
        body = self.request.body
        if self.request.body_fault is not None:
            raise self.request.body_fault
        if len(body) > self.front.request_bytes:
            raise TooLarge(f"The request is too large: {self.front.larger}")
        if not self._streaming and _asks_for_stream(self.request):
            raise StreamingUnavailable
        self._told_body = True
        return body

    def head_now(self, message: MutableMapping[str, Any]) -> bool:
        """Takes the head of the answer."""
        self._status = message["status"]
        self._headers = list(message["headers"])
        if any(name == b"content-type" and value.startswith(_STREAMED) for name, value in self._headers):
            self._headers.append(_BUFFERED)
        return True

    def piece_now(self, body: bytes, more: bool) -> bool:
        """Takes a piece of its body."""
        self._pieces.append(body)
        self._complete = not more
        return True

    def take_back(self) -> bool:
        """Forgets what came of the answer: nobody has seen it."""
        self._status, self._headers, self._pieces = 0, [], []
        return True

    # ASGI

    async def receive(self) -> dict[str, Any]:
        """The body, once; then nothing until the call ends: nobody tells us of a caller who left."""
        if not self._told_body:
            return {"type": "http.request", "body": self.body_now(), "more_body": False}
        await asyncio.get_running_loop().create_future()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """The head, or a piece of the body."""
        if message["type"] == "http.response.start":
            self.head_now(message)
        elif message["type"] == "http.response.body":
            self.piece_now(message.get("body", b""), message.get("more_body", False))

    # the host's side

    def expire(self) -> None:
        """The host's time is nearly over: the provider's side is closed, and the caller told while there is time."""
        if self._complete or self.refused is not None:
            return
        self.refused = out_of_time()
        if self.on_lost is not None:
            self.on_lost()
        elif self.task is not None:
            self.task.cancel()

    async def run(self, app: Application, within_s: float) -> Response:
        """The answer, whatever happens."""
        loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        _RUNNING.set(self)
        timer = loop.call_later(within_s, self.expire)
        try:
            await app(self.scope, self.receive, self.send)
        except Cut:
            self.take_back()
        except asyncio.CancelledError:
            if self.refused is None:
                raise
        except StewardError as error:  # of one of our own paths: of a call the relay has made an answer
            self.take_back()
            self.refused = error
        except Exception as exc:  # the last line of defence
            log.error("listener_failed", exc)
            self.take_back()
            self.refused = InternalError()
        finally:
            timer.cancel()
        return self.answer() or refusal(self.refused or InternalError(), self.request)

    def answer(self) -> Response | None:
        """What was answered, once it is whole. From any thread."""
        return Response(self._status, self._headers, self._whole()) if self._complete and self._status else None

    def spelled(self, response: Response, event: Mapping[str, Any]) -> dict[str, Any]:
        """As the front wants it, in the smaller spelling; our own error for what it still could not carry."""
        size = self._size(response)
        if size.bytes > self.front.answer_bytes:
            response = refusal(AnswerTooLarge(f"The answer is too large: {self.front.larger}"), self.request)
            size = self._size(response)
        return spelled(response, event, self.front, size.is_text)

    def _size(self, response: Response) -> AnswerSize:
        size = AnswerSize(response.headers, self.ascii_only)
        size.add(response.body)
        size.end()
        return size

    def _whole(self) -> bytes:
        return b"" if self.request.method == "HEAD" or self._status in (204, 304) else b"".join(self._pieces)


def refusal(error: StewardError, request: Request | None = None) -> Response:
    """Our own answer to what was not served, in the likeliest dialect; of what is no request at all, in OpenAI's."""
    path, headers = (request.raw_path, request.headers) if request is not None else (b"", [])
    document = facts(dialect_hint(path, headers)).error_document(error.status, error.code, error.message)
    fields: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(document)),
        (b"x-majordomo-error", error.code.encode("ascii")),
    ]
    if error.retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % error.retry_after_s))
    return Response(error.status, fields, document)


def _asks_for_stream(request: Request) -> bool:
    """By the path (Gemini) or by `"stream": true` in the body."""
    if b":streamGenerateContent" in request.raw_path:
        return True
    if b'"stream"' not in request.body:
        return False
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return False  # no call of a provider's: it says so itself
    return isinstance(document, dict) and document.get("stream") is True


class BoundedUpstream:
    """An Upstream whose answers end, at once and with AnswerTooLarge, when they outgrow what the front carries."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def send(self, outbound: Outbound, body: RequestBody, on_sent: Callable[[], None]) -> Answer:
        """See ports.Upstream."""
        answer = await self._upstream.send(outbound, body, on_sent)
        cycle = _RUNNING.get(None)
        return answer if cycle is None else _BoundedAnswer(answer, cycle)

    def forget_idle(self) -> None:
        """See ports.Upstream."""
        self._upstream.forget_idle()

    async def close(self) -> None:
        """See ports.Upstream."""
        await self._upstream.close()


def bounded(upstream: Callable[[Origin], Upstream]) -> Callable[[Origin], Upstream]:
    """The same ways out, each with its answers bounded."""
    return lambda origin: BoundedUpstream(upstream(origin))


class _BoundedAnswer:
    """An answer, counted as it is taken."""

    def __init__(self, answer: Answer, cycle: BufferedCycle) -> None:
        self._answer = answer
        self._size = AnswerSize(answer.headers, cycle.ascii_only)
        self._front = cycle.front
        self.status = answer.status
        self.headers = answer.headers
        self.length = answer.length
        self._least = 0 if cycle.request.method == "HEAD" else answer.length or 0

    @property
    def complete(self) -> bool:
        """See ports.Answer."""
        return self._answer.complete

    def take(self) -> bytes | None:
        """See ports.Answer. Raises AnswerTooLarge besides."""
        piece = self._answer.take()
        if piece:
            self._size.add(piece)
        if piece is None or self._answer.complete:
            self._size.end()
        if max(self._size.bytes, self._least) > self._front.answer_bytes:
            raise AnswerTooLarge(f"The provider's answer is too large: {self._front.larger}")
        return piece

    def wait(self) -> Awaitable[None]:
        """See ports.Answer."""
        return self._answer.wait()

    def abort(self) -> None:
        """See ports.Answer."""
        self._answer.abort()
