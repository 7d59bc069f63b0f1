"""A whole answer, as the front of a Lambda function wants it back: Mangum's spelling, our choice of what goes as text.

For the handler that answers whole. The streaming runtime writes a prelude of its own, and never imports this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mangum.handlers.alb import ALB
from mangum.handlers.api_gateway import APIGateway, HTTPGateway
from mangum.types import LambdaConfig

from handlers.aws_events import ALB_FRONT, URL_FRONT, Front
from steward.exchange import Headers

TEXT_TYPES = [
    *("text/", "application/json", "application/javascript", "application/xml", "application/vnd.api+json"),
    *("application/x-ndjson", "application/ndjson", "application/jsonl", "application/problem+json"),
]
"""Content types that go as they are; all else, and what is compressed or no UTF-8, as base64: a third more."""

_AS_TEXT = LambdaConfig(api_gateway_base_path="", text_mime_types=TEXT_TYPES, exclude_headers=[])
_AS_BASE64 = LambdaConfig(api_gateway_base_path="", text_mime_types=[], exclude_headers=[])


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


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
