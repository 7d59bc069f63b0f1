"""SPOOL_DIR before anything is kept there: that it is ours alone, and what it lies on.

It makes the folder and nothing in it, and changes no mode or owner of what it finds.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from steward.errors import SettingError

_MOUNTS = Path("/proc/self/mountinfo")
_MOUNT = re.compile(r"\S+ \S+ \S+ \S+ (?P<point>\S+) .*? - (?P<kind>\S+) ")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_DOUBTS = {
    "tmpfs": "lies in memory (tmpfs): calls that wait there end with the host or the container; mount a volume",
    "ramfs": "lies in memory (ramfs): calls that wait there end with the host or the container; mount a volume",
    "overlay": "lies in the container's own layer: calls that wait there end with the container; mount a volume",
    "aufs": "lies in the container's own layer: calls that wait there end with the container; mount a volume",
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs"),
        "lies on a network file system: its locks and writes cannot be relied on; use a local disk",
    ),
}
"""Kind of file system -> what is wrong with it."""


def prepare(folder: Path, mounts: Path = _MOUNTS) -> list[str]:
    """Makes the folder when it is not there. Returns warnings. Raises SettingError, one line: ours, 0700, no link.

    `mounts`: where the kernel lists what is mounted; without it (no Linux) nothing is said.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError:
        raise SettingError(
            "SPOOL_DIR: the folder cannot be made; its parent must be there and be ours to write in"
        ) from None
    check(folder)
    kind = file_system(folder, mounts)
    return [f"SPOOL_DIR: {_DOUBTS[kind]}"] if kind in _DOUBTS else []


def check(folder: Path) -> None:
    """Raises SettingError unless it is a folder of ours alone, and no link."""
    try:
        found = folder.lstat()
    except OSError:
        raise SettingError("SPOOL_DIR: there is no such folder, or it cannot be looked at") from None
    if stat.S_ISLNK(found.st_mode):
        raise SettingError("SPOOL_DIR: is a link; name the folder itself")
    if not stat.S_ISDIR(found.st_mode):
        raise SettingError("SPOOL_DIR: is not a folder")
    if found.st_uid != os.geteuid():
        raise SettingError("SPOOL_DIR: belongs to another user; give it to the one that runs the Steward")
    if stat.S_IMODE(found.st_mode) & 0o777 != 0o700:
        raise SettingError("SPOOL_DIR: others may enter it, or we may not; its mode must be 0700 (chmod 700)")


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of file system a folder lies on, None when that cannot be told."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    found: tuple[int, str] | None = None
    for line in lines:
        parts = _MOUNT.match(line)
        if parts is None:
            continue
        point = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), parts["point"]))
        depth = len(point.parts)
        # What was mounted later lies over what was there before.
        if (point == place or point in place.parents) and (found is None or depth >= found[0]):
            found = (depth, parts["kind"])
    return found[1] if found else None
