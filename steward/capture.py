"""Keeps a copy of what crosses the relay: in memory up to a bound, then in a file.

It never changes, delays or parses what it copies, and what it cannot keep it counts as truncated. The file is one that
the queue behind it seals, or has no name: it is unlinked before its first octet is written, so that no process and no
later call can open it (SECURITY F12).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import BinaryIO, cast
from uuid import UUID

from steward.exchange import Body

MEMORY_BYTES = 256 * 1024
"""A side larger than this is kept on disk."""


Spill = Callable[[UUID, str, UUID], BinaryIO]
"""A new file for one side of a call: its id, `q` (request) or `r` (response), and the key it came with.

The file takes all it is given or raises OSError, and says by `tell` what it holds. Closed before anyone took it over,
it is gone.
"""


class Capture:
    """One side of one call."""

    size_bytes = 0
    """What crossed the wire, kept or not."""
    _file: BinaryIO | None = None
    _kept = 0

    def __init__(
        self, limit_bytes: int, spill: Spill | None = None, whose: tuple[UUID, str, UUID] | None = None
    ) -> None:
        """`spill` makes the file of `whose` side, if one is needed; without them it has no name."""
        self._limit = limit_bytes
        self._spill = spill
        self._whose = whose
        self._in_memory = limit_bytes if limit_bytes < MEMORY_BYTES else MEMORY_BYTES
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """One more piece, as it crosses. Never raises: a full disk truncates the copy."""
        size = len(piece)
        self.size_bytes += size
        kept = self._kept + size
        if kept <= self._in_memory:
            self._kept = kept
            self._pieces.append(piece)
            return
        if kept > self._limit:
            piece = piece[: max(0, self._limit - self._kept)]
            self._limit = self._in_memory = self._kept + len(piece)
            if not piece:
                return
        self._kept += len(piece)
        if self._file is None and self._kept <= MEMORY_BYTES:
            self._pieces.append(piece)
        else:
            self._in_memory = 0
            self._to_disk(piece)

    def _to_disk(self, piece: bytes) -> None:
        try:
            if self._file is None:
                self._file = self._new_file()
                self._write(b"".join(self._pieces))
                self._pieces = []
            self._write(piece)
        except OSError:
            self._kept = self._limit = self._file.tell() if self._file is not None else 0

    def _new_file(self) -> BinaryIO:
        if self._spill is None or self._whose is None:
            return cast(BinaryIO, tempfile.TemporaryFile(buffering=0))
        return self._spill(*self._whose)

    def _write(self, data: bytes) -> None:
        """All of it: a raw file may take less than it is given."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def body(self) -> Body:
        """What was kept so far. Call it once, at the end."""
        data = b"" if self._file is not None else b"".join(self._pieces)
        return Body(data, self._file, self.size_bytes, truncated=self._kept < self.size_bytes)

    def discard(self) -> None:
        """Gives the file back when nobody takes the body over."""
        if self._file is not None:
            self._file.close()
            self._file = None
