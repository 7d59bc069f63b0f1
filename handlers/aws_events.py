"""What a load balancer, a Function URL or API Gateway hands to Lambda, as a request; an answer, as they want it back.

It refuses what the container's listener refuses, in the same way (SECURITY F9), and crashes at nothing an event may
hold: what is no request is one of our errors. Mangum's classes tell the fronts apart and spell the answer. The request
is read here, because theirs decodes the path, writes the query anew, takes the whole X-Forwarded-For for an address
and fails at a port that is no number. It knows no key, route or provider.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mangum.handlers.alb import ALB
from mangum.handlers.api_gateway import APIGateway, HTTPGateway
from mangum.types import LambdaConfig

from steward.errors import BadRequest, HeadTooLarge, Unsupported
from steward.exchange import Headers

HEAD_BYTES = 64 * 1024
HEAD_FIELDS = 128
"""The listener's bounds."""

TEXT_TYPES = [
    *("text/", "application/json", "application/javascript", "application/xml", "application/vnd.api+json"),
    *("application/x-ndjson", "application/ndjson", "application/jsonl", "application/problem+json"),
]
"""Content types that go as they are; all else, and what is compressed or no UTF-8, as base64: a third more."""

_AS_TEXT = LambdaConfig(api_gateway_base_path="", text_mime_types=TEXT_TYPES, exclude_headers=[])
_AS_BASE64 = LambdaConfig(api_gateway_base_path="", text_mime_types=[], exclude_headers=[])

_METHODS = frozenset(
    {
        *("ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE"),
        *("MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH"),
        *("PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK"),
        *("UNLOCK", "UNSUBSCRIBE"),
    }
)
"""Those that the listener's parser knows, but for CONNECT."""

_OF_THE_FRONT = frozenset(
    {
        *(b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto"),
        *(b"x-amzn-trace-id", b"x-amzn-tls-cipher-suite", b"x-amzn-tls-version"),
    }
)
"""Set by the front, about its own connection: no provider gets them."""
_OF_THE_SIGNATURE = frozenset({b"x-amz-date", b"x-amz-security-token", b"x-amz-content-sha256"})
_SIGNED = b"AWS4-"

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_NO_BODY = frozenset({204, 304})


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
    """A request past everything that the listener would have refused."""

    method: str
    raw_path: bytes
    query: bytes
    headers: Headers
    """Names in lower case, in order with repeats."""
    body: bytes
    client: str
    """Who connected to the front; empty when it did not say."""

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
        }


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


def front(event: object) -> Front | None:
    """Which front sent it; None for what is no HTTP request (a queue's records, a schedule, a direct call)."""
    if not isinstance(event, Mapping) or not isinstance(event.get("requestContext"), Mapping):
        return None
    if ALB.infer(event, None, _AS_TEXT):  # type: ignore[arg-type]
        return ALB_FRONT
    if HTTPGateway.infer(event, None, _AS_TEXT):  # type: ignore[arg-type]
        return URL_FRONT if event.get("version") == "2.0" else REST_FRONT
    return REST_FRONT if APIGateway.infer(event, None, _AS_TEXT) else None  # type: ignore[arg-type]


def read(event: Mapping[str, Any], sent_by: Front) -> Request:
    """The request, its path and query as they were sent. Raises BadRequest, HeadTooLarge, Unsupported."""
    headers = _headers(event)
    if sent_by is URL_FRONT:
        http = _mapping(event["requestContext"].get("http"))
        method, target, query = http.get("method"), event.get("rawPath"), _octets(event.get("rawQueryString"))
        client = _client(http.get("sourceIp"))
    else:
        method, target = event.get("httpMethod"), event.get("path")
        query = _query(event, decoded=sent_by is REST_FRONT)
        client = _forwarded(headers)
    raw_path = _path(_octets(target))
    _check(_method(method), raw_path, query, headers)
    body = _body(event)
    return Request(_method(method), raw_path, query, _framed(_callers(headers, sent_by), body), body, client)


def spelled(response: Response, event: Mapping[str, Any], sent_by: Front, as_text: bool = True) -> dict[str, Any]:
    """The answer as the front wants it: many values of a header, or one, as it sent them itself."""
    config = _AS_TEXT if as_text and not _compressed(response.headers) else _AS_BASE64
    fields = [(name, value.decode("latin-1").encode()) for name, value in _told(response)]
    answer = {"status": response.status, "headers": fields, "body": response.body}
    if sent_by is ALB_FRONT:
        values: dict[str, Any] = {"multiValueHeaders": {}} if "multiValueHeaders" in event else {"headers": {}}
        plain = {"requestContext": {"elb": {}}, "httpMethod": "GET", "path": "/", **values}
        return ALB(plain, None, config)(answer)  # type: ignore[arg-type]
    if sent_by is URL_FRONT:
        http = {"method": "GET", "path": "/", "sourceIp": ""}
        plain = {"version": "2.0", "requestContext": {"http": http}, "headers": {}}
        return HTTPGateway(plain, None, config)(answer)  # type: ignore[arg-type]
    plain = {"resource": "/", "requestContext": {}, "httpMethod": "GET", "path": "/"}
    return APIGateway(plain, None, config)(answer)  # type: ignore[arg-type]


def is_text(headers: Headers) -> bool:
    """Whether a body under these fields goes as text, if it is UTF-8."""
    kind = dict(headers).get(b"content-type", b"").decode("latin-1")
    return not _compressed(headers) and any(text in kind for text in TEXT_TYPES)


def _compressed(headers: Headers) -> bool:
    return dict(headers).get(b"content-encoding", b"identity").strip().lower() not in {b"", b"identity"}


def _told(response: Response) -> Headers:
    """The fields, without a length that is not the body's: a front might wait for the rest of it."""
    length = b"%d" % len(response.body)
    return [item for item in response.headers if item[0] != b"content-length" or item[1] == length]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _octets(value: object) -> bytes:
    """Text as it crossed the wire. Raises BadRequest for what is no text, or beyond latin-1: no octet says it."""
    if value is None:
        return b""
    if not isinstance(value, str):
        raise BadRequest
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise BadRequest("The request's target or a header holds a character that no octet stands for.") from None


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
        found += [(_octets(name).lower(), _octets(value).strip(b" \t")) for value in each]
    cookies = event.get("cookies")
    if isinstance(cookies, list) and cookies:  # the Function URL's spelling of one field
        found.append((b"cookie", b"; ".join(_octets(each) for each in cookies)))
    return found


def _callers(headers: Headers, sent_by: Front) -> Headers:
    """Without what the front set, and without a signature that it has checked: that is for it alone."""
    kept = [item for item in headers if item[0] not in _OF_THE_FRONT]
    if sent_by is ALB_FRONT:
        return kept
    signed = any(name == b"authorization" and value.startswith(_SIGNED) for name, value in kept)
    if not signed:
        return kept
    return [item for item in kept if item[0] not in _OF_THE_SIGNATURE and not item[1].startswith(_SIGNED)]


def _method(given: object) -> str:
    if given == "CONNECT":
        raise Unsupported
    if not isinstance(given, str) or given not in _METHODS:
        raise BadRequest
    return given


def _path(target: bytes) -> bytes:
    """As the listener has it: of an absolute target only the path, nothing decoded."""
    if target.startswith(b"/"):
        return target
    _, found, rest = target.partition(b"://")
    if not found:
        return target or b"/"
    path = rest[len(rest.partition(b"/")[0].partition(b"?")[0]) :]
    return path if path.startswith(b"/") else b"/" + path


def _query(event: Mapping[str, Any], decoded: bool) -> bytes:
    """The query, joined of what the front took apart. A load balancer leaves it as sent, API Gateway does not."""
    given = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    if not isinstance(given, Mapping):
        raise BadRequest
    pairs = []
    for name, values in given.items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(name, str) or not isinstance(value, str | None):
                raise BadRequest
            pairs.append(_pair(name, value or "", decoded))
    return b"&".join(pairs)


def _pair(name: str, value: str, decoded: bool) -> bytes:
    if not decoded:
        return _octets(f"{name}={value}")
    try:
        return f"{quote(name, safe='')}={quote(value, safe='')}".encode("ascii")
    except UnicodeEncodeError:
        raise BadRequest from None


def _forwarded(headers: Headers) -> str:
    """Who connected to the front: the last address, the only one that the front itself wrote."""
    found = [value for name, value in headers if name == b"x-forwarded-for"]
    return _client(found[-1].rpartition(b",")[2].strip().decode("latin-1")) if found else ""


def _client(address: object) -> str:
    return address if isinstance(address, str) and len(address) <= 64 else ""


def _check(method: str, raw_path: bytes, query: bytes, headers: Headers) -> None:
    """Everything that the listener and its parser refuse of a head, before the gate sees it."""
    if len(headers) > HEAD_FIELDS:
        raise HeadTooLarge
    size = len(method) + len(raw_path) + len(query) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > HEAD_BYTES:
        raise HeadTooLarge
    if any(_CONTROL.search(value) for _, value in headers) or _CONTROL.search(raw_path + query):
        raise BadRequest
    named = dict(headers)
    if b"upgrade" in named and any(b"upgrade" in words for words in _listed(headers, b"connection")):
        raise Unsupported
    if b"transfer-encoding" in named:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise Unsupported
        if b"content-length" in named:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")


def _listed(headers: Headers, wanted: bytes) -> Iterable[list[bytes]]:
    return ([word.strip().lower() for word in value.split(b",")] for name, value in headers if name == wanted)


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


def _framed(headers: Headers, body: bytes) -> Headers:
    """The fields with the length that the body has. Raises BadRequest for a length that it does not have.

    The front took the body out of its frame: chunks are gone, and what a length says of it must be so, or the provider
    would take one message for two.
    """
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) == 1 and lengths[0].isdigit() and int(lengths[0][:18]) != len(body):
        raise BadRequest("The Content-Length header is not the body's.")
    if lengths:
        return headers
    left = [item for item in headers if item[0] != b"transfer-encoding"]
    if body or len(left) != len(headers):
        left.append((b"content-length", b"%d" % len(body)))
    return left
