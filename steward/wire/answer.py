"""Reads one provider's answer off the wire: octets in; status, fields, pieces and the end out.

Sans-io: it owns no socket and no clock. It never guesses: what is not plainly one HTTP/1.1 answer is UpstreamBadAnswer,
and any octet after the answer's end makes the connection unfit for another call (DESIGN 7, cases 1 to 8).

A head is read whole by the gate and a body of known length by counting; only chunks go to httptools, whose callback for
every field costs more than all the rest that is done here.
"""

from __future__ import annotations

import re

import httptools

from steward.errors import UpstreamBadAnswer, UpstreamBroke
from steward.exchange import Headers
from steward.wire.headers import HOP_BY_HOP, OUR_PREFIX, PLAIN_CONNECTION, closes, end_to_end, read_lines

MAX_HEAD_BYTES = 256 * 1024
MAX_FIELDS = 500
MAX_INTERIM = 8
_CONTINUE = 100
_SWITCHING = 101
_FIRST_FINAL = 200
_LENGTH_DIGITS = 18
_ONCE = (b"content-length", b"transfer-encoding")
_NO_BODY = frozenset({204, 304})

_START_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n\x00]*+)?\r\n")
_START = b"HTTP/1."
_END = b"\r\n\r\n"
_LONE_LF = re.compile(rb"(?<!\r)\n")
_CHUNKS_FOLLOW = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class AnswerReader:
    """One answer. Feed it octets; read `head_known`, `pieces` and `ended`."""

    # Set on the class and overwritten on the answer: most answers need few of them, and one is made for every call.
    started = False
    """An octet came."""
    continued = False
    """An interim 100 came."""
    head_known = False
    ended = False
    reusable = False
    status = 0
    length: int | None = None
    """Octets of the body; None when its end is told otherwise."""
    _interim = 0
    _head: bytearray | None = None
    """Of a head that did not come in one piece."""
    _keeps_alive = False
    _left = 0
    _chunks: _Chunks | None = None

    def __init__(self, is_head: bool) -> None:
        self._is_head = is_head
        self.headers: Headers = []
        self.pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Takes what the socket gave. Raises UpstreamBadAnswer; pieces that came before stay good."""
        if self.ended:
            self.reusable = False
        elif self.head_known:
            self._body(data)
        else:
            self.started = True
            self._heads(data)

    def eof(self) -> None:
        """The provider closed. Raises UpstreamBroke when the answer was not at its end."""
        if self.ended:
            return
        if self.head_known and self.length is None and self._chunks is None:
            self.ended = True
            return
        raise UpstreamBroke

    def _heads(self, data: bytes) -> None:
        """Interim heads are counted and forgotten, the final one is kept; what follows it is the body."""
        if self._head is not None:
            seen = len(self._head)
            self._head += data
            at = self._head.find(_END, max(0, seen - 3))
            if at < 0:
                self._unfinished(self._head, seen)
                return
            data, self._head = bytes(self._head), None
        while not self.head_known:
            end = data.find(_END) + len(_END)
            if end < len(_END):
                self._head = bytearray(data)
                self._unfinished(self._head, 0)
                return
            self._one_head(data, end)
            data = data[end:]
        if self._is_head:
            # The next octets could be this one's body, sent in error: the connection ends with this call.
            self.ended = True
        elif self.length == 0:
            self._ends(leftover=bool(data))
        elif data:
            self._body(data)

    @staticmethod
    def _unfinished(head: bytearray, seen: int) -> None:
        """What can be no head is refused before its end, which may never come. `seen`: octets looked at before."""
        if len(head) > MAX_HEAD_BYTES or not _START.startswith(head[: len(_START)]) or _LONE_LF.search(head, seen):
            raise UpstreamBadAnswer

    def _one_head(self, data: bytes, end: int) -> None:
        """The head that ends before `end`."""
        start = _START_LINE.match(data)
        lines = b"" if start is None else data[start.end() : end - 2]
        fields = read_lines(lines)
        if start is None or fields is None or len(fields) > MAX_FIELDS or end > MAX_HEAD_BYTES:
            raise UpstreamBadAnswer
        status = int(start[2])
        if status >= _FIRST_FINAL:
            self._keeps_alive = start[1] == b"1"
            self.headers = self._frame(fields, lines, status)
            self.status = status
            self.head_known = True
            return
        self._interim += 1
        self.continued = self.continued or status == _CONTINUE
        if status == _SWITCHING or self._interim > MAX_INTERIM:
            raise UpstreamBadAnswer

    def _frame(self, fields: Headers, lines: bytes, status: int) -> Headers:
        """How the end will be told, and the fields that go on. One length, or `chunked` alone, or neither."""
        named = dict(fields)
        repeats = len(named) != len(fields)
        if repeats and any([item[0] for item in fields].count(name) > 1 for name in _ONCE):
            raise UpstreamBadAnswer
        length, coding = named.get(b"content-length"), named.get(b"transfer-encoding")
        if coding is not None and (length is not None or coding.strip(b" \t").lower() != b"chunked"):
            raise UpstreamBadAnswer
        if length is not None:
            length = length.strip(b" \t")
            if not length.isdigit() or len(length) > _LENGTH_DIGITS:
                raise UpstreamBadAnswer
        if self._is_head or status in _NO_BODY:
            self.length = 0
        elif length is not None:
            self.length = self._left = int(length)
        elif coding is not None:
            self._chunks = _Chunks()
        ours = lines.lower().find(OUR_PREFIX) >= 0
        if HOP_BY_HOP.isdisjoint(named) and not ours:
            return fields
        stays = not repeats and named.get(b"connection") == b"keep-alive" and b"proxy-connection" not in named
        self._keeps_alive = self._keeps_alive and (stays or not closes(fields))
        if ours or repeats or named.get(b"connection", b"close") not in PLAIN_CONNECTION:
            return end_to_end(fields)
        return [item for item in fields if item[0] not in HOP_BY_HOP]

    def _body(self, data: bytes) -> None:
        if self._chunks is not None:
            self._chunks.feed(data, self.pieces)
            if self._chunks.ended:
                self._ends(self._chunks.leftover)
        elif self.length is None:
            self.pieces.append(data)
        elif len(data) < self._left:
            self._left -= len(data)
            self.pieces.append(data)
        else:
            leftover = len(data) > self._left
            self.pieces.append(data[: self._left])
            self._ends(leftover)

    def _ends(self, leftover: bool) -> None:
        self.ended = True
        self.reusable = self._keeps_alive and not leftover


class _Chunks:
    """A chunked body. httptools reads it, behind a head of our own in place of the one that was read already."""

    # Looked for by httptools at every start; found missing, each would cost it an AttributeError.
    on_url = on_status = on_header = on_headers_complete = on_chunk_header = on_chunk_complete = None

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.ended = False
        self.leftover = False
        self._barren_bytes = 0
        """Octets since the last piece: of sizes, extensions, trailers."""
        self._last = b""
        """The last five octets: what was taken is not held, however long the next octet takes."""
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(_CHUNKS_FOLLOW)

    def feed(self, data: bytes, pieces: list[bytes]) -> None:
        """Takes octets, and adds what they hold of the body. Raises UpstreamBadAnswer."""
        self._pieces = pieces
        self._last = data[-5:] if len(data) > 4 else (self._last + data)[-5:]
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.ended:
                raise UpstreamBadAnswer from None
            self.leftover = True
        self._pieces = []
        if self.ended:
            # The blank line that ends it, and not one line end more: the parser would skip those without a word.
            self.leftover = self.leftover or not self._last.endswith(_END) or self._last[:1] in (b"\r", b"\n")
        elif self._barren_bytes > MAX_HEAD_BYTES:
            raise UpstreamBadAnswer

    def on_message_begin(self) -> None:
        """A second message on the heels of the first is never read."""
        if self.ended:
            self.leftover = True
            raise UpstreamBadAnswer

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._barren_bytes = 0
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The end of the message."""
        self.ended = True
