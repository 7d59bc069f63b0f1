"""The segment that a relaying process appends to, and the octets it keeps back for a full disk.

One frame is one `write(2)`: there is no buffer between a call and the kernel. It never leaves half a frame behind that
it could cut off, and gives no number, which is the nonce, twice for octets that may have reached the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from steward.adapters.spool_files import RESERVE, SEALING_BYTES, Folder, new_segment, segment_name
from steward.seal import Keyring
from steward.wire.frames import FRAME_BYTES, MAX_PAYLOAD_BYTES, encode

RESERVE_STEP_BYTES: Final = 256 * 1024
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a disk says that is full, or as full as it may be."""

_MAX_PLAIN_BYTES: Final = MAX_PAYLOAD_BYTES - SEALING_BYTES

Plain = tuple[int, bytes, bytes]
"""A record before it is sealed: its kind, its call's id, and the payload in clear."""


def frame_bytes(plain: bytes) -> int:
    """What a record takes in a segment."""
    return FRAME_BYTES + SEALING_BYTES + len(plain)


class SegmentWriter:
    """The newest segment of this process. Whoever closes its descriptor syncs it first."""

    def __init__(self, folder: Folder, keyring: Keyring, number: int) -> None:
        """Raises OSError when there cannot be such a file. What a full disk does not take of its header comes later."""
        self._header, self._seal = new_segment(keyring, folder.name, number)
        self.number = number
        self.size = 0
        """Octets in the file."""
        self._frames = 0
        self._begun = False
        self.descriptor = folder.create(segment_name(number), append=True)
        with contextlib.suppress(OSError):
            self._begin()

    def append(self, kind: int, request_id: bytes, plain: bytes) -> int:
        """One sealed frame, in the kernel's hands when this returns; its length.

        Raises OSError: then nothing was appended.
        """
        if not self.append_all(((kind, request_id, plain),)):
            raise OSError(errno.ENOSPC, "the disk took a part")
        return frame_bytes(plain)

    def append_all(self, records: Sequence[Plain]) -> int:
        """The same for several, by one write; how many of them, from the first on, the disk took.

        Those stay: the settler may have read them already. Raises OSError: then it took none.
        """
        self._begin()
        number, seal = self._frames, self._seal.seal
        frames = []
        for kind, request_id, plain in records:
            if len(plain) > _MAX_PLAIN_BYTES:
                raise OSError(errno.EMSGSIZE, "no reader takes so long a record")
            frames.append(encode(kind, number, request_id, seal(kind, number, request_id, plain)))
            number += 1
        octets = frames[0] if len(frames) == 1 else b"".join(frames)
        # Before it is known what the disk takes: a number is never given again to octets that may have reached it.
        self._frames = number
        written = self._write(octets)
        if written == len(octets):
            self.size += written
            return len(frames)
        ends = list(accumulate(map(len, frames)))
        taken = sum(end <= written for end in ends)
        self.size += ends[taken - 1] if taken else 0
        self._cut()
        return taken

    def _begin(self) -> None:
        """The header, where it is not there yet. Raises OSError."""
        if self._begun:
            return
        if self._write(self._header) != len(self._header):
            self._cut()
            raise OSError(errno.ENOSPC, "the disk took a part")
        self._begun = True
        self.size = len(self._header)

    def _write(self, octets: bytes) -> int:
        try:
            return os.write(self.descriptor, octets)
        except OSError:
            self._cut()  # some disks say so after they have taken something
            raise

    def _cut(self) -> None:
        """What is no whole frame goes. Where it cannot, it is a gap between the frames before and after it."""
        try:
            os.ftruncate(self.descriptor, self.size)
        except OSError:
            if not self._begun:
                raise  # a segment that began with half a header could never be read
            self.size = os.fstat(self.descriptor).st_size


class Reserve:
    """A file that holds octets back, so that the end of every call that began finds room on a full disk."""

    def __init__(self, folder: Folder, size: int) -> None:
        """Raises OSError when there cannot be such a file. One that has no room yet is not whole."""
        self._descriptor = folder.create(RESERVE)
        self._full = size
        self._size = 0
        self._lock = threading.Lock()
        self.whole = False
        """Nothing of it is spent."""
        self.restore()

    def spend(self) -> bool:
        """Gives some octets to whoever writes next; False when none are left."""
        with self._lock:
            self.whole = False
            if not self._size:
                return False
            self._size = max(0, self._size - RESERVE_STEP_BYTES)
            os.ftruncate(self._descriptor, self._size)
            return True

    def restore(self) -> None:
        """Makes it whole when the disk has room for it twice; else it stays as it is. For a thread that may wait."""
        if self.whole:
            return
        disk = os.fstatvfs(self._descriptor)
        if disk.f_bavail * disk.f_frsize < 2 * self._full - self._size:
            return
        with self._lock:
            try:
                os.posix_fallocate(self._descriptor, 0, max(1, self._full))
            except OSError as exc:
                os.ftruncate(self._descriptor, self._size)
                if exc.errno not in NO_ROOM:
                    raise
                return
            self._size, self.whole = self._full, True

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)
