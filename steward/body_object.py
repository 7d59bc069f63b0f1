"""Writes the bucket document of a call, as a stream: both sides' bodies in one gzip JSON object.

It decides nothing about where the object goes, asks no clock, and never holds a large body whole in memory.
"""

from __future__ import annotations

import binascii
import codecs
import hashlib
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

import orjson

from steward.exchange import Body, Exchange, Headers, Outcome
from steward.wire.encoding import Undecodable, codings, decoded

SPILL_BYTES: Final = 1 << 20
"""An object larger than this goes to an unlinked temporary file."""

SPLICE_BYTES: Final = 8 << 20
"""A JSON body up to this size is validated whole and spliced in; a larger one is written as a string."""

SPLICE_COST_BYTES: Final = 96 << 20
"""A JSON body whose validation might take more memory than this is written as a string, too."""

PIECE_BYTES: Final = 192 << 10
"""How much of a body is in hand at a time."""

_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_OBJECT_KEY: Final = re.compile(
    r"(?P<key>[0-9a-f-]{36})/(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})/(?P<id>[0-9a-f-]{36})\.json\.gz"
)
_PREFIX: Final = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f]+(?:/[^/\\\x00-\x1f\x7f-\x9f]+)*")


@dataclass(slots=True)
class BodyObject:
    """One object ready to be stored: its octets, or an unlinked file of them, and their SHA-256 in hex."""

    source: bytes | BinaryIO = field(repr=False)
    sha256: str
    size_bytes: int

    def close(self) -> None:
        """Gives the file back, if there is one. Safe to call twice."""
        if not isinstance(self.source, bytes):
            self.source.close()


def object_key(exchange: Exchange) -> str:
    """`{api_key_id}/{YYYY-MM-DD}/{request_id}.json.gz`; the day is that of `requested_at` in UTC."""
    day = exchange.requested_at.astimezone(UTC).date().isoformat()
    return f"{exchange.caller.key_id}/{day}/{exchange.id}.json.gz"


class KeyFacts(NamedTuple):
    """What an object's key says of its call."""

    day: date
    id: UUID


def key_facts(key: str) -> KeyFacts | None:
    """What `object_key` put into a key; None when it did not make it."""
    matched = _OBJECT_KEY.fullmatch(key)
    if matched is None:
        return None
    try:
        UUID(matched["key"])
        return KeyFacts(date.fromisoformat(matched["day"]), UUID(matched["id"]))
    except ValueError:
        return None


def place(prefix: str, key: str) -> str:
    """The key below the prefix, which may be empty. Every store asks this before it touches anything.

    Raises ValueError for a key that is not plain parts joined by `/`, and for a prefix with `.`, `..`, empty parts,
    backslashes or control characters.
    """
    if not _KEY.fullmatch(key) or len(key) > 512:
        raise ValueError("a body object's key is plain parts joined by slashes")
    if not prefix:
        return key
    if not _PREFIX.fullmatch(prefix) or not {".", ".."}.isdisjoint(prefix.split("/")) or len(prefix) > 256:
        raise ValueError("a store's prefix is parts joined by slashes, without dots and control characters")
    return f"{prefix}/{key}"


def build(exchange: Exchange, folder: str | None = None) -> BodyObject:
    """The object of one exchange: gzip, level 1, without a time of its own; the same exchange gives the same octets.

    Above `SPILL_BYTES` it is an unlinked file in `folder` (None: the system's temporary folder), standing at its
    start. The exchange's own files are read and left open. Raises OSError when the folder cannot take it.
    """
    sink = _Sink(folder)
    try:
        for piece in _document(exchange):
            sink.write(piece)
        return sink.finish()
    except BaseException:
        sink.discard()
        raise


class _Sink:
    """Gzip and SHA-256 of what is written; in memory up to `SPILL_BYTES`, then in a file."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        # Memory level 7: setting up the tables of the usual 8 costs about as much as compressing an ordinary call.
        self._gzip = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 7)
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, piece: bytes) -> None:
        self._keep(self._gzip.compress(piece))

    def finish(self) -> BodyObject:
        self._keep(self._gzip.flush())
        source: bytes | BinaryIO = bytes(self._held)
        if self._file is not None:
            self._file.seek(0)
            source = self._file
        return BodyObject(source, self._hash.hexdigest(), self._size)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()

    def _keep(self, octets: bytes) -> None:
        if not octets:
            return
        self._hash.update(octets)
        self._size += len(octets)
        if self._file is not None:
            self._file.write(octets)
            return
        self._held += octets
        if self._size > SPILL_BYTES:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - the BodyObject closes it
            self._file.write(self._held)
            self._held.clear()


class _Side(NamedTuple):
    """One captured body and how it will be written: found out in a first look through it."""

    body: Body
    encoding: str
    """json | text | base64"""
    truncated: bool
    whole: bytes | None = None
    """The decoded body, where it is small enough to be held."""
    codings: Sequence[bytes] = ()
    """The content codings to take off while it is written."""
    kept_coding: str | None = None
    """Named when they do not come off: the body is stored as it was on the wire."""

    def notes(self) -> dict[str, object]:
        said: dict[str, object] = {"body_encoding": self.encoding}
        if self.kept_coding is not None:
            said["content_encoding"] = self.kept_coding
        if self.truncated:
            said["truncated"] = True
        return said


def _document(exchange: Exchange) -> Iterator[bytes]:
    """The JSON document in pieces. What describes a body stands before it, so that a reader can stream too."""
    cut = exchange.outcome is not Outcome.COMPLETE
    request = _look(exchange.request, exchange.request_headers, cut)
    response = _look(exchange.response, exchange.response_headers, cut)
    time = exchange.requested_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    said = {
        "method": _clean(exchange.method),
        "path": quote(exchange.route.path.partition(b"?")[0], safe=_VISIBLE),
        "query": _fields((_clean(name), _clean(value)) for name, value in exchange.query),
        "headers": _fields(_texts(exchange.request_headers)),
        **request.notes(),
    }
    answered = {
        "status_code": exchange.status,
        "headers": _fields(_texts(exchange.response_headers)),
        **response.notes(),
    }
    yield b'{"request_id":"%s","timestamp":"%s","request":' % (str(exchange.id).encode(), time.encode())
    yield from _with_body(said, request)
    yield b',"response":'
    yield from _with_body(answered, response)
    yield b"}"


def _with_body(said: dict[str, object], side: _Side) -> Iterator[bytes]:
    """A JSON object of what is said, with the body as its last member."""
    yield orjson.dumps(said)[:-1] + b',"body":'
    if side.encoding == "json" and side.whole is not None:
        yield side.whole
    else:
        write = _as_text if side.encoding == "text" else _as_base64
        yield b'"'
        yield from write(decoded(_pieces(side.body), side.codings) if side.whole is None else _cuts(side.whole))
        yield b'"'
    yield b"}"


def _look(body: Body, headers: Headers, cut: bool) -> _Side:
    """A first look through a body: does its coding come off, is it text, is it JSON that can be spliced in?

    `cut`: it may end anywhere, so half a character at its end does not make it other than text.
    """
    fields = [value for name, value in headers if name == b"content-encoding"]
    try:
        applied = codings(fields)
        whole, text, halved = _read(decoded(_pieces(body), applied))
    except Undecodable:
        kept = b", ".join(fields).decode("latin-1")
        return _Side(body, "base64", body.truncated, kept_coding=kept)
    if whole is not None and not halved and _is_json(whole):
        return _Side(body, "json", body.truncated, whole)
    if text and (cut or body.truncated or not halved):
        return _Side(body, "text", body.truncated or halved, whole, applied)
    return _Side(body, "base64", body.truncated, whole, applied)


def _read(pieces: Iterable[bytes]) -> tuple[bytes | None, bool, bool]:
    """The whole if it is small, whether it is UTF-8 as far as it goes, and whether it ends within a character."""
    held: list[bytes] | None = []
    size = 0
    text = True
    characters = codecs.getincrementaldecoder("utf-8")()
    for piece in pieces:
        size += len(piece)
        if size > SPLICE_BYTES:
            held = None
        if held is not None:
            held.append(piece)
        if text:
            try:
                characters.decode(piece)
            except UnicodeDecodeError:
                text = False
    halved = text and bool(characters.getstate()[0])
    return None if held is None else b"".join(held), text, halved


def _is_json(whole: bytes) -> bool:
    """Whether it is one valid JSON document that is cheap enough to check: what orjson takes cannot break out."""
    if len(whole) > SPILL_BYTES:
        cost = 240 * whole.count(b"{") + 80 * whole.count(b"[") + 64 * whole.count(b",")
        if cost > SPLICE_COST_BYTES:
            return False
    try:
        orjson.loads(whole)
    except orjson.JSONDecodeError:
        return False
    return True


def _as_text(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The inside of a JSON string. Half a character at the end is left out."""
    text = codecs.getincrementaldecoder("utf-8")()
    for piece in pieces:
        yield orjson.dumps(text.decode(piece))[1:-1]


def _as_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Base64 without breaks: each piece is cut to a multiple of three octets, so that the parts join."""
    rest = b""
    for piece in pieces:
        octets = rest + piece
        whole = len(octets) - len(octets) % 3
        rest = octets[whole:]
        yield binascii.b2a_base64(octets[:whole], newline=False)
    yield binascii.b2a_base64(rest, newline=False)


def _pieces(body: Body) -> Iterator[bytes]:
    """What was kept of a body, as it was on the wire, from its start."""
    if body.file is None:
        yield from _cuts(body.data)
        return
    body.file.seek(0)
    while piece := body.file.read(PIECE_BYTES):
        yield piece


def _cuts(data: bytes) -> Iterator[bytes]:
    if len(data) <= PIECE_BYTES:
        yield data
        return
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def _texts(headers: Headers) -> Iterator[tuple[str, str]]:
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _fields(pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Name to value; to a list of values, in order, for a name that repeats."""
    fields: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if (there := fields.get(name)) is None:
            fields[name] = value
        elif isinstance(there, list):
            there.append(value)
        else:
            fields[name] = [there, value]
    return fields


def _clean(text: str) -> str:
    """Lone surrogates become U+FFFD: JSON in UTF-8 has no way to write them."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
