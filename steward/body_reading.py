"""Reads a body object back: octets of the store in, the two sides of a call out. Pure.

Refuses an object whose SHA-256 is not the row's before a single octet of it is unpacked, and to unpack more than 64
MiB of it (SECURITY F5). What is in it is a stranger's: it is laid out within the bounds of `wire/jsondoc.py`, or not.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from steward.errors import BodyTooLarge, BodyUnreadable, NotTheObject
from steward.wire import jsondoc

MAX_OBJECT_BYTES: Final = 64 << 20
"""Of the object as it is stored, and of what it unpacks to."""
_STEP: Final = 256 << 10
_MAX_FIELDS: Final = 200
_FACTS: Final = ("method", "path", "status_code", "body_encoding", "content_encoding", "truncated")


@dataclass(frozen=True, slots=True)
class Side:
    """One message of a call, as the object tells it."""

    facts: tuple[tuple[str, str], ...]
    """What is said of it: method, path, status, how the body is written."""
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    encoding: str
    """json, text or base64."""
    body: object = field(repr=False)

    def text(self) -> str:
        """The body to be read: JSON with indents, text as it is, base64 as it is."""
        if isinstance(self.body, str) and self.encoding != "json":
            return clean(self.body)
        return clean(json.dumps(self.body, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Reading:
    """A call's object, laid out."""

    request: Side
    response: Side


def unpacked(stored: bytes, sha256: str | None) -> bytes:
    """The JSON document in a stored object. Raises NotTheObject, BodyTooLarge, BodyUnreadable."""
    if len(stored) > MAX_OBJECT_BYTES:
        raise BodyTooLarge
    if sha256 is None or not hmac.compare_digest(hashlib.sha256(stored).hexdigest().encode(), sha256.encode()):
        raise NotTheObject
    document = bytearray()
    for piece in _inflated(stored):
        document += piece
        if len(document) > MAX_OBJECT_BYTES:
            raise BodyTooLarge
    return bytes(document)


def _inflated(stored: bytes) -> Iterator[bytes]:
    """One gzip member and nothing behind it, in steps."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    waiting = stored
    try:
        while not inflater.eof:
            piece = inflater.decompress(waiting, _STEP)
            waiting = inflater.unconsumed_tail
            if not piece and not inflater.eof:
                raise BodyUnreadable
            yield piece
    except zlib.error:
        raise BodyUnreadable from None
    if inflater.unused_data:
        raise BodyUnreadable


def laid_out(document: bytes) -> Reading | None:
    """The two sides; None for what is too large or too deep to be laid out. Raises BodyUnreadable: it is none of ours.

    Above 1 MiB, long arrays of nothing but numbers are read as empty ones.
    """
    value = jsondoc.parse(document)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BodyUnreadable
    return Reading(_side(value.get("request")), _side(value.get("response")))


def clean(text: str) -> str:
    """Lone surrogates become U+FFFD: UTF-8 has no way to write them."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _side(said: object) -> Side:
    if not isinstance(said, dict):
        raise BodyUnreadable
    encoding = said.get("body_encoding")
    return Side(
        facts=tuple((name, _word(said[name])) for name in _FACTS if said.get(name) is not None),
        query=_fields(said.get("query")),
        headers=_fields(said.get("headers")),
        encoding=encoding if encoding in ("json", "text", "base64") else "json",
        body=said.get("body"),
    )


def _fields(said: object) -> tuple[tuple[str, str], ...]:
    """Names and values; a name that repeats has a list of values."""
    found: list[tuple[str, str]] = []
    for name, value in said.items() if isinstance(said, dict) else ():
        found += [(clean(str(name)), _word(each)) for each in (value if isinstance(value, list) else [value])]
    return tuple(found[:_MAX_FIELDS])


def _word(value: object) -> str:
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
