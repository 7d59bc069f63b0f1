"""What a load balancer, a Function URL or API Gateway hands to Lambda, as a request: for both of our entries.

It refuses what the container's listener refuses, in the same way (SECURITY F9), and crashes at nothing an event may
hold: what is no request is one of our errors. Where a front folds a repeated field into one, with commas, it stays
folded. Path and query are read by `aws_targets`, the frame is `aws_framing`'s. It knows no key, route or provider.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from handlers.aws_framing import bodiless, check, framed
from handlers.aws_targets import joined_query, octets, raw_path
from steward.errors import BadRequest, CallerFault, StewardError, Unsupported
from steward.exchange import Headers

_METHODS: Final = frozenset(
    {
        *("ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE"),
        *("MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH"),
        *("PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK"),
        *("UNLOCK", "UNSUBSCRIBE"),
    }
)
"""Those that the listener's parser knows, but for CONNECT."""

_OF_THE_FRONT: Final = frozenset({b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto", b"x-amz-cf-id"})
_FRONTS_PREFIXES: Final = (b"x-amzn-", b"cloudfront-")
"""Set by the front, about its own connection and whom it signed in: no provider gets them."""
_OF_THE_SIGNATURE: Final = frozenset({b"x-amz-date", b"x-amz-security-token", b"x-amz-content-sha256"})
_SIGNED: Final = b"AWS4-"
_SIGNED_QUERY: Final = b"x-amz-signature="
_IN_THE_QUERY: Final = b"x-amz-"

_CHECKER: Final = b"elb-healthchecker/"
_CHECKED: Final = frozenset({b"/", b"/healthz"})
"""Where a load balancer looks unless it was told of `/health`: no provider has these."""
_HEALTH: Final = b"/health"

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


@dataclass(frozen=True, slots=True)
class Front:
    """What stands before the function, and what it can carry."""

    name: str
    request_bytes: int
    answer_bytes: int
    """Of the whole JSON that the function returns, base64 included."""
    larger: str
    """Ends the sentence that tells a caller what to use instead."""
    streams: bool = False
    """Whether it could stream, from another handler of ours."""


ALB_FRONT = Front(
    "alb",
    1 << 20,
    1_000_000,
    "a load balancer and Lambda carry 1 MB each way. Use this Steward's streaming Function URL or its container.",
)
URL_FRONT = Front(
    "url",
    6 << 20,
    6_000_000,
    "a Function URL carries 6 MB to this handler. Use this Steward's streaming handler or its container.",
    streams=True,
)
REST_FRONT = Front(
    "rest",
    6 << 20,
    6_000_000,
    "API Gateway and Lambda carry 6 MB to this handler. Use this Steward's streaming handler or its container.",
    streams=True,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request, or as much of it as could be read."""

    method: str
    raw_path: bytes
    query: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    """Names in lower case, in order with repeats."""
    body: bytes = field(default=b"", repr=False)
    client: str = ""
    """Who connected to the front; empty when it did not say."""
    refused: StewardError | None = None
    """What the listener would have said against its head: it is answered so, and goes no further."""
    body_fault: CallerFault | None = None
    """What the call meets in place of its body: it has a row like any other, once it was admitted."""

    def scope(self) -> dict[str, Any]:
        """As ASGI wants it."""
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "server": None,
            "client": (self.client, 0),
            "scheme": "https",
            "method": self.method,
            "root_path": "",
            "path": self.raw_path.decode("latin-1"),
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": self.headers,
            "state": {},
            "extensions": {},
        }

    def without_body(self, fault: CallerFault) -> Request:
        """The same call, which will meet this when it takes its body."""
        return replace(self, headers=bodiless(self.headers), body=b"", body_fault=fault)


def front(event: object) -> Front | None:
    """Which front sent it; None for what is no HTTP request (a queue's records, a schedule, a direct call)."""
    if not isinstance(event, Mapping) or not isinstance(event.get("requestContext"), Mapping):
        return None
    if "elb" in event["requestContext"]:
        return ALB_FRONT
    if event.get("version") == "2.0":
        return URL_FRONT
    return REST_FRONT if "httpMethod" in event or "resource" in event else None


def read(event: Mapping[str, Any], sent_by: Front) -> Request:
    """The request, its path and query as they were sent. Raises nothing: see `Request.refused`, `body_fault`."""
    try:
        request = _read(event, sent_by)
    except StewardError as error:
        return Request("", b"", b"", [], refused=error)
    try:
        check(request.method, request.raw_path + request.query, request.headers)
    except StewardError as error:
        return replace(request, refused=error)
    try:
        body = _body(event)
        return replace(request, headers=framed(request.headers, body), body=body)
    except BadRequest as fault:
        return request.without_body(fault)


def _read(event: Mapping[str, Any], sent_by: Front) -> Request:
    """Raises BadRequest, Unsupported."""
    headers = _headers(event)
    context = event["requestContext"]
    if sent_by is URL_FRONT:
        http = _mapping(context.get("http"))
        method, path, query = http.get("method"), raw_path(event.get("rawPath")), octets(event.get("rawQueryString"))
        client, signed = _client(http.get("sourceIp")), bool(_mapping(context.get("authorizer")).get("iam"))
    else:
        method, path = event.get("httpMethod"), raw_path(event.get("path"), may_be_decoded=sent_by is REST_FRONT)
        query = joined_query(event, decoded=sent_by is REST_FRONT)
        identity = _mapping(context.get("identity"))
        client, signed = _client(identity.get("sourceIp")) or _forwarded(headers), bool(identity.get("userArn"))
    if path in _CHECKED and sent_by is ALB_FRONT and _is_check(headers):
        path = _HEALTH
    headers, query = _callers(headers, query, signed)
    return Request(_method(method), path, query, headers, client=client)


def _is_check(headers: Headers) -> bool:
    """Whether the load balancer itself asks. A caller's request has a Host: it would not have let it through."""
    named = dict(headers)
    return b"host" not in named and named.get(b"user-agent", b"").lower().startswith(_CHECKER)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _value(value: object) -> bytes:
    """A field's value: an octet for a character, or UTF-8 where the front has decoded that. Raises BadRequest."""
    if isinstance(value, str) and not value.isascii() and max(value) > "\xff":
        try:
            return value.encode().strip(b" \t")
        except UnicodeEncodeError:
            raise BadRequest from None
    if value is None:
        raise BadRequest
    return octets(value).strip(b" \t")


def _headers(event: Mapping[str, Any]) -> Headers:
    """Names in lower case. The front's own list of many values, where there is one, holds all of them."""
    many = event.get("multiValueHeaders")
    given = many if many is not None else event.get("headers")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise BadRequest
    found: Headers = []
    for name, values in given.items():
        each = values if isinstance(values, list) else [values]
        found += [(octets(name).lower(), _value(value)) for value in each]
    cookies = event.get("cookies")
    if cookies:  # the Function URL's spelling of one field
        if not isinstance(cookies, list):
            raise BadRequest
        found = [item for item in found if item[0] != b"cookie"]
        found.append((b"cookie", b"; ".join(map(_value, cookies))))
    return found


def _callers(headers: Headers, query: bytes, signed: bool) -> tuple[Headers, bytes]:
    """Without what the front set, and without a signature of AWS's, which is for the front alone.

    It stands where OpenAI's key would; the session token beside it is half a credential of the caller's. `signed`: the
    front has checked one, wherever it stood.
    """
    kept = [item for item in headers if item[0] not in _OF_THE_FRONT and not item[0].startswith(_FRONTS_PREFIXES)]
    in_query = _SIGNED_QUERY in query.lower()
    if in_query:
        pairs = [pair for pair in query.split(b"&") if not pair.lower().startswith(_IN_THE_QUERY)]
        query = b"&".join(pairs)
    if not (signed or in_query or any(_is_signature(item) for item in kept)):
        return kept, query
    return [item for item in kept if item[0] not in _OF_THE_SIGNATURE and not _is_signature(item)], query


def _is_signature(item: tuple[bytes, bytes]) -> bool:
    return item[0] == b"authorization" and item[1].startswith(_SIGNED)


def _method(given: object) -> str:
    if given == "CONNECT":
        raise Unsupported
    if not isinstance(given, str) or given not in _METHODS:
        raise BadRequest
    return given


def _forwarded(headers: Headers) -> str:
    """Who connected to the front: the last address, the only one that the front itself wrote."""
    found = [value for name, value in headers if name == b"x-forwarded-for"]
    return _client(found[-1].rpartition(b",")[2].strip().decode("latin-1")) if found else ""


def _client(address: object) -> str:
    return address if isinstance(address, str) and len(address) <= 64 else ""


def _body(event: Mapping[str, Any]) -> bytes:
    given = event.get("body")
    if given is None or given == "":
        return b""
    if not isinstance(given, str):
        raise BadRequest
    try:
        if event.get("isBase64Encoded") is True:
            return base64.b64decode(given, validate=True)
        return given.encode()
    except (binascii.Error, ValueError):
        raise BadRequest("The event's body cannot be read.") from None
