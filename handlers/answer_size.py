"""How large an answer gets in the JSON that a Lambda function returns, counted while it arrives.

Exact to the octet and never too small: an answer that the front would cut is refused in time. It keeps no octet.
"""

from __future__ import annotations

import codecs
import json
import re

from handlers.aws_answers import is_text
from steward.exchange import Headers

_TWO = b'"\\\b\f\n\r\t'
"""Octets that JSON spells by two."""
_SIX = bytes(set(range(32)) - set(_TWO))
_PLAIN = re.compile(rb"[ !#-\[\]-~]*")
"""What JSON spells as it is: nearly every field's value."""
_FRAME_BYTES = 256
"""Braces, names, the status and the flag."""
_FIELD_BYTES = 12
"""Quotes, brackets, colon and comma of one field, and what its value gains by an escape or two."""
_OURS_BYTES = 256
"""The fields that we add."""


class AnswerSize:
    """The size of one answer. `ascii_only`: the runtime spells what is beyond ASCII by `\\u` and four digits."""

    def __init__(self, headers: Headers, ascii_only: bool) -> None:
        self._ascii_only = ascii_only
        self._head = _FRAME_BYTES + _OURS_BYTES + sum(self._field(name, value) for name, value in headers)
        self._decoder = codecs.getincrementaldecoder("utf-8")() if is_text(headers) else None
        self._text = 0
        self._octets = 0

    def _field(self, name: bytes, value: bytes) -> int:
        plain = _PLAIN.fullmatch(value)
        return _FIELD_BYTES + len(name) + (len(value) if plain else self._said(value.decode("latin-1")))

    def add(self, piece: bytes) -> None:
        """One more piece of the body."""
        self._octets += len(piece)
        if self._decoder is None:
            return
        try:
            self._text += self._said(self._decoder.decode(piece))
        except UnicodeDecodeError:
            self._decoder = None  # it goes as base64

    def end(self) -> None:
        """No piece follows."""
        if self._decoder is not None:
            try:
                self._decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                self._decoder = None

    def _said(self, text: str) -> int:
        """Octets of a text between its quotes."""
        if self._ascii_only and not text.isascii():
            return len(json.dumps(text)) - 2
        octets = text.encode()
        size = len(octets)
        size += size - len(octets.translate(None, _TWO)) + 5 * (size - len(octets.translate(None, _SIX)))
        # The runtime's serializer escapes these two even where it writes all else as it is.
        return size if text.isascii() else size + 3 * (text.count("\u2028") + text.count("\u2029"))

    @property
    def is_text(self) -> bool:
        """Whether it goes as text, as far as is known: where base64 is the smaller, it does not."""
        return self._decoder is not None and self._text <= self._encoded

    @property
    def _encoded(self) -> int:
        return (self._octets + 2) // 3 * 4

    @property
    def bytes(self) -> int:
        """Of the whole JSON, in the smaller of the two spellings that are open to it."""
        return self._head + (min(self._text, self._encoded) if self._decoder is not None else self._encoded)
