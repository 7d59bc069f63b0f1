"""Path and query of an event, as a caller sent them or as near as its front lets us come. It knows no headers, no body.

A load balancer and a Function URL say both as they were sent. API Gateway may decode the path; it decodes the query and
forgets the order of different names: it is written anew from what it says, so `%20` and `+` become one spelling.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from steward.errors import BadRequest

_REST_SAFE: Final = string.punctuation.replace("%", "") + "%"


def octets(value: object) -> bytes:
    """Text as it crossed the wire. Raises BadRequest for what is no text, or beyond latin-1: no octet says it."""
    if value is None:
        return b""
    if not isinstance(value, str):
        raise BadRequest
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise BadRequest("The request's target or a header holds a character that no octet stands for.") from None


def raw_path(given: object, may_be_decoded: bool = False) -> bytes:
    """As the listener has it: of an absolute target only the path, nothing decoded. Raises BadRequest.

    Of a path that may be decoded, what no path may hold is encoded again.
    """
    target = _encoded(given) if may_be_decoded and isinstance(given, str) else octets(given)
    if target.startswith(b"/"):
        return target
    _, found, rest = target.partition(b"://")
    if not found:
        return target or b"/"
    path = rest[len(rest.partition(b"/")[0].partition(b"?")[0]) :]
    return path if path.startswith(b"/") else b"/" + path


def _encoded(path: str) -> bytes:
    try:
        return quote(path, safe=_REST_SAFE).encode("ascii")
    except UnicodeEncodeError:
        raise BadRequest from None


def joined_query(event: Mapping[str, Any], decoded: bool) -> bytes:
    """The query, joined of what the front took apart. A load balancer leaves it as sent, API Gateway does not.

    Raises BadRequest.
    """
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
        return octets(f"{name}={value}")
    try:
        return f"{quote(name, safe='')}={quote(value, safe='')}".encode("ascii")
    except UnicodeEncodeError:
        raise BadRequest from None
