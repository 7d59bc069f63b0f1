"""Events as the fronts that stream write them: a Function URL (payload 2.0) and API Gateway's REST proxy (1.0).

Made of a raw request, with the fields that these fronts add. Asserts nothing.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qsl

from tests.servers.plain_http import Fields

ADDRESS = "203.0.113.9"
HOST = "abc.lambda-url.eu-central-1.on.aws"
_ADDED = {
    "x-amzn-trace-id": "Root=1-5f84c7a9-1",
    "x-forwarded-for": ADDRESS,
    "x-forwarded-port": "443",
    "x-forwarded-proto": "https",
    "x-amzn-tls-cipher-suite": "TLS_AES_128_GCM_SHA256",
    "x-amzn-tls-version": "TLSv1.3",
}


def function_url(
    method: str, target: str, sent: Fields | None = None, body: bytes = b"", signed: bool = False
) -> dict[str, Any]:
    """Names in lower case, repeated fields folded, path and query raw, the body in base64."""
    headers: dict[str, str] = {"host": HOST}
    cookies: list[str] = []
    for name, value in _sent(method, sent, body):
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key == "cookie":
            cookies += text.split("; ")
        else:
            headers[key] = f"{headers[key]},{text}" if key in headers and key != "host" else text
    path, _, query = target.partition("?")
    context: dict[str, Any] = {
        "accountId": "anonymous",
        "apiId": "abc",
        "domainName": HOST,
        "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": ADDRESS, "userAgent": "x"},
        "requestId": "11111111-1111-4111-8111-111111111111",
        "routeKey": "$default",
        "stage": "$default",
        "time": "12/Mar/2026:19:03:58 +0000",
        "timeEpoch": 1583348638390,
    }
    if signed:
        context["authorizer"] = {"iam": {"accessKey": "A", "userArn": "arn:aws:iam::1:user/x"}}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers | _ADDED,
        "requestContext": context,
        "isBase64Encoded": bool(body),
    }
    if cookies:
        event["cookies"] = cookies
    if body:
        event["body"] = base64.b64encode(body).decode()
    return event


def rest_proxy(
    method: str, target: str, sent: Fields | None = None, body: bytes = b"", signed: bool = False
) -> dict[str, Any]:
    """Names as they were spelled, repeats in lists, the query decoded, the body in base64."""
    many: dict[str, list[str]] = {"Host": []}
    for name, value in _sent(method, sent, body):
        many.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    many["Host"] = many["Host"] or ["abc.execute-api.eu-central-1.amazonaws.com"]
    many |= {name: [value] for name, value in _ADDED.items()}
    path, _, query = target.partition("?")
    queries: dict[str, list[str]] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        queries.setdefault(key, []).append(text)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {name: values[-1] for name, values in many.items()},
        "multiValueHeaders": many,
        "queryStringParameters": {name: values[-1] for name, values in queries.items()} or None,
        "multiValueQueryStringParameters": queries or None,
        "pathParameters": {"proxy": path[1:]},
        "stageVariables": None,
        "requestContext": {
            "stage": "prod",
            "protocol": "HTTP/1.1",
            "httpMethod": method,
            "identity": {"sourceIp": ADDRESS, "userArn": "arn:aws:iam::1:user/x" if signed else None},
            "responseTransferMode": "STREAM",
        },
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


def _sent(method: str, sent: Fields | None, body: bytes) -> Fields:
    """With the length that every client says."""
    given = list(sent or [])
    names = {name.lower() for name, _ in given}
    if (body or method == "POST") and not names & {b"content-length", b"transfer-encoding"}:
        given.append((b"Content-Length", b"%d" % len(body)))
    return given
