"""Which calls were counted lately, in a file that outlives its process: who settles after a dead one counts none twice.

It keeps ids alone, as many as may be metered and not yet written to the ledger; the oldest make room. It is no record
of calls, and where the disk has no room for it, a call that a killed process had in hand is counted twice.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from uuid import UUID

PLACES = 1 << 17
"""Ids kept: more than are ever metered ahead of the ledger."""

_ID_BYTES = 16
_HEADER_BYTES = 16
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class CountedCalls:
    """Used by one process at a time: the one that settles. Opened when it is first asked."""

    def __init__(self, path: Path, places: int = PLACES, comes_again: bool = False) -> None:
        """`comes_again`: what this process counted may be handed to it once more, as a cloud's queue does."""
        self._path = path
        self._places = places
        self._comes_again = comes_again
        self._ring: mmap.mmap | None = None
        self._at = 0
        self._opened = False
        self._before: set[bytes] = set()
        """What those before this process counted; and this one, where it comes again."""

    def is_new(self, call: UUID) -> bool:
        """Whether it was not counted before; from now on it is. Never raises for want of room.

        Within one process every call is new, unless calls come again.
        """
        if not self._opened:
            self._opened = True
            self._open()
        ident = call.bytes
        if ident in self._before:
            return False
        if self._ring is not None:
            start = _HEADER_BYTES + self._at * _ID_BYTES
            if self._comes_again:
                self._before.discard(self._ring[start : start + _ID_BYTES])
                self._before.add(ident)
            self._ring[start : start + _ID_BYTES] = ident
            self._at = (self._at + 1) % self._places
            self._ring[:8] = self._at.to_bytes(8, "little")
        return True

    def _open(self) -> None:
        size = _HEADER_BYTES + self._places * _ID_BYTES
        try:
            descriptor = os.open(self._path, _FLAGS, 0o600)
            try:
                # All of it now: a page of a mapped file that a full disk cannot give later would end the process.
                os.posix_fallocate(descriptor, 0, size)
                self._ring = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError:
            return
        self._at = int.from_bytes(self._ring[:8], "little") % self._places
        kept = self._ring[_HEADER_BYTES:]
        self._before = {kept[at : at + _ID_BYTES] for at in range(0, len(kept), _ID_BYTES)} - {bytes(_ID_BYTES)}

    def close(self) -> None:
        """Gives the file back."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
