"""What stands before a function at AWS: a request as the event each makes of it, and an answer as its caller gets it.

Each keeps to what AWS writes of it: what it adds, joins and cannot carry. It refuses answers that the real one would
not understand.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import unquote_plus

import orjson

from tests.servers.lambda_sandbox import Answered
from tests.servers.plain_http import Fields, Head, Message, Request

ALB_MAX_BYTES = 1024 * 1024
HOST = b"steward.internal.example"
CALLER = b"10.0.3.7"
ADDED: Fields = [
    (b"x-amzn-trace-id", b"Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700"),
    (b"x-forwarded-for", CALLER),
    (b"x-forwarded-port", b"443"),
    (b"x-forwarded-proto", b"https"),
]
"""By every front, of itself."""
ADDED_NAMES = {name for name, _ in ADDED}
TEXT = (b"text/", b"application/json", b"application/javascript", b"application/xml")


class Front(Protocol):
    """One of them."""

    def event(self, request: Request, fields: Fields) -> dict[str, Any]:
        """What the function is handed: the request under these fields, which `fields_of` has of a good one."""

    def message(self, answer: Any) -> Message:
        """What the caller gets of a whole answer."""


def fields_of(request: Request) -> Fields:
    """As the front reads them off the wire: with a host and a length, names in lower case; then what it adds."""
    fields = [(name.lower(), value) for name, value in request.fields]
    names = {name for name, _ in fields}
    if b"host" not in names:
        fields.insert(0, (b"host", HOST))
    if request.body and b"content-length" not in names:
        fields.append((b"content-length", b"%d" % len(request.body)))
    return fields + ADDED


def _grouped(fields: Fields) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in fields:
        grouped.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return grouped


def _queries(target: bytes) -> dict[str, list[str]]:
    """By key, neither decoded."""
    grouped: dict[str, list[str]] = {}
    for pair in filter(None, target.partition(b"?")[2].decode("latin-1").split("&")):
        key, _, value = pair.partition("=")
        grouped.setdefault(key, []).append(value)
    return grouped


def _path(target: bytes) -> str:
    return target.partition(b"?")[0].decode("latin-1")


def _body(request: Request) -> dict[str, Any]:
    """Text where its type says so and no coding hides it; else base64."""
    known = {name.lower(): value for name, value in request.fields}
    text = known.get(b"content-type", b"application/json").startswith(TEXT) and b"content-encoding" not in known
    try:
        if text:
            return {"body": request.body.decode(), "isBase64Encoded": False}
    except UnicodeDecodeError:
        pass
    return {"body": base64.b64encode(request.body).decode(), "isBase64Encoded": True}


def _octets(answer: dict[str, Any]) -> bytes:
    body = answer.get("body") or ""
    return base64.b64decode(body, validate=True) if answer.get("isBase64Encoded") else body.encode()


def _message(status: int, fields: Fields, body: bytes) -> Message:
    """On the wire again: the length is the front's own."""
    kept = [each for each in fields if each[0].lower() != b"content-length"]
    return Message(Head(b"HTTP/1.1 %d Said" % status, [*kept, (b"Content-Length", b"%d" % len(body))]), body)


def _told(headers: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in headers.items():
        assert isinstance(value, str), f"{name}: a front takes text alone"
        yield name.encode("latin-1"), value.encode("latin-1")


class Alb:
    """An Application Load Balancer; `multi` is the target group's `lambda.multi_value_headers.enabled`."""

    def __init__(self, multi: bool = True) -> None:
        self.multi = multi

    def event(self, request: Request, fields: Fields) -> dict[str, Any]:
        headers, queries = _grouped(fields), _queries(request.target)
        group = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:targetgroup/steward/0123456789abcdef"
        several: dict[str, Any] = {"multiValueQueryStringParameters": queries, "multiValueHeaders": headers}
        single: dict[str, Any] = {
            "queryStringParameters": {key: values[-1] for key, values in queries.items()},
            "headers": {name: values[-1] for name, values in headers.items()},
        }
        return {
            "requestContext": {"elb": {"targetGroupArn": group}},
            "httpMethod": request.method.decode("latin-1"),
            "path": _path(request.target),
            **(several if self.multi else single),
            **_body(request),
        }

    def message(self, answer: Any) -> Message:
        """A 502 of its own for what it cannot carry."""
        if len(orjson.dumps(answer)) > ALB_MAX_BYTES:
            return _message(502, [(b"Server", b"awselb/2.0")], b"")
        if self.multi:
            told = answer["multiValueHeaders"].items()
            fields = [pair for name, values in told for value in values for pair in _told({name: value})]
        else:
            fields = list(_told(answer["headers"]))
        return _message(int(answer["statusCode"]), fields, _octets(answer))


class FunctionUrl:
    """A Function URL: payload version 2.0, repeats joined by commas, cookies apart."""

    def event(self, request: Request, fields: Fields) -> dict[str, Any]:
        grouped = _grouped(fields)
        cookies = [each for line in grouped.pop("cookie", []) for each in line.split("; ")]
        path = _path(request.target)
        http = {"method": request.method.decode("latin-1"), "path": path, "protocol": "HTTP/1.1"}
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": request.target.partition(b"?")[2].decode("latin-1"),
            "headers": {name: ",".join(values) for name, values in grouped.items()},
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "abcdefghijklmnopqrstuvwxyz012345",
                "domainName": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-central-1.on.aws",
                "http": {**http, "sourceIp": CALLER.decode(), "userAgent": "plain/1"},
                "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
                "routeKey": "$default",
                "stage": "$default",
                "time": "21/Nov/2026:08:00:00 +0000",
                "timeEpoch": 1795248000000,
            },
            "isBase64Encoded": False,
        }
        if queries := _queries(request.target):
            event["queryStringParameters"] = {
                unquote_plus(key): ",".join(map(unquote_plus, values)) for key, values in queries.items()
            }
        if cookies:
            event["cookies"] = cookies
        return event | (_body(request) if request.body else {})

    def message(self, answer: Any) -> Message:
        cookies = [(b"set-cookie", each.encode("latin-1")) for each in answer.get("cookies", [])]
        return _message(int(answer["statusCode"]), [*_told(answer["headers"]), *cookies], _octets(answer))


class StreamingUrl(FunctionUrl):
    """The same in the mode RESPONSE_STREAM."""

    def message(self, answer: Answered) -> Message:
        """What the caller has in the end."""
        prelude = answer.prelude()
        fields = [*_told(prelude.get("headers", {}))]
        fields += [(b"set-cookie", each.encode("latin-1")) for each in prelude.get("cookies", [])]
        return _message(int(prelude["statusCode"]), fields, answer.streamed())


def joined(fields: Fields) -> Fields:
    """Repeats as one line, however its commas are spaced, sorted by name; cookies stay apart."""
    grouped: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        grouped.setdefault(name, []).append(value)
    apart = [(b"set-cookie", value) for value in grouped.pop(b"set-cookie", [])]
    spelled = ((name, b",".join(values).replace(b", ", b",")) for name, values in grouped.items())
    return sorted([*spelled, *apart])


def by_name(fields: Fields) -> Fields:
    """Sorted by name, repeats in their order: all that an event with lists of values can keep."""
    return sorted(fields, key=lambda each: each[0])
