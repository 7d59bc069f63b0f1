"""How full one relaying process's part of the spool is, and who fills it: decides what is taken and what is shed.

It writes and measures nothing itself: it is told what was written and which segments are gone. No key fills more than a
quarter, so that nobody can have the bodies of others shed (SECURITY F15).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal
from uuid import UUID

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """What one relaying process may put on the disk, in octets."""

    max_bytes: int = 8192 * MIB
    """This process's share."""
    full: Literal["shed-bodies", "reject"] = "shed-bodies"
    """What gives way first when seven eighths are full: the bodies, or new calls."""
    flush_interval_s: float = 0.05
    """What a power cut may take."""
    whole_bytes: int | None = None
    """What SPOOL_DIR may hold, whoever filled it; None: this process looks at its own part alone."""
    segment_bytes: int = 64 * MIB
    """A segment ends when it and the bodies beside it weigh so much, or a sixteenth of the share."""
    reserve_bytes: int = 8 * MIB
    beside_bytes: int = 256 * 1024
    """A side larger than this has a file of its own."""

    @property
    def segment_ends_at(self) -> int:
        return min(self.segment_bytes, self.max_bytes // 16)


class Room:
    """The account. Everything but `measured` is told and asked in the relay's own thread, for every call."""

    def __init__(self, limits: SpoolLimits) -> None:
        nearly = limits.max_bytes - limits.max_bytes // 8
        rejects = limits.full == "reject"
        self._calls_until = nearly if rejects else limits.max_bytes
        self._bodies_until = limits.max_bytes if rejects else nearly
        self._key_until = limits.max_bytes // 4
        self._beyond_share = 0 if limits.whole_bytes is None else limits.whole_bytes - limits.max_bytes
        self._bounded = limits.whole_bytes is not None
        self._by_key: dict[int, int] = {}
        self._segments: dict[int, dict[int, int]] = {}
        self.disk_full = False
        """The reserve is broken into: what is left of it is for records."""
        self.used = 0
        """Octets of ours that are on the disk."""
        self._excess = 0

    def measured(self, others: int) -> None:
        """Octets of all others in SPOOL_DIR: what they have beyond what our share leaves them is not ours to take."""
        self._excess = max(0, others - self._beyond_share) if self._bounded else 0

    def takes_calls(self) -> bool:
        """Whether a new call may begin."""
        return not self.disk_full and self.used + self._excess < self._calls_until

    def takes_body(self, key: int, size: int) -> bool:
        """Whether this key may put so much more."""
        if self.disk_full:
            return False
        if self.used + self._excess + size > self._bodies_until:
            return False
        return self._by_key.get(key, 0) + size <= self._key_until

    def add(self, segment: int, key: int, size: int) -> None:
        """Written, and there until the segment goes."""
        self.used += size
        by_key = self._by_key
        by_key[key] = by_key.get(key, 0) + size
        keys = self._segments.get(segment)
        if keys is None:
            keys = self._segments[segment] = {}
        keys[key] = keys.get(key, 0) + size

    def spilling(self, key_id: UUID) -> Callable[[int], None]:
        """How a file that belongs to no segment yet asks for room and gives it back."""
        return partial(self._spill, key_id.int)

    def spilt(self, segment: int, key: int, size: int) -> None:
        """What was asked for by `spilling` goes with this segment from now on."""
        keys = self._segments.setdefault(segment, {})
        keys[key] = keys.get(key, 0) + size

    def gone(self, segment: int) -> None:
        """The settler is through with it."""
        for key, size in self._segments.pop(segment, {}).items():
            self._give_back(key, size)

    def segments(self) -> list[int]:
        """Those that weigh something."""
        return list(self._segments)

    def _spill(self, key: int, size: int) -> None:
        if size < 0:
            self._give_back(key, -size)
            return
        if not self.takes_body(key, size):
            raise OSError(errno.EDQUOT, "the spool is full, or this key's part of it")
        self.used += size
        self._by_key[key] = self._by_key.get(key, 0) + size

    def _give_back(self, key: int, size: int) -> None:
        self.used -= size
        left = self._by_key.get(key, 0) - size
        if left > 0:
            self._by_key[key] = left
        else:
            self._by_key.pop(key, None)
