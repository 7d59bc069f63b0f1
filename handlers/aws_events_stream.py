"""Events of the fronts that stream from Lambda, as ASGI scopes: Function URL (payload 2.0) and API Gateway REST (1.0).

It decides nothing about the call. What a front has put into the caller's head is taken out again, and what our own
listener would refuse is refused here by the same errors (SECURITY F9). A Function URL says path and query as they were
sent. API Gateway decodes the query and forgets the order of different names: it is written anew from what it says, so
`%20` and `+` become one spelling. Where a front folds a repeated field into one, with commas, it stays folded.
"""

from __future__ import annotations

import base64
import binascii
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import orjson

from steward.errors import BadRequest, CallerFault, HeadTooLarge, StewardError, TooLarge, Unsupported
from steward.exchange import Headers
from steward.wire.headers import read_caller_head

REQUEST_MAX_BYTES: Final = 6 << 20
"""Of an event, bodies in base64: what Lambda takes for an invocation."""
HEAD_BYTES: Final = 64 << 10
HEAD_FIELDS: Final = 128

_OF_THE_FRONT: Final = frozenset(
    {
        *(b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto"),
        *(b"x-amzn-trace-id", b"x-amzn-tls-cipher-suite", b"x-amzn-tls-version"),
    }
)
"""Set by the front, about its own connection: the caller did not send them, so no provider gets them."""
_OF_THE_SIGNATURE: Final = frozenset({b"x-amz-date", b"x-amz-security-token", b"x-amz-content-sha256"})
_SIGNED: Final = b"AWS4-"
_URL_SAFE: Final = string.punctuation.replace("%", "") + "%"
_METHODS: Final = frozenset(string.ascii_uppercase)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class NotHttp(Exception):
    """The event is no HTTP request of a front that streams. `message` is a fixed sentence of ours."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


_NO_EVENT: Final = "The event is not JSON as a Function URL or an API Gateway REST proxy sends it."
_OTHER_EVENT: Final = (
    "This function answers HTTP requests of a Function URL or an API Gateway REST proxy, streamed. "
    "Queues, schedules and tests belong to the functions of handlers.aws_lambda."
)
_ALB_EVENT: Final = "An ALB cannot stream from Lambda. Its events belong to the function of handlers.aws_lambda."


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    scope: dict[str, Any] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    multi_value: bool = False
    """Whether the front takes repeated fields of the answer (`multiValueHeaders`) rather than cookies apart."""
    refused: StewardError | None = None
    """Our listener would not have let it through."""
    body_fault: CallerFault | None = None
    """What the call meets in place of its body."""


def read_event(octets: bytes) -> Asked:
    """The request that an event is. Raises NotHttp."""
    event = _parsed(octets)
    context = event.get("requestContext")
    context = context if isinstance(context, dict) else {}
    if "elb" in context:
        raise NotHttp(_ALB_EVENT)
    http = context.get("http")
    try:
        if event.get("version") == "2.0" and isinstance(http, dict):
            asked = _function_url(event, context, http)
        elif isinstance(event.get("httpMethod"), str) and context:
            asked = _rest_proxy(event, context)
        else:
            raise NotHttp(_OTHER_EVENT)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise NotHttp(_NO_EVENT) from None
    body, fault = (b"", TooLarge()) if len(octets) > REQUEST_MAX_BYTES else _body(event)
    headers: Headers = asked["headers"]
    declared = dict(headers).get(b"content-length")
    if body and declared is None and b"transfer-encoding" not in dict(headers):
        headers.append((b"content-length", b"%d" % len(body)))
    elif fault is None and declared is not None and declared.isdigit() and int(declared[:18]) != len(body):
        fault = BadRequest("The Content-Length header is not the body's.")
    return Asked(asked, body, "httpMethod" in event, _gate(asked), fault)


def _parsed(octets: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(octets)
    except orjson.JSONDecodeError:
        raise NotHttp(_NO_EVENT) from None
    if not isinstance(event, dict):
        raise NotHttp(_OTHER_EVENT)
    return event


def _function_url(event: Mapping[str, Any], context: Mapping[str, Any], http: Mapping[str, Any]) -> dict[str, Any]:
    headers = [(_octets(name.lower()), _octets(value)) for name, value in (event.get("headers") or {}).items()]
    if cookies := event.get("cookies"):
        headers = [item for item in headers if item[0] != b"cookie"]
        headers.append((b"cookie", b"; ".join(map(_octets, cookies))))
    signed = isinstance(context.get("authorizer"), dict) and bool(context["authorizer"].get("iam"))
    path, query = _octets(event["rawPath"]), _octets(event.get("rawQueryString") or "")
    return _scope(http["method"], (path, query), _callers(headers, signed), http.get("sourceIp"))


def _rest_proxy(event: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    many = event.get("multiValueHeaders")
    if many is None:
        many = {name: [value] for name, value in (event.get("headers") or {}).items()}
    headers = [(_octets(name.lower()), _octets(value)) for name, values in many.items() for value in values]
    identity = context.get("identity") or {}
    queries = event.get("multiValueQueryStringParameters")
    if queries is None:
        queries = {name: [value] for name, value in (event.get("queryStringParameters") or {}).items()}
    pairs = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, values in queries.items() for value in values]
    target = quote(event["path"], safe=_URL_SAFE).encode("ascii"), "&".join(pairs).encode("ascii")
    return _scope(
        event["httpMethod"], target, _callers(headers, bool(identity.get("userArn"))), identity.get("sourceIp")
    )


def _callers(headers: Headers, signed: bool) -> Headers:
    """Without what the front has set; `signed`: and without the signature that it has checked, which is for it alone.

    A signature stands where OpenAI's key would. The session token beside it is half a credential of the caller's.
    """
    kept = [item for item in headers if item[0] not in _OF_THE_FRONT]
    if not signed:
        return kept
    return [
        (name, value)
        for name, value in kept
        if name not in _OF_THE_SIGNATURE and not (name == b"authorization" and value.startswith(_SIGNED))
    ]


def _scope(method: str, target: tuple[bytes, bytes], headers: Headers, address: object) -> dict[str, Any]:
    path, query = target
    if not method or not _METHODS.issuperset(method):
        raise ValueError
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": None,
        "client": (address, 0) if isinstance(address, str) else None,
        "scheme": "https",
        "method": method,
        "root_path": "",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "state": {},
        "extensions": {},
    }


def _octets(text: str) -> bytes:
    """As the front read them: octet for character, or UTF-8 where that is not possible."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _body(event: Mapping[str, Any]) -> tuple[bytes, CallerFault | None]:
    body = event.get("body")
    if body is None:
        return b"", None
    if not isinstance(body, str):
        return b"", BadRequest()
    if not event.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass"), None
    try:
        return base64.b64decode(body, validate=True), None
    except (binascii.Error, ValueError):
        return b"", BadRequest("The event's body is not the base64 that it says.")


def _gate(scope: Mapping[str, Any]) -> StewardError | None:
    """What our listener, and the gate behind it, would say against the head."""
    headers: Headers = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) + 4 for n, v in headers)
    if len(headers) > HEAD_FIELDS or size > HEAD_BYTES:
        return HeadTooLarge()
    if any(_CONTROL.search(value) for _, value in headers):
        return BadRequest()
    try:
        read_caller_head(headers)
    except StewardError as refused:
        return refused
    named = dict(headers)
    upgrades = b"upgrade" in named and b"upgrade" in named.get(b"connection", b"").lower()
    return Unsupported() if upgrades else None
