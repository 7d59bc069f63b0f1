"""What the settler has done with each record of a segment: an append-only file of fixed entries beside it.

It knows offsets and marks and nothing of what stands there. An entry that is torn or damaged counts as never written:
its record is then settled once more, which changes nothing.

An entry has 16 octets: the record's offset in its segment (8, big-endian), the mark (1), three zeros, CRC-32 (4).
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from steward.adapters.spool_files import Folder

ENTRY_BYTES: Final = 16
_ENTRY: Final = struct.Struct(">QB3x")
_CRC: Final = struct.Struct(">I")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Mark(IntEnum):
    """How far a record has come; the later one wins."""

    RECORDED = ord("R")
    """Its row is in the ledger; its body waits."""
    DONE = ord("D")
    """Nothing is left to do."""


def entry(offset: int, mark: Mark) -> bytes:
    """One entry, ready to be appended."""
    body = _ENTRY.pack(offset, mark)
    return body + _CRC.pack(zlib.crc32(body))


def marks(octets: bytes) -> dict[int, Mark]:
    """Offset to mark, of every entry that is whole. What does not fit is passed over, never an error."""
    found: dict[int, Mark] = {}
    for at in range(0, len(octets) - ENTRY_BYTES + 1, ENTRY_BYTES):
        body = octets[at : at + _ENTRY.size]
        (crc,) = _CRC.unpack_from(octets, at + _ENTRY.size)
        offset, mark = _ENTRY.unpack(body)
        if crc != zlib.crc32(body):
            continue
        if mark == Mark.DONE:
            found[offset] = Mark.DONE
        elif mark == Mark.RECORDED:
            found.setdefault(offset, Mark.RECORDED)
    return found


class Progress:
    """One segment's progress file. Made when the first mark is written; one writer at a time."""

    def __init__(self, relay: Folder, name: str) -> None:
        self._relay = relay
        self._name = name
        self._unsaved = b""
        self._aligned = False

    def load(self) -> dict[int, Mark]:
        """The marks on disk; none when there is no file. Raises OSError when it cannot be read (a link, say)."""
        try:
            handle = self._relay.open(self._name)
        except FileNotFoundError:
            return {}
        with os.fdopen(handle, "rb") as file:
            return marks(file.read())

    def write(self, new: Iterable[tuple[int, Mark]]) -> bool:
        """Marks, on disk before it returns. False when the disk is full: they are kept and go with the next ones.

        Raises OSError when the file cannot be written for another reason; the marks are kept then, too.
        """
        self._unsaved += b"".join(entry(offset, mark) for offset, mark in new)
        if not self._unsaved:
            return True
        try:
            made = self._append(self._unsaved)
        except OSError as exc:
            # Entries are fixed: half of one would shift all that follow, so the next write begins with a whole one.
            self._aligned = False
            if exc.errno in _FULL:
                return False
            raise
        self._unsaved = b""
        if made:
            self._relay.sync()
        return True

    def remove(self) -> None:
        """The file goes; nothing happens when there is none."""
        self._relay.remove(self._name)

    def _append(self, octets: bytes) -> bool:
        """Whether the file was made by this. Not kept open: a long backlog has many segments."""
        try:
            handle, made = self._relay.open(self._name, append=True), False
        except FileNotFoundError:
            handle, made = self._relay.create(self._name, append=True), True
        try:
            if not self._aligned:
                size = os.fstat(handle).st_size
                os.ftruncate(handle, size - size % ENTRY_BYTES)
                self._aligned = True
            view = memoryview(octets)
            while view:
                view = view[os.write(handle, view) :]
            os.fdatasync(handle)
        finally:
            os.close(handle)
        return made
