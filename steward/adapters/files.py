"""Body objects as files of this host: one folder, each written whole or not at all.

It follows no link below that folder, leaves nothing that others can read, and never opens a path by its full name.

A batch is brought to the disk by one `syncfs(2)` where the kernel reports what failed in it (Linux 5.8): 0.1 ms of CPU
a file less than `fsync` of each, measured on ext4. When that call fails, each file is synced alone, so that the fault
is the fault of its own file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import BinaryIO, Final, NoReturn
from urllib.parse import quote
from uuid import uuid4

from steward.body_object import key_facts, place
from steward.destination import FilesDestination
from steward.errors import BodyNotFound, BodyTooLarge, StoreRefused, StoreUnavailable
from steward.exchange import BodyRef
from steward.ports import Put, PutResult, StoredObject
from steward.uploads import put_all

AT_ONCE: Final = 256
"""Files in one batch, open meanwhile."""
PARALLEL: Final = 16
"""Of these, brought to the disk at a time: what comes together shares one turn of its journal."""
SYNCED_TOGETHER: Final = 16
"""Files from which on one call for the file system is cheaper than one for each."""

_REFUSALS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)
"""What a person must put right. A full disk, a folder not yet mounted or a failing device may pass by itself."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesBodyStore:
    """Files of mode 0600 in folders of mode 0700 below the destination's folder, which is made when it is missing."""

    def __init__(self, destination: FilesDestination, sync_all: Callable[[int], bool] | None = None) -> None:
        """`sync_all` brings a folder's whole file system to its disk, or says no: `file_system_synced` when None.

        Raises ValueError for a folder that is not absolute.
        """
        if not os.path.isabs(destination.folder) or "\x00" in destination.folder:
            raise ValueError("the folder of a file store is absolute")
        self._folder = os.path.normpath(destination.folder)
        self._sync_all = sync_all or file_system_synced

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        batches = [puts[at : at + AT_ONCE] for at in range(0, len(puts), AT_ONCE)]
        return [result for batch in batches for result in self._put_batch(batch)]

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        parts = place("", key).split("/")
        try:
            with self._opened(parts[:-1], make=False) as folder:
                handle = os.open(parts[-1], _READ, dir_fd=folder)
                with open(handle, "rb") as file:
                    found = os.fstat(handle)
                    if not stat.S_ISREG(found.st_mode):
                        raise StoreRefused
                    if most_bytes is not None and found.st_size > most_bytes:
                        raise BodyTooLarge
                    return file.read()
        except FileNotFoundError:
            raise BodyNotFound from None
        except OSError as exc:
            _fail(exc)

    def delete(self, key: str) -> None:
        parts = place("", key).split("/")
        try:
            with self._opened(parts[:-1], make=False) as folder:
                os.unlink(parts[-1], dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as exc:
            _fail(exc)

    def listed(self, since: date) -> Iterator[StoredObject]:
        try:
            for key_folder in self._names([]):
                for day in self._names([key_folder]):
                    if day >= since.isoformat():
                        yield from self._listed_in([key_folder, day])
        except OSError as exc:
            _fail(exc)

    def url(self, key: str) -> str:
        place("", key)
        return f"file://{quote(f'{self._folder}/{key}')}"

    def close(self) -> None:
        """There is nothing to give back."""

    def _names(self, parts: Sequence[str]) -> list[str]:
        try:
            with self._opened(parts, make=False) as folder:
                return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _listed_in(self, parts: Sequence[str]) -> Iterator[StoredObject]:
        for name in self._names(parts):
            key = "/".join((*parts, name))
            if key_facts(key) is None:
                continue
            with contextlib.suppress(FileNotFoundError), self._opened(parts, make=False) as folder:
                about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(about.st_mode):
                    yield StoredObject(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def _put_batch(self, puts: Sequence[Put]) -> list[PutResult]:
        """All are written, then all are brought to the disk, then their folders: the fewest turns of its journal."""
        with contextlib.ExitStack() as opened:
            folders: dict[tuple[str, ...], int] = {}
            parts: list[_Part] = []
            for put in puts:
                with _noted(part := _Part(put)):
                    part.begin(self._open_once(folders, opened, place("", put.key).split("/")[:-1]))
                parts.append(part)
            self._finish_all(parts, list(folders.values()))
            moved = {part.folder for part in parts if part.fault is None}
            unsynced = {folder for folder in moved if not _synced(folder)}
            return [part.result(self.url, part.folder in unsynced) for part in parts]

    def _finish_all(self, parts: Sequence[_Part], folders: Sequence[int]) -> None:
        if len(parts) >= SYNCED_TOGETHER and folders and self._sync_all(folders[0]):
            # All folders lie below ours, and no link below it is followed. A file system mounted between would not be
            # covered: then each file is synced alone.
            device = os.fstat(folders[0]).st_dev
            for part in parts:
                with _noted(part):
                    part.finish(synced=part.folder >= 0 and os.fstat(part.folder).st_dev == device)
            return
        put_all(_finish, parts, PARALLEL, "body-files")

    def _open_once(
        self, folders: dict[tuple[str, ...], int], opened: contextlib.ExitStack, names: Sequence[str]
    ) -> int:
        """The folder of these names, open until the batch ends."""
        key = tuple(names)
        if key not in folders:
            folders[key] = opened.enter_context(self._opened(names, make=True))
        return folders[key]

    @contextlib.contextmanager
    def _opened(self, parts: Sequence[str], make: bool) -> Iterator[int]:
        """The folder below ours that these parts name, opened part by part, so that no link can lead out."""
        if make:
            os.makedirs(self._folder, 0o700, exist_ok=True)
        # The folder itself may be a link: who set it up chose it.
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if make:
                    _make(folder, part)
                below = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


def _make(folder: int, part: str) -> None:
    """A folder in a folder, when it is missing; on disk before anything stands in it."""
    try:
        os.mkdir(part, 0o700, dir_fd=folder)
    except FileExistsError:
        return
    os.fsync(folder)


class _Part:
    """One object on its way: under a name of its own until all of it is on disk."""

    def __init__(self, put: Put) -> None:
        self.folder = -1
        self.fault: PutResult | None = None
        self._put = put
        self._name = f".{uuid4().hex}.part"
        self._file: BinaryIO | None = None

    def begin(self, folder: int) -> None:
        """Its octets are the kernel's. Raises OSError."""
        self.folder = folder
        self._file = open(os.open(self._name, _NEW, 0o600, dir_fd=folder), "wb", buffering=0)  # noqa: SIM115
        source = self._put.source
        if isinstance(source, bytes):
            left = memoryview(source)
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        else:
            source.seek(0)
            shutil.copyfileobj(source, self._file, 1 << 20)

    def finish(self, synced: bool) -> None:
        """Its octets are on disk (`synced`: they are already), and it has its name. Raises OSError."""
        if self._file is None:
            return
        if not synced:
            os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        os.rename(self._name, self._put.key.rpartition("/")[2], src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def failed(self, fault: PutResult) -> None:
        """Nothing is left behind of it."""
        self.fault = fault
        if self.folder >= 0:
            if self._file is not None:
                self._file.close()
                self._file = None
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self.folder)

    def result(self, url: Callable[[str], str], unsynced: bool) -> PutResult:
        """What became of it. `unsynced`: its name may not be on disk."""
        put = self._put
        if self.fault is not None:
            return self.fault
        if unsynced:
            return PutResult(None, code="EIO")
        return PutResult(BodyRef(put.key, url(put.key), put.sha256, put.size_bytes))


def _finish(part: _Part) -> None:
    with _noted(part):
        part.finish(synced=False)


@contextlib.contextmanager
def _noted(part: _Part) -> Iterator[None]:
    """What fails within is this part's fault alone."""
    try:
        yield
    except ValueError:
        part.failed(PutResult(None, refused=True, code="InvalidKey"))
    except OSError as exc:
        part.failed(PutResult(None, refused=exc.errno in _REFUSALS, code=errno.errorcode.get(exc.errno or 0)))


@cache
def _syncfs() -> Callable[[int], int] | None:
    """The C library's, where the kernel tells what failed to be written (since Linux 5.8)."""
    major, _, rest = platform.release().partition(".")
    minor = rest.partition(".")[0]
    if platform.system() != "Linux" or not (major.isdecimal() and minor.isdecimal()):
        return None
    if (int(major), int(minor)) < (5, 8):
        return None
    call: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "syncfs", None)
    return call


def file_system_synced(folder: int) -> bool:
    """All that was written to the file system of `folder` is on its disk; False when that cannot be had or said."""
    call = _syncfs()
    return call is not None and call(folder) == 0


def _synced(folder: int) -> bool:
    try:
        os.fsync(folder)
    except OSError:
        return False
    return True


def _fail(exc: OSError) -> NoReturn:
    if exc.errno in _REFUSALS:
        raise StoreRefused from exc
    raise StoreUnavailable from exc
