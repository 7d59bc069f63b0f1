"""Exchanges for tests of what comes after the last byte, made from as little as a path and a body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from steward.detect import Detector
from steward.exchange import LOCAL_ORG, Body, Caller, Exchange, Headers, Outcome, Route
from tests.servers.corpus import Recording

CALLER = Caller(UUID(int=1), LOCAL_ORG)
AT = datetime(2026, 11, 20, 8, tzinfo=UTC)


def route(target: str, provider: str | None = None, method: str = "POST") -> Route:
    """Where a call to this path goes; the provider named in the header when it is given."""
    path, _, query = target.partition("?")
    headers = [] if provider is None else [(b"x-majordomo-provider", provider.encode())]
    return Detector().route(method.encode(), path.encode(), query.encode(), headers)


def exchange(
    to: Route,
    answer: object,
    *,
    asked: object = None,
    status: int | None = 200,
    coding: str | None = None,
    outcome: Outcome = Outcome.COMPLETE,
    **more: object,
) -> Exchange:
    """A call and its answer; what is not bytes already is written as JSON."""
    kept = Exchange(
        id=UUID(int=7),
        caller=CALLER,
        route=to,
        requested_at=AT,
        method="POST",
        outcome=outcome,
        status=status,
        request=Body(_octets(asked)),
        response=Body(_octets(answer)),
        request_headers=[(b"content-type", b"application/json")],
        response_headers=_headers("application/json", coding),
        **more,  # type: ignore[arg-type]
    )
    return kept


def recorded(
    recording: Recording, body: bytes | None = None, coding: str | None = None, to: Route | None = None
) -> Exchange:
    """A recorded exchange, as the relay would hand it on; with other response octets or route when they are given."""
    octets = recording.response_body if body is None else body
    return Exchange(
        id=UUID(int=7),
        caller=CALLER,
        route=to or route(recording.target, recording.provider, recording.method),
        requested_at=AT,
        method=recording.method,
        outcome=Outcome.COMPLETE,
        status=recording.status,
        request=Body(recording.request_body, size_bytes=len(recording.request_body)),
        response=Body(octets, size_bytes=len(octets)),
        request_headers=[(b"content-type", recording.request_content_type.encode())],
        response_headers=_headers(recording.response_headers["content-type"], coding),
    )


def sse(*events: Mapping[str, object] | str, end: bytes = b"\n") -> bytes:
    """Unnamed events, one a value; text goes as it is."""
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return b"".join(b"data: " + line.encode() + end + end for line in lines)


def _octets(value: object) -> bytes:
    if value is None:
        return b""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def _headers(content_type: str, coding: str | None) -> Headers:
    headers = [(b"content-type", content_type.encode())]
    return [*headers, (b"content-encoding", coding.encode())] if coding else headers
