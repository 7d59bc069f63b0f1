"""Remembers the heads that clients send call after call, so that each is taken apart once.

An SDK sends the same fields every time, but for the length of its body: the octets themselves, without that one line,
are what a head is known by. It remembers no head that is not plain, none that the gate refuses, and a bounded number.
It asks nobody whether a head's key is good: what it remembers opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steward.errors import StewardError
from steward.exchange import Headers
from steward.wire.headers import CallerHead, read_caller_head, read_lines

ENTRIES = 512
ENTRY_BYTES = 4096
ENTRY_FIELDS = 48
"""Heads with more octets or fields are read anew each time: a caller without a key can fill this, to some 10 MB."""

_LENGTH = b"\r\ncontent-length: "
_LENGTH_DIGITS = 9
_UNPLAIN = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings", b"proxy-connection"}
)
_KEEP_ALIVE = frozenset({b"keep-alive", b"Keep-Alive"})


@dataclass(frozen=True, slots=True)
class _Known:
    """One head, but for its length."""

    before: Headers = field(repr=False)
    after: Headers = field(repr=False)
    """What stands behind the length."""
    head: CallerHead


class KnownHeads:
    """Plain heads by their octets. One per listening process."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], _Known] = {}

    @property
    def entries(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def read(self, lines: bytes, max_fields: int) -> tuple[Headers, CallerHead] | None:
        """All fields, and the same taken apart; None for a head that is not plain: it is read with more care.

        Plain: no name twice, one length or none, nothing about the connection but that it stays. `lines` end in CRLF.
        The list of fields is the call's own; the lists of the head are shared by all who sent it, and are not changed.
        """
        at = lines.lower().find(_LENGTH)
        if at < 0:
            known = self._known.get((at, lines)) or self._learn(lines, at, lines, max_fields)
            return None if known is None else ([*known.before], known.head)
        start = at + len(_LENGTH)
        end = lines.find(b"\r\n", start)
        digits = lines[start:end]
        if not digits.isdigit() or len(digits) > _LENGTH_DIGITS:
            return None
        rest = lines[:at] + lines[end:]
        known = self._known.get((at, rest)) or self._learn(lines, at, rest, max_fields)
        if known is None:
            return None
        headers = [*known.before, (b"content-length", digits), *known.after]
        return headers, known.head.with_length(int(digits))

    def _learn(self, lines: bytes, at: int, key: bytes, max_fields: int) -> _Known | None:
        headers = read_lines(lines)
        if headers is None or len(headers) > max_fields:
            return None
        named = dict(headers)
        if len(named) != len(headers) or not _UNPLAIN.isdisjoint(named):
            return None
        if named.get(b"connection", b"keep-alive") not in _KEEP_ALIVE:
            return None
        place = list(named).index(b"content-length") if b"content-length" in named else len(headers)
        if (at < 0) != (place == len(headers)):
            return None  # a length that stands first, or is written in an unusual way
        try:
            head = read_caller_head(headers, lines)
        except StewardError:
            return None
        head.wire = b"".join([b"%b: %b\r\n" % item for item in head.end_to_end])
        known = _Known(headers[:place], headers[place + 1 :], head)
        if len(key) <= ENTRY_BYTES and len(headers) <= ENTRY_FIELDS:
            if len(self._known) >= ENTRIES:
                self._known.clear()
            self._known[(at, key)] = known
        return known
