"""An exchange as octets and back: what a spool or a queue holds of a call, before it is sealed.

It never raises on encoding, whatever a caller put into a text; it opens no file, knows no key and keeps no secret.

    version 1 | length of the head 4 (big-endian) | head, a JSON array | fields of the request | of the response
    | octets of the request's body | of the response's

The head's members stand in a fixed order; a later writer may add some at the end, which an earlier reader passes over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any, Final
from uuid import UUID

import orjson

from steward.exchange import (
    Body,
    Caller,
    Dialect,
    Exchange,
    Headers,
    Intent,
    Operation,
    Outcome,
    Route,
    Timings,
)

VERSION: Final = 1
KEY_BYTES: Final = 32
_HEAD_AT: Final = 5
_REMEMBERED: Final = 1024
"""Callers and routes that need not be read again."""
_REMEMBERED_CHARS: Final = 512
"""A route with a longer path is read each time: who sends them would fill the memory."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A side whose octets are in a sealed file of its own, and the key of that file alone."""

    key: bytes = field(repr=False)
    size_bytes: int
    """Octets that were kept, before sealing."""


Kept = bytes | Beside | None
"""A side's octets, where else they are, or None: not kept."""


def encode_intent(intent: Intent) -> bytes:
    """A call that is about to go to the provider."""
    said = [
        intent.id,
        _caller(intent.caller),
        _route(intent.route),
        intent.requested_at,
        intent.method,
    ]
    return _joined(said)


def encode_exchange(exchange: Exchange, request: Kept, response: Kept) -> bytes:
    """The whole exchange. `request` and `response` stand for what its bodies hold; sizes and cuts are the bodies'."""
    caller, route, timings = exchange.caller, exchange.route, exchange.timings
    asked, answered = _block(exchange.request_headers), _block(exchange.response_headers)
    said = [
        exchange.id,
        (caller.key_id, caller.org_id, caller.user_id, caller.registration_id),
        _route(route),
        exchange.requested_at,
        exchange.method,
        exchange.outcome,
        exchange.status,
        [timings.sent_us, timings.head_us, timings.first_byte_us, timings.last_byte_us],
        _side(exchange.request, request),
        _side(exchange.response, response),
        _texts(exchange.request_headers) if asked is None else len(asked),
        _texts(exchange.response_headers) if answered is None else len(answered),
        exchange.query,
        exchange.tags,
        exchange.tags_dropped,
        exchange.tags_refused,
        exchange.provider_api_key_hash,
        exchange.provider_api_key_alias,
        exchange.client,
        exchange.claude_session_id,
        exchange.claude_session_name,
        exchange.error,
        exchange.bodies_shed,
    ]
    return _joined(
        said,
        asked or b"",
        answered or b"",
        request if isinstance(request, bytes) else b"",
        response if isinstance(response, bytes) else b"",
    )


def decode_intent(data: bytes) -> Intent:
    """What `encode_intent` was given. Raises ValueError for anything else."""
    said, _ = _parted(data)
    try:
        return Intent(UUID(said[0]), _caller_of(said[1]), _route_of(said[2]), _time(said[3]), str(said[4]))
    except (TypeError, LookupError, AttributeError) as exc:
        raise ValueError(_NOT_OURS) from exc


def decode_exchange(data: bytes) -> tuple[Exchange, Beside | None, Beside | None]:
    """The exchange with the bodies that were inside, and where its request and its response are if they were not.

    Raises ValueError for anything but what `encode_exchange` made.
    """
    said, octets = _parted(data)
    try:
        asked, used = _fields_of(said[10], octets, 0)
        answered, used = _fields_of(said[11], octets, used)
        request, request_beside, used = _side_of(said[8], octets, used)
        response, response_beside, used = _side_of(said[9], octets, used)
        if used != len(octets):
            raise ValueError(_NOT_OURS)
        exchange = _exchange_of(said, request, response)
        exchange.request_headers, exchange.response_headers = asked, answered
    except (TypeError, LookupError, AttributeError) as exc:
        raise ValueError(_NOT_OURS) from exc
    return exchange, request_beside, response_beside


def _exchange_of(said: list[Any], request: Body, response: Body) -> Exchange:
    return Exchange(
        id=UUID(said[0]),
        caller=_caller_of(said[1]),
        route=_route_of(said[2]),
        requested_at=_time(said[3]),
        method=said[4],
        outcome=Outcome(said[5]),
        status=said[6],
        timings=Timings(*said[7][:4]),
        request=request,
        response=response,
        query=tuple((name, value) for name, value in said[12]),
        tags=dict(said[13]),
        tags_dropped=said[14],
        tags_refused=tuple(said[15]),
        provider_api_key_hash=said[16],
        provider_api_key_alias=said[17],
        client=said[18],
        claude_session_id=said[19],
        claude_session_name=said[20],
        error=said[21],
        bodies_shed=said[22],
    )


_NOT_OURS: Final = "these octets are no record of this format"


def _joined(said: list[Any], *inside: bytes) -> bytes:
    try:
        head = orjson.dumps(said)
    except TypeError:  # orjson.JSONEncodeError is one: half a surrogate pair, or a number beyond 64 bits
        head = json.dumps(said, default=_plain).encode("ascii")
    return b"".join((_FIRST, len(head).to_bytes(4, "big"), head, *inside))


_FIRST: Final = bytes((VERSION,))


def _plain(value: object) -> object:
    """What orjson writes by itself and the slower writer, which knows half a surrogate pair, does not."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return dict(value.items()) if hasattr(value, "items") else list(value)  # type: ignore[call-overload]


def _parted(data: bytes) -> tuple[Any, bytes]:
    """The head, and the octets behind it."""
    end = _HEAD_AT + int.from_bytes(data[1:_HEAD_AT], "big")
    if len(data) < _HEAD_AT or data[0] != VERSION or end > len(data):
        raise ValueError(_NOT_OURS)
    head = data[_HEAD_AT:end]
    try:
        said = orjson.loads(head)
    except orjson.JSONDecodeError:
        said = json.loads(head)
    return said, data[end:]


def _caller(caller: Caller) -> tuple[UUID, UUID, UUID | None, UUID | None]:
    return caller.key_id, caller.org_id, caller.user_id, caller.registration_id


def _caller_of(said: list[str | None]) -> Caller:
    key, org, user, registration = said[:4]
    return _known_caller(key, org, user, registration)


@lru_cache(maxsize=_REMEMBERED)
def _known_caller(key: str | None, org: str | None, user: str | None, registration: str | None) -> Caller:
    """The same few callers call again and again: reading four ids costs as much as reading the rest of a head."""
    return Caller(_id(key), _id(org), _uuid(user), _uuid(registration))


def _id(text: object) -> UUID:
    return UUID(text)  # type: ignore[arg-type]  # what is no text raises, as what is no id does


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else _id(text)


def _route(route: Route) -> tuple[object, ...]:
    path = route.path.decode("latin-1")
    return route.provider, route.dialect, route.operation, route.template, path, route.model, route.secretive


def _route_of(said: list[Any]) -> Route:
    read = _known_route if len(said[4]) <= _REMEMBERED_CHARS else _known_route.__wrapped__
    return read(*said[:7])


@lru_cache(maxsize=_REMEMBERED)
def _known_route(  # noqa: PLR0913, PLR0917 - the record's members, which are the key
    provider: str, dialect: str, operation: str, template: str, path: str, model: str | None, secretive: bool
) -> Route:
    return Route(
        provider, Dialect(dialect), Operation(operation), template, path.encode("latin-1"), model, bool(secretive)
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _block(headers: Headers) -> bytes | None:
    """Names and values, one a line: half the cost of text. None when one of them has a line feed itself."""
    block = b"\n".join(chain.from_iterable(headers))
    return block if block.count(b"\n") == max(0, 2 * len(headers) - 1) else None


def _texts(headers: Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _fields_of(said: int | list[list[str]], octets: bytes, at: int) -> tuple[Headers, int]:
    """One side's fields, and where the next octets begin."""
    if not isinstance(said, int):
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said], at
    end = at + said
    if said < 0 or end > len(octets):
        raise ValueError(_NOT_OURS)
    lines = octets[at:end].split(b"\n") if said else []
    return list(zip(lines[::2], lines[1::2], strict=True)), end


def _side(body: Body, kept: Kept) -> tuple[object, ...]:
    """Octets that crossed, whether the copy was cut, how many octets are inside, key and length of a file beside."""
    if isinstance(kept, Beside):
        return body.size_bytes, body.truncated, 0, kept.key.hex(), kept.size_bytes
    return body.size_bytes, body.truncated, 0 if kept is None else len(kept)


def _side_of(said: list[Any], octets: bytes, at: int) -> tuple[Body, Beside | None, int]:
    """One side, and where the next one's octets begin."""
    size_bytes, truncated, inside, *beside = said[:5]
    end = at + inside
    if inside < 0 or end > len(octets):
        raise ValueError(_NOT_OURS)
    body = Body(octets[at:end], None, size_bytes, truncated)
    if not beside:
        return body, None, end
    key, kept = beside
    return body, Beside(bytes.fromhex(key), int(kept)), end
