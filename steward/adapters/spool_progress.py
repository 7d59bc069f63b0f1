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
from pathlib import Path
from typing import Final

ENTRY_BYTES: Final = 16
_ENTRY: Final = struct.Struct(">QB3x")
_CRC: Final = struct.Struct(">I")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC


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

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsaved = b""
        self._aligned = False

    def load(self) -> dict[int, Mark]:
        """The marks on disk; none when there is no file. Raises OSError when it cannot be read (a link, say)."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return {}
        with os.fdopen(descriptor, "rb") as file:
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
            _sync_folder(self._path.parent)
        return True

    def remove(self) -> None:
        """The file goes; nothing happens when there is none."""
        self._path.unlink(missing_ok=True)

    def _append(self, octets: bytes) -> bool:
        """Whether the file was made by this. Not kept open: a long backlog has many segments."""
        try:
            descriptor, made = os.open(self._path, os.O_RDWR | os.O_APPEND | _FLAGS), False
        except FileNotFoundError:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            made = True
        try:
            if not self._aligned:
                size = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, size - size % ENTRY_BYTES)
                self._aligned = True
            view = memoryview(octets)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return made


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
