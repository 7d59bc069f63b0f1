"""What holds a request's head together, and its body to it: bounds, transfer codings, the one length (SECURITY F9).

A front took the body out of its frame before we saw it. What the container's listener refuses of a head is refused
here, in the same way. It knows no front and no event.
"""

from __future__ import annotations

import re
from typing import Final

from steward.errors import BadRequest, HeadTooLarge, Unsupported
from steward.exchange import Headers

HEAD_BYTES: Final = 64 * 1024
HEAD_FIELDS: Final = 128
"""The listener's bounds."""

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NO_LENGTH: Final = -1
_OF_THE_FRAME: Final = frozenset({b"content-length", b"transfer-encoding", b"expect"})


def check(method: str, target: bytes, headers: Headers) -> None:
    """Everything that the listener and its parser refuse of a head, before the gate sees it. `target`: path and query.

    Raises HeadTooLarge, BadRequest, Unsupported.
    """
    if len(headers) > HEAD_FIELDS:
        raise HeadTooLarge
    size = len(method) + len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > HEAD_BYTES:
        raise HeadTooLarge
    if any(_CONTROL.search(value) for _, value in headers) or _CONTROL.search(target):
        raise BadRequest
    named = dict(headers)
    if b"upgrade" in named and b"upgrade" in _listed(headers, b"connection"):
        raise Unsupported
    if b"transfer-encoding" in named:
        codings = _listed(headers, b"transfer-encoding")
        if codings.count(b"chunked") > 1:
            raise BadRequest("The Transfer-Encoding header occurs more than once.")
        if codings != [b"chunked"]:
            raise Unsupported
        if b"content-length" in named:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")


def _listed(headers: Headers, wanted: bytes) -> list[bytes]:
    return [word.strip().lower() for name, value in headers if name == wanted for word in value.split(b",")]


def framed(headers: Headers, body: bytes) -> Headers:
    """The fields with the length that the body has. Raises BadRequest for a length that it does not have.

    Chunks are gone, and what a length says of the body must be so, or the provider would take one message for two.
    """
    length = _length(headers)
    if length not in {None, _NO_LENGTH, len(body)}:
        raise BadRequest("The Content-Length header is not the body's.")
    if length is not None:
        return headers
    left = [item for item in headers if item[0] != b"transfer-encoding"]
    if body or len(left) != len(headers):
        left.append((b"content-length", b"%d" % len(body)))
    return left


def bodiless(headers: Headers) -> Headers:
    """The fields of a call whose body cannot be had, with a length all the same: it is asked for, and meets why not."""
    if _length(headers) == _NO_LENGTH:
        return headers  # the gate has it to refuse
    return [*(item for item in headers if item[0] not in _OF_THE_FRAME), (b"content-length", b"1")]


def _length(headers: Headers) -> int | None:
    """Of the body, as the head has it; None when it says none, `_NO_LENGTH` for what the gate will refuse."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if not lengths:
        return None
    valid = len(lengths) == 1 and lengths[0].isdigit() and len(lengths[0]) <= 18
    return int(lengths[0]) if valid else _NO_LENGTH
