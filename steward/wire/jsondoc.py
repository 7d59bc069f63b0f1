"""JSON documents of strangers, parsed within bounds of size, depth and memory.

It refuses more than 16 MiB, more than 128 levels, and what would grow beyond 48 MiB of objects; it never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import orjson

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 128
MAX_OBJECT_BYTES = 48 * 1024 * 1024
"""What the parsed objects may weigh, by a rough count of what the text opens and separates."""

_SMALL_BYTES = 1024 * 1024
"""Below this no document can weigh too much."""
_TEXT_BYTES = 4 * 1024 * 1024
"""As much is decoded to text first: one emoji makes four octets of each character."""
_DICT_BYTES, _LIST_BYTES, _ITEM_BYTES, _STRING_BYTES = 200, 72, 32, 50

_NUMBERS = re.compile(rb"\[[-+0-9.eE,\s]{64,}+\]")
"""A long array of nothing but numbers, as embeddings are. One within a string may go as well: nobody reads it."""
_STRINGS = re.compile(rb'"[^"]*"?')
"""A string, once escapes are gone: up to its closing quote, or to where the text was cut."""
_BETWEEN = re.compile(r"[\s,]*")
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(octet for octet in range(256) if octet not in b"{}[]")


def parse(document: bytes) -> object:
    """The value, or None when it is no JSON or beyond a bound. Numbers beyond a double become infinite."""
    if len(document) > MAX_DOCUMENT_BYTES:
        return None
    document = document.removeprefix(b"\xef\xbb\xbf")
    if len(document) > _SMALL_BYTES:
        document = _NUMBERS.sub(b"[]", document)
        if _weight(document) > MAX_OBJECT_BYTES:
            return None
    if _too_deep(document):
        return None
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return _lenient(document)


def elements(document: bytes) -> Iterator[object]:
    """The complete elements of a JSON array that was cut short, within the bounds of `parse`."""
    if len(document) > _TEXT_BYTES or _weight(document) > MAX_OBJECT_BYTES or _too_deep(document):
        return
    text = document.decode("utf-8", "replace")
    at = text.find("[") + 1
    decoder = json.JSONDecoder(strict=False)
    while at:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield value


def _weight(document: bytes) -> int:
    """Octets the parsed objects may take, roughly. Names of members weigh nothing: they are few, and shared."""
    quotes = document.count(b'"') - document.count(b'\\"')
    strings = max(0, quotes // 2 - document.count(b'":'))
    return (
        _DICT_BYTES * document.count(b"{")
        + _LIST_BYTES * document.count(b"[")
        + _ITEM_BYTES * document.count(b",")
        + _STRING_BYTES * strings
    )


def _too_deep(document: bytes) -> bool:
    """Whether brackets nest beyond the bound. Brackets within strings do not count."""
    if document.count(b"[") + document.count(b"{") <= MAX_DEPTH:
        return False
    bare = document.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = _STRINGS.sub(b"", bare).translate(_TO_SQUARE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if b"[" * (MAX_DEPTH + 1) in brackets:
            return True
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            return False
        brackets = shorter
    return b"[" in brackets


def _lenient(document: bytes) -> object:
    """What orjson refuses and others send: lone surrogates, broken UTF-8, bare NUL, NaN, numbers beyond a double."""
    if len(document) > _TEXT_BYTES:
        return None
    try:
        value: object = json.loads(document.decode("utf-8", "replace"), strict=False)
    except ValueError:
        return None
    return value
