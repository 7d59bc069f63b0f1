"""Reads one provider's answer off the wire: octets in; status, fields, pieces and the end out.

Sans-io: it owns no socket and no clock. It never guesses: what is not plainly one HTTP/1.1 answer is UpstreamBadAnswer,
and any octet after the answer's end makes the connection unfit for another call (DESIGN 7, cases 1 to 8).
"""

from __future__ import annotations

import httptools

from steward.errors import UpstreamBadAnswer, UpstreamBroke
from steward.exchange import Headers
from steward.wire.headers import from_provider

MAX_HEAD_BYTES = 256 * 1024
MAX_FIELDS = 500
MAX_INTERIM = 8
_CONTINUE = 100
_SWITCHING = 101
_FIRST_FINAL = 200
_LAST = 599
_NO_BODY = frozenset({204, 304})


class AnswerReader:
    """One answer. Feed it octets; read `head_known`, `pieces` and `ended`."""

    # Looked for by httptools at every start; found missing, each would cost it an AttributeError.
    on_url = on_status = on_chunk_header = on_chunk_complete = None

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
    _head_bytes = 0
    """Octets since the start or the last piece of the body: of the head, of trailers."""
    _interim = 0
    _begun = False
    _chunked = False
    _trailing = False
    _data = b""
    _tail = b""

    def __init__(self, is_head: bool) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._is_head = is_head
        self._fields: Headers = []
        self.headers: Headers = []
        self.pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Takes what the socket gave. Raises UpstreamBadAnswer; pieces that came before stay good."""
        late = self.ended
        if late:
            self.reusable = False
            return
        self.started = True
        self._data = data
        self._tail = data[-5:] if len(data) > 4 else (self._tail + data)[-5:]
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if self.ended:
                self.reusable = False
            elif isinstance(exc.__context__, UpstreamBadAnswer):
                raise exc.__context__ from None
            else:
                raise UpstreamBadAnswer from None
        if self._head_bytes > MAX_HEAD_BYTES and not self.ended:
            raise UpstreamBadAnswer
        if self.ended and self.reusable and self._leftover():
            self.reusable = False
        self._data = b""

    def eof(self) -> None:
        """The provider closed. Raises UpstreamBroke when the answer was not at its end."""
        if self.ended:
            return
        if self.head_known and self.length is None and not self._chunked:
            self.ended = True
            return
        raise UpstreamBroke

    def _leftover(self) -> bool:
        """Whether octets followed the answer in the same piece (the parser would take them for another answer)."""
        if self._trailing:
            return True
        if self._chunked or not self.length:
            # The blank line that ends it, and not one line end more: the parser would skip those without a word.
            return not self._tail.endswith(b"\r\n\r\n") or self._tail[:1] in b"\r\n"
        last = self.pieces[-1]
        return not self._data.endswith(last) or not last.strip(b"\r\n")

    # httptools calls these

    def on_message_begin(self) -> None:
        """A second message on the heels of the first is never read."""
        if self.ended:
            self._trailing = True
            raise UpstreamBadAnswer
        self._begun = True
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head. What comes after the head is a trailer, and dropped."""
        if not self.head_known:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head ends: interim heads are counted and forgotten, the final one is kept."""
        status = self._parser.get_status_code()
        if len(self._fields) > MAX_FIELDS:
            raise UpstreamBadAnswer
        if status < _FIRST_FINAL:
            self._interim += 1
            self.continued = self.continued or status == _CONTINUE
            if status < 100 or status == _SWITCHING or self._interim > MAX_INTERIM:
                raise UpstreamBadAnswer
            return
        if status > _LAST or (self._head_bytes > MAX_HEAD_BYTES and self._size() > MAX_HEAD_BYTES):
            raise UpstreamBadAnswer
        self._frame()
        self.headers = from_provider(self._fields)
        self.status = status
        if self._is_head or status in _NO_BODY:
            self.length = 0
        self.head_known = True
        self._head_bytes = 0
        if self._is_head:
            # The parser would take the next answer for this one's body: the connection ends with this call.
            self.ended = True

    def _size(self) -> int:
        """Octets of the head's fields: added up only when what came with the head might hide that it is too large."""
        return sum(len(name) + len(value) + 4 for name, value in self._fields)

    def _frame(self) -> None:
        """How the end will be told. Anything but one length, or `chunked` alone, or neither, is refused."""
        for name, value in self._fields:
            if name == b"content-length":
                digits = value.strip(b" \t")
                if self.length is not None or not digits.isdigit() or len(digits) > 18:
                    raise UpstreamBadAnswer
                self.length = int(digits)
            elif name == b"transfer-encoding":
                if self._chunked or value.strip().lower() != b"chunked":
                    raise UpstreamBadAnswer
                self._chunked = True
        if self._chunked and self.length is not None:
            raise UpstreamBadAnswer

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        if self.head_known and not self.ended:
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        """The end of the message; whether the connection may serve again is only told here (DESIGN 7, case 4)."""
        if not self.head_known:
            return
        if not self._is_head:
            self.ended = True
            self.reusable = self._parser.should_keep_alive()
