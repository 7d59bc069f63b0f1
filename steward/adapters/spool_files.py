"""What a spool's writer and its reader agree on: folders, names, modes, locks, and how a segment is sealed.

It follows no link, opens nothing by a long path, reads no record, and decides nothing by a clock or a process's number.

    SPOOL_DIR/ settler | relays/{uuid}/ owner reserve {n:08d}.seg {n:08d}.done {request uuid}.q .r | quarantine/...

A relaying process holds the lock on `owner` for life. Its folder begins as `.{uuid}` and gets its name when the lock is
held, so that nobody finds it without.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steward.errors import SealBroken, SettingError
from steward.seal import KEY_BYTES, OVERHEAD_BYTES, TAG_BYTES, Keyring, Purpose, SealFacts
from steward.wire.frames import Frame, Kind

SETTLER: Final = "settler"
RELAYS: Final = "relays"
QUARANTINE: Final = "quarantine"
OWNER: Final = "owner"
RESERVE: Final = "reserve"

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

FORMAT: Final = 1
SEGMENT_MAGIC: Final = b"MDSPOOL\n"
SEGMENT_HEADER_BYTES: Final = len(SEGMENT_MAGIC) + 1 + KEY_BYTES + OVERHEAD_BYTES
SEALING_BYTES: Final = TAG_BYTES
"""What sealing adds to a frame's payload."""

_SEGMENT: Final = re.compile(r"([0-9]{8})\.seg")
_BESIDE: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([qr])")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def segment_name(number: int) -> str:
    """The file of a process's `number`-th segment, from 0."""
    return f"{number:08d}.seg"


def done_name(number: int) -> str:
    """The settler's progress in that segment."""
    return f"{number:08d}.done"


def segment_number(name: str) -> int | None:
    """Which segment a file of this name is, if one."""
    found = _SEGMENT.fullmatch(name)
    return int(found[1]) if found else None


def beside_name(request_id: UUID, side: str) -> str:
    """The sealed file of one side's body; `side` is `q` (request) or `r` (response)."""
    return f"{request_id}.{side}"


def beside_facts(name: str) -> tuple[UUID, str] | None:
    """Whose body a file of this name holds, and which side, if it is one."""
    found = _BESIDE.fullmatch(name)
    return (UUID(found[1]), found[2]) if found else None


class Folder:
    """One open folder. Every name is a plain one within it; nothing is reached through a link.

    Methods raise OSError, and ValueError for a name that is not plain.
    """

    __slots__ = ("descriptor", "name")

    def __init__(self, descriptor: int, name: str) -> None:
        """Takes the descriptor over."""
        self.descriptor = descriptor
        self.name = name
        """The last part of its path."""

    def folder(self, name: str, *, make: bool = False) -> Folder:
        """A folder within this one, made (0700) when it is missing and may be."""
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_plain(name), FOLDER_MODE, dir_fd=self.descriptor)
        return Folder(os.open(_plain(name), _FOLDER, dir_fd=self.descriptor), name)

    def create(self, name: str, *, append: bool = False) -> int:
        """The descriptor of a new file (0600), for writing. Raises FileExistsError when there is one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | (os.O_APPEND if append else 0) | _FILE
        return os.open(_plain(name), flags, FILE_MODE, dir_fd=self.descriptor)

    def open(self, name: str, *, write: bool = False, append: bool = False, make: bool = False) -> int:
        """The descriptor of a regular file, made when it is missing and may be. Anything else there is refused."""
        flags = (os.O_RDWR if write or append or make else os.O_RDONLY) | (os.O_APPEND if append else 0) | _FILE
        handle = os.open(_plain(name), flags | (os.O_CREAT if make else 0), FILE_MODE, dir_fd=self.descriptor)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "not a regular file")
        return handle

    def size(self, name: str) -> int | None:
        """Octets in a file; None when there is none of that name."""
        try:
            return os.stat(_plain(name), dir_fd=self.descriptor, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """What stands in it, in no order."""
        return os.listdir(self.descriptor)

    def remove(self, name: str) -> None:
        """Takes a file (or a link, never what it points to) away; nothing happens when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_plain(name), dir_fd=self.descriptor)

    def remove_folder(self, name: str) -> None:
        """Takes an empty folder away."""
        os.rmdir(_plain(name), dir_fd=self.descriptor)

    def rename(self, name: str, to: str) -> None:
        """Gives a file or folder in it another name, in one step."""
        os.rename(_plain(name), _plain(to), src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def sync(self) -> None:
        """Its names are on disk when this returns."""
        os.fsync(self.descriptor)

    def bytes_below(self) -> int:
        """What all files below it take on the disk. What goes away meanwhile counts nothing."""
        total = 0
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if entry.is_dir(follow_symlinks=False):
                        with contextlib.closing(self.folder(entry.name)) as below:
                            total += below.bytes_below()
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        return total

    def close(self) -> None:
        """Gives the descriptor back. Safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _plain(name: str) -> str:
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ValueError("a plain name within a folder")
    return name


def open_spool(path: Path) -> Folder:
    """The spool's own folder, made when it is missing: ours, for us alone, no link.

    Raises SettingError, whose sentence says what is wrong with SPOOL_DIR.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(FOLDER_MODE, parents=True)
        folder = Folder(os.open(path, _FOLDER), path.name)
    except OSError as exc:
        said = _WRONG.get(exc.errno or 0, "cannot be opened or made")
        raise SettingError(f"SPOOL_DIR: the folder {said}.") from exc
    status = os.fstat(folder.descriptor)
    # Below a folder of a group's (a volume with fsGroup) it inherits a bit that lets nobody in.
    if status.st_uid != os.geteuid() or status.st_mode & 0o777 != FOLDER_MODE:
        folder.close()
        raise SettingError("SPOOL_DIR: the folder must belong to the user that runs the Steward, with mode 0700.")
    return folder


_WRONG: Final = {
    errno.ELOOP: "must not be a link",
    errno.ENOTDIR: "must not be a link or a file",
    errno.EACCES: "is not accessible to the user that runs the Steward",
    errno.ENOSPC: "cannot be made: the disk is full",
    errno.EROFS: "lies on a disk that cannot be written",
}


def lock(folder: Folder, name: str) -> int | None:
    """Makes the file if need be and locks it for as long as its descriptor is open; None when another has the lock."""
    handle = folder.open(name, make=True)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def adopt(relay: Folder) -> int | None:
    """The lock of a relay whose process is gone: held until its descriptor is closed. None while the process lives.

    Raises FileNotFoundError for a folder without `owner`.
    """
    handle = relay.open(OWNER)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def new_relay(spool: Folder) -> tuple[Folder, int]:
    """A folder for this process, and the lock that says it lives: held until its descriptor is closed.

    Raises OSError.
    """
    with contextlib.closing(spool.folder(RELAYS, make=True)) as relays:
        while True:
            name = str(uuid4())
            relay = relays.folder(f".{name}", make=True)
            # Whoever clears what was left unfinished may be quicker: then there is another folder to be made.
            with contextlib.suppress(FileNotFoundError):
                owner = lock(relay, OWNER)
                if owner is not None:
                    relays.rename(f".{name}", name)
                    relays.sync()
                    relay.name = name
                    return relay, owner
            relay.close()


def relay_names(relays: Folder) -> Iterator[str]:
    """The folders of relays, living and dead, among what stands there."""
    for name in relays.names():
        with contextlib.suppress(ValueError):
            if str(UUID(name)) == name:
                yield name


_FACTS: Final = {int(kind): bytes((FORMAT, kind)) for kind in Kind}
"""What a sealed payload is bound to, before its call's id."""


@dataclass(frozen=True, slots=True)
class SegmentSeal:
    """What seals and opens the frames of one segment."""

    cipher: AESGCM

    def seal(self, kind: int, number: int, request_id: bytes, payload: bytes) -> bytes:
        """`number` is the frame's own, used once for each segment: it is the nonce."""
        return self.cipher.encrypt(number.to_bytes(12, "big"), payload, _FACTS[kind] + request_id)

    def open(self, frame: Frame) -> bytes:
        """The payload in clear. Raises SealBroken for a frame of another segment, call or kind, or a changed one."""
        facts = _FACTS[frame.kind] + frame.id.bytes
        try:
            return self.cipher.decrypt(frame.number.to_bytes(12, "big"), frame.payload, facts)
        except InvalidTag:
            raise SealBroken from None


def new_segment(keyring: Keyring, relay: str, number: int) -> tuple[bytes, SegmentSeal]:
    """The octets a segment starts with, and its seal: a key of its own, under the spool's (SECURITY F18)."""
    key = AESGCM.generate_key(KEY_BYTES * 8)
    sealed = keyring.seal(Purpose.SPOOL, key, _segment_facts(relay, number))
    return SEGMENT_MAGIC + bytes((FORMAT,)) + sealed, SegmentSeal(AESGCM(key))


def open_segment(keyring: Keyring, relay: str, number: int, header: bytes) -> SegmentSeal:
    """The seal of a segment from its first `SEGMENT_HEADER_BYTES`. Raises SealBroken."""
    start = SEGMENT_MAGIC + bytes((FORMAT,))
    if len(header) != SEGMENT_HEADER_BYTES or not header.startswith(start):
        raise SealBroken
    key = keyring.open(Purpose.SPOOL, header[len(start) :], _segment_facts(relay, number))
    return SegmentSeal(AESGCM(key.reveal()))


def _segment_facts(relay: str, number: int) -> SealFacts:
    return SealFacts(row_id=f"segment/{number}", owner=relay)
