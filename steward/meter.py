"""Reads usage, model and the facts that price depends on from an exchange's captured bytes.

It refuses to raise, whatever the bytes are, and to price: unknown is None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from steward.exchange import (
    Body,
    Dialect,
    ErrorCode,
    Exchange,
    Headers,
    Metered,
    Operation,
    Outcome,
    Route,
    UsageSource,
)
from steward.providers.anthropic_usage import AnthropicReader
from steward.providers.failures import by_status
from steward.providers.gemini_usage import GeminiReader
from steward.providers.openai_usage import OpenAiReader
from steward.providers.reading import Reader, Reading
from steward.providers.request import asked_model
from steward.wire import jsondoc
from steward.wire.encoding import TooMuch, Undecodable, codings, decoded
from steward.wire.jsondoc import MAX_DOCUMENT_BYTES
from steward.wire.sse import SseParser

_STEP = 64 * 1024
_GLANCE_BYTES = 1024 * 1024
"""As much is read of an answer that reports no usage: enough for a model's name or an error."""
_FIRST_ERROR = 400
_BOM = b"\xef\xbb\xbf"
_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_OPAQUE = (b"audio/", b"image/", b"video/", b"application/octet-stream", b"application/zip", b"multipart/")

_OUTCOMES: Mapping[Outcome, ErrorCode] = {
    Outcome.CLIENT_CANCELLED: ErrorCode.CLIENT_CANCELLED,
    Outcome.UPSTREAM_FAILED: ErrorCode.UPSTREAM_FAILED,
    Outcome.TIMED_OUT: ErrorCode.TIMEOUT,
    Outcome.INTERRUPTED: ErrorCode.OTHER,
}

_OWN_ERRORS: Mapping[str, ErrorCode] = {
    "upstream_timeout": ErrorCode.TIMEOUT,
    "request_timeout": ErrorCode.TIMEOUT,
    "upstream_failed": ErrorCode.UPSTREAM_FAILED,
    "upstream_unreachable": ErrorCode.UPSTREAM_FAILED,
    "upstream_bad_answer": ErrorCode.UPSTREAM_FAILED,
    "upstream_broke": ErrorCode.UPSTREAM_FAILED,
    "upstream_busy": ErrorCode.UPSTREAM_FAILED,
    "client_cancelled": ErrorCode.CLIENT_CANCELLED,
    "too_many_calls": ErrorCode.RATE_LIMITED,
    "request_too_large": ErrorCode.INVALID_REQUEST,
    "streaming_unavailable": ErrorCode.INVALID_REQUEST,
    "not_supported": ErrorCode.INVALID_REQUEST,
    "bad_request": ErrorCode.INVALID_REQUEST,
    "majordomo_key_as_credential": ErrorCode.AUTH,
    "not_accepted": ErrorCode.SERVER_ERROR,
    "shutting_down": ErrorCode.SERVER_ERROR,
    "internal_error": ErrorCode.SERVER_ERROR,
    "key_check_unavailable": ErrorCode.SERVER_ERROR,
}
"""Our own answers, by their code; any other is OTHER."""


def meter(exchange: Exchange) -> Metered:
    """What the call used, by the provider's word. Never raises."""
    asked = _asked(exchange)
    answer = _Answer(exchange)
    reading = answer.read()
    usage = reading.usage
    return Metered(
        source=_source(exchange, reading, answer),
        usage=usage,
        model=reading.model or asked or exchange.route.model,
        request_model=asked or exchange.route.model,
        streamed=answer.streamed,
        service_tier=reading.service_tier,
        provider_cost_usd=reading.cost_usd,
        error=_error(exchange, reading),
    )


class _Answer:
    """One response body on its way through decoder, framing and reader."""

    def __init__(self, exchange: Exchange) -> None:
        self.streamed = False
        self.whole = not exchange.response.truncated
        """Nothing of the answer was cut off or left unread."""
        self._exchange = exchange
        self._type = _field(exchange.response_headers, b"content-type").lower()
        self._reader = _reader(exchange.route)
        spends = exchange.route.operation not in (Operation.FREE, Operation.OTHER)
        self._bound = MAX_DOCUMENT_BYTES if spends else _GLANCE_BYTES

    def read(self) -> Reading:
        """What the answer says. Beyond a bound it says nothing of usage."""
        if self._exchange.error is not None or self._type.startswith(_OPAQUE):
            return Reading()
        response = self._exchange.response
        try:
            applied = codings(_fields(self._exchange.response_headers, b"content-encoding"))
            self._frame(decoded(_pieces(response), applied))
        except TooMuch:
            self.whole = False
            reading = self._reader.result()
            return Reading(model=reading.model, error=reading.error)
        except Undecodable:
            self.whole = False
        return self._reader.result()

    def _frame(self, pieces: Iterator[bytes]) -> None:
        """Tells a stream of events from one document by what it begins with; labels lie in both directions."""
        head = b""
        for piece in pieces:
            head = (head + piece).lstrip()
            if len(head) > len(_BOM) or not _BOM.startswith(head):
                head = head.removeprefix(_BOM).lstrip()
            if head and not _BOM.startswith(head):
                break
        if head.startswith((b"{", b"[")):
            self._document(head, pieces)
        elif head.startswith(_SSE_STARTS) or self._type.startswith(b"text/event-stream"):
            self._events(head, pieces)

    def _events(self, head: bytes, pieces: Iterator[bytes]) -> None:
        self.streamed = True
        parser, reader = SseParser(), self._reader
        for start in range(0, len(head), _STEP):
            for event in parser.feed(head[start : start + _STEP]):
                reader.event(event)
        try:
            for piece in pieces:
                for event in parser.feed(piece):
                    reader.event(event)
        finally:
            for event in parser.close():
                reader.event(event)
        if parser.overflowed:
            raise TooMuch

    def _document(self, head: bytes, pieces: Iterator[bytes]) -> None:
        document = bytearray(head)
        try:
            for piece in pieces:
                document += piece
                if len(document) > self._bound:
                    raise TooMuch
        except TooMuch:
            raise
        except Undecodable:
            self.whole = False
        self._parse(bytes(document))

    def _parse(self, document: bytes) -> None:
        value = jsondoc.parse(document)
        chunks = document.startswith(b"[") and self._exchange.route.dialect is Dialect.GEMINI
        self.streamed = chunks and (self._exchange.status or 0) < _FIRST_ERROR
        if value is None:
            self.whole = False
            value = list(jsondoc.elements(document)) if chunks else None
        self._reader.document(value)


def _reader(route: Route) -> Reader:
    if route.dialect is Dialect.ANTHROPIC:
        return AnthropicReader(route.operation)
    if route.dialect is Dialect.GEMINI:
        return GeminiReader(route.operation)
    return OpenAiReader(route.operation, route.provider)


def _source(exchange: Exchange, reading: Reading, answer: _Answer) -> UsageSource:
    if reading.usage is None:
        return UsageSource.NONE
    if not answer.streamed:
        return UsageSource.PROVIDER
    complete = exchange.outcome is Outcome.COMPLETE and answer.whole and reading.final
    return UsageSource.PROVIDER if complete else UsageSource.PARTIAL


def _error(exchange: Exchange, reading: Reading) -> ErrorCode | None:
    """Our own error first, then the provider's word, then his status, then how the call ended."""
    if exchange.error is not None:
        return _OWN_ERRORS.get(exchange.error, ErrorCode.OTHER)
    status = exchange.status or 0
    if status >= _FIRST_ERROR:
        said = reading.error
        vague = said in (None, ErrorCode.OTHER, ErrorCode.INVALID_REQUEST)
        return by_status(status) if vague else said
    return reading.error or _OUTCOMES.get(exchange.outcome)


def _asked(exchange: Exchange) -> str | None:
    """The request's model, where the request can be read within bounds."""
    request = exchange.request
    if not request.kept_bytes or request.truncated:
        return None
    document = bytearray()
    try:
        applied = codings(_fields(exchange.request_headers, b"content-encoding"))
        for piece in decoded(_pieces(request), applied):
            document += piece
            if len(document) > MAX_DOCUMENT_BYTES:
                return None
    except Undecodable:
        return None
    return asked_model(_field(exchange.request_headers, b"content-type"), bytes(document))


def _pieces(body: Body) -> Iterator[bytes]:
    """What was kept of a body, in steps."""
    if body.file is None:
        for start in range(0, len(body.data), _STEP):
            yield body.data[start : start + _STEP]
        return
    body.file.seek(0)
    while piece := body.file.read(_STEP):
        yield piece


def _fields(headers: Headers, name: bytes) -> list[bytes]:
    return [value for each, value in headers if each == name]


def _field(headers: Headers, name: bytes) -> bytes:
    """The first value, stripped; empty when there is none."""
    return next((value.strip() for each, value in headers if each == name), b"")
