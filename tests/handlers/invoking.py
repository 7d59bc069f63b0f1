"""Events as Lambda hands them over, written out, and what stands beside them. Asserts nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEY = "mdm_sk_lambda_0123456789abcdef"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
HEADERS = {
    "Host": "steward.internal",
    "content-type": "application/json",
    "authorization": "Bearer sk-test",
    "X-Majordomo-Key": KEY,
    "X-Forwarded-For": "203.0.113.9, 10.0.0.7",
    "X-Forwarded-Port": "443",
    "X-Forwarded-Proto": "https",
}


@dataclass
class Context:
    """Of one invocation."""

    aws_request_id: str = "8f1c0a52-1d1c-4a0e-9a2e-000000000001"
    function_name: str = "steward"
    left_ms: int = 60_000

    def get_remaining_time_in_millis(self) -> int:
        return self.left_ms


def alb(
    body: object = CHAT,
    path: str = "/v1/chat/completions",
    headers: Mapping[str, Any] = HEADERS,
    query: Mapping[str, Any] | None = None,
    method: str = "POST",
    many: bool = True,
) -> dict[str, Any]:
    """A load balancer's; `many`: its target group has multi-value headers on."""
    group = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/steward/49e9d65c45c6791a"
    event: dict[str, Any] = {"requestContext": {"elb": {"targetGroupArn": group}}, "httpMethod": method, "path": path}
    if many:
        event["multiValueHeaders"] = {name: _many(value) for name, value in headers.items()}
        event["multiValueQueryStringParameters"] = {name: _many(value) for name, value in (query or {}).items()}
    else:
        event["headers"] = dict(headers)
        event["queryStringParameters"] = dict(query or {})
    return {**event, **_body(body)}


def url(
    body: object = CHAT,
    path: str = "/v1/chat/completions",
    headers: Mapping[str, Any] = HEADERS,
    query: str = "",
    method: str = "POST",
) -> dict[str, Any]:
    """A Function URL's, payload version 2.0."""
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.9", "userAgent": "tests"}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {name.lower(): value for name, value in headers.items()},
        "requestContext": {"accountId": "anonymous", "domainName": "x.lambda-url.eu-central-1.on.aws", "http": http},
        **_body(body),
    }


def rest(
    body: object = CHAT, path: str = "/v1/chat/completions", query: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """API Gateway's, a REST API with the Lambda proxy: its query is decoded."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "POST",
        "headers": dict(HEADERS),
        "multiValueHeaders": {name: [value] for name, value in HEADERS.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": query,
        "requestContext": {"stage": "prod", "identity": {"sourceIp": "203.0.113.9"}},
        **_body(body),
    }


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _body(body: object) -> dict[str, Any]:
    if isinstance(body, bytes):
        return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    return {"body": body if isinstance(body, str) else json.dumps(body), "isBase64Encoded": False}


def octets(answer: Mapping[str, Any]) -> bytes:
    """The answer's body."""
    return base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else str(answer["body"]).encode()


def field(answer: Mapping[str, Any], name: str) -> str | None:
    """The answer's header, its first value."""
    if "multiValueHeaders" in answer and name in answer["multiValueHeaders"]:
        return str(answer["multiValueHeaders"][name][0])
    value = (answer.get("headers") or {}).get(name)
    return None if value is None else str(value)
