"""Server-sent events: octets in, events out, however they were cut (WHATWG HTML, section 9.2).

It refuses to wait, to decode text, and to hold an event above 16 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""DESIGN section 7: beyond it a stream is given up."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its `event:` field, empty where there was none, and its `data:` lines joined by line feeds."""

    name: bytes
    data: bytes


class SseParser:
    """Feed it pieces of any size; lines end with LF, CR LF or CR, and may be cut anywhere.

    Unlike a browser it hands out a last event that lacks its blank line (`close`): 17 recorded streams end so.
    """

    __slots__ = ("_after_cr", "_data", "_data_bytes", "_name", "_started", "_tail", "_tail_bytes", "overflowed")

    def __init__(self) -> None:
        self.overflowed = False
        """An event or a line exceeded the bound; nothing more is handed out."""
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self._after_cr = False
        self._started = False

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        if self._after_cr and piece:
            self._after_cr = False
            if piece.startswith(b"\n"):
                piece = piece[1:]
        if not piece or self.overflowed:
            return []
        self._after_cr = piece.endswith(b"\r")
        cut = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if not cut:
            self._keep(piece)
            return []
        self._tail.append(piece[:cut])
        lines = b"".join(self._tail).splitlines()
        self._tail.clear()
        self._tail_bytes = 0
        events = self._take(lines)
        if cut < len(piece):
            self._keep(piece[cut:])
        return events

    def close(self) -> list[Event]:
        """What the end of the stream completes: at most one event."""
        line = b"".join(self._tail)
        self._tail.clear()
        events = self._take([line, b""] if line else [b""])
        return events if not self.overflowed else []

    def _keep(self, rest: bytes) -> None:
        self._tail.append(rest)
        self._tail_bytes += len(rest)
        if self._tail_bytes + self._data_bytes > MAX_EVENT_BYTES:
            self._give_up()

    def _give_up(self) -> None:
        self.overflowed = True
        self._tail.clear()
        self._data.clear()

    def _take(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        if not self._started and lines:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(self._name, b"\n".join(self._data)))
                    self._data.clear()
                    self._data_bytes = 0
                self._name = b""
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
                self._data_bytes += len(value) + 1
                if self._data_bytes > MAX_EVENT_BYTES:
                    self._give_up()
                    break
            elif field == b"event":
                self._name = value.removeprefix(b" ")
        return events
