"""Bodies too large for a record: one file a side, sealed piece by piece while it is written, read from any place.

No octet of a body reaches the disk in clear, and no key of a file stands beside it: the key is in the call's record. It
syncs nothing, and never keeps more than one piece in memory.

    magic 8 | version 1 | pieces of 64 KiB, each with its tag behind it; the last one shorter
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import BinaryIO, Final, cast
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steward.adapters.spool_files import Folder, beside_name
from steward.codec import KEY_BYTES, Beside
from steward.errors import SealBroken
from steward.seal import TAG_BYTES

FORMAT: Final = 1
HEADER: Final = b"MDBODY\r\n" + bytes((FORMAT,))
PIECE_BYTES: Final = 64 * 1024
_STEP: Final = PIECE_BYTES + TAG_BYTES

Room = Callable[[int], None]
"""Told how many octets are about to be written (less than none: given back). Raises OSError when there is no room."""


def sealed_bytes(size_bytes: int) -> int:
    """The length of the file that holds so many octets."""
    return len(HEADER) + size_bytes + -(-size_bytes // PIECE_BYTES) * TAG_BYTES


class SealedWriter:
    """The file while it is written. What `close` finds unfinished is taken away."""

    def __init__(self, folder: Folder, request_id: UUID, side: str, room: Room) -> None:
        """Raises OSError when the file cannot be made."""
        self.name = beside_name(request_id, side)
        self._folder = folder
        self._room = room
        self._facts = _facts(request_id, side)
        self._key = AESGCM.generate_key(KEY_BYTES * 8)
        self._cipher = AESGCM(self._key)
        self._held = bytearray()
        self._pieces = 0
        self._kept = 0
        self._taken = 0
        self._beside: Beside | None = None
        self.descriptor = folder.create(self.name, append=True)
        try:
            self._append(HEADER)
        except OSError:
            self.close()
            raise

    @property
    def disk_bytes(self) -> int:
        """What it takes on the disk so far."""
        return self._taken

    def write(self, data: bytes | memoryview) -> int:
        """Takes all of it. Raises OSError when the disk does not; `tell` then says how much is kept."""
        if self._beside is not None or self.descriptor < 0:
            raise OSError("the body's file is finished")
        held = self._held
        held += data
        while len(held) >= PIECE_BYTES:
            self._seal(held[:PIECE_BYTES])
            del held[:PIECE_BYTES]
        return len(data)

    def tell(self) -> int:
        """Octets of the body that are kept."""
        return self._kept + len(self._held)

    def finish(self) -> Beside:
        """Nothing is added any more. What the disk does not take at the end is cut off: `size_bytes` says how much."""
        if self._beside is None:
            try:
                if self._held:
                    self._seal(self._held)
            except OSError:
                self._held.clear()
            self._held = bytearray()
            self._beside = Beside(self._key, self._kept)
        return self._beside

    def release(self) -> int:
        """The descriptor of the finished file: whoever takes it closes it."""
        descriptor, self.descriptor = self.descriptor, -1
        return descriptor

    def close(self) -> None:
        """Gives the descriptor back, and the file, too, unless it was finished. Safe to call twice."""
        if self._beside is None:
            self.discard()
        elif self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def discard(self) -> None:
        """Takes the file away, finished or not. Safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self._folder.remove(self.name)
            self._room(-self._taken)

    def _seal(self, plain: bytearray) -> None:
        """One piece more, or, when it does not fit, none of it, and nothing after it."""
        try:
            self._append(self._cipher.encrypt(self._pieces.to_bytes(12, "big"), plain, self._facts))
        except OSError:
            self._held.clear()
            raise
        self._pieces += 1
        self._kept += len(plain)

    def _append(self, octets: bytes) -> None:
        size = len(octets)
        self._room(size)
        view, at = memoryview(octets), self._taken
        try:
            while view:
                view = view[os.write(self.descriptor, view) :]
        except OSError:
            os.ftruncate(self.descriptor, at)
            self._room(-size)
            raise
        self._taken += size


class SealedReader(io.RawIOBase):
    """The body in clear, as a file that can be read again from any place. Raises SealBroken where it was changed."""

    def __init__(self, descriptor: int, request_id: UUID, side: str, beside: Beside) -> None:
        """Takes the descriptor over. Raises SealBroken when the file is not one of ours or shorter than it was."""
        super().__init__()
        self._descriptor = descriptor
        self._size = beside.size_bytes
        self._facts = _facts(request_id, side)
        self._cipher = AESGCM(beside.key)
        self._at = 0
        self._piece = b""
        self._piece_number = -1
        if os.fstat(descriptor).st_size < sealed_bytes(self._size) or os.pread(descriptor, len(HEADER), 0) != HEADER:
            self.close()
            raise SealBroken

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """At most to the end of the piece it stands in."""
        if self._at >= self._size:
            return 0
        number, start = divmod(self._at, PIECE_BYTES)
        if number != self._piece_number:
            self._piece, self._piece_number = self._opened(number), number
        part = self._piece[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("before the start of the body")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._piece = b""
        super().close()

    def _opened(self, number: int) -> bytes:
        length = min(PIECE_BYTES, self._size - number * PIECE_BYTES) + TAG_BYTES
        sealed = os.pread(self._descriptor, length, len(HEADER) + number * _STEP)
        try:
            return self._cipher.decrypt(number.to_bytes(12, "big"), sealed, self._facts)
        except InvalidTag:
            raise SealBroken from None


def open_beside(folder: Folder, request_id: UUID, side: str, beside: Beside) -> BinaryIO:
    """The body that a record says is beside it. Raises FileNotFoundError, OSError and SealBroken."""
    descriptor = folder.open(beside_name(request_id, side))
    return cast(BinaryIO, SealedReader(descriptor, request_id, side, beside))


def _facts(request_id: UUID, side: str) -> bytes:
    return bytes((FORMAT,)) + request_id.bytes + side.encode("ascii")
