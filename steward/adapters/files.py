"""Body objects as files of this host: one folder, each written whole or not at all.

It follows no link below that folder, leaves nothing that others can read, and never opens a path by its full name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn
from urllib.parse import quote
from uuid import uuid4

from steward.body_object import place
from steward.destination import FilesDestination
from steward.errors import BodyNotFound, StoreRefused, StoreUnavailable
from steward.exchange import BodyRef
from steward.ports import Put, PutResult, Source
from steward.uploads import put_all

PARALLEL: Final = 4
"""Writers at a time: what syncs together shares the disk's journal."""

_REFUSALS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)
"""What a person must put right. A full disk, a folder not yet mounted or a failing device may pass by itself."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesBodyStore:
    """Files of mode 0600 in folders of mode 0700 below the destination's folder, which is made when it is missing."""

    def __init__(self, destination: FilesDestination) -> None:
        """Raises ValueError for a folder that is not absolute."""
        if not os.path.isabs(destination.folder) or "\x00" in destination.folder:
            raise ValueError("the folder of a file store is absolute")
        self._folder = os.path.normpath(destination.folder)

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        return put_all(self._put, puts, PARALLEL, "body-files")

    def get(self, key: str) -> bytes:
        parts = place("", key).split("/")
        try:
            with self._opened(parts[:-1], make=False) as folder:
                handle = os.open(parts[-1], _READ, dir_fd=folder)
                with open(handle, "rb") as file:
                    if not stat.S_ISREG(os.fstat(handle).st_mode):
                        raise StoreRefused
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

    def close(self) -> None:
        """There is nothing to give back."""

    def _put(self, put: Put) -> PutResult:
        try:
            parts = place("", put.key).split("/")
            with self._opened(parts[:-1], make=True) as folder:
                _write(folder, parts[-1], put.source)
        except ValueError:
            return PutResult(None, refused=True, code="InvalidKey")
        except OSError as exc:
            return PutResult(None, refused=exc.errno in _REFUSALS, code=errno.errorcode.get(exc.errno or 0))
        url = f"file://{quote(f'{self._folder}/{put.key}')}"
        return PutResult(BodyRef(put.key, url, put.sha256, put.size_bytes))

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


def _write(folder: int, name: str, source: Source) -> None:
    """The file under its name only when all of it is on disk; nothing is left behind when that fails."""
    part = f".{uuid4().hex}.part"
    with open(os.open(part, _NEW, 0o600, dir_fd=folder), "wb") as file:
        try:
            if isinstance(source, bytes):
                file.write(source)
            else:
                source.seek(0)
                shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(part, dir_fd=folder)
            raise
    os.fsync(folder)


def _fail(exc: OSError) -> NoReturn:
    if exc.errno in _REFUSALS:
        raise StoreRefused from exc
    raise StoreUnavailable from exc
