"""A disk of a few megabytes that a test can fill to its last page, and free again.

It is a tmpfs: only root may mount one, so where we are not root there is none, and who asks is told.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BALLAST = "ballast"
_STEPS = (1 << 20, 1 << 16, 1 << 12)


class NoSmallDisk(Exception):
    """This process may not mount one."""


class SmallDisk:
    """A mounted folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Takes what is left of it. What others free later stays free: say it again."""
        handle = os.open(self.folder / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for step in _STEPS:
                with contextlib.suppress(OSError):
                    while os.write(handle, bytes(step)) == step:
                        pass
        finally:
            os.close(handle)

    def free(self) -> None:
        """Gives it all back."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mounted on a new folder until the block ends. Raises NoSmallDisk."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "steward-small-disk", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        raise NoSmallDisk from None
    if done.returncode:
        raise NoSmallDisk
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=True)
