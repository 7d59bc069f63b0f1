"""One relaying process's folder as the settler sees it: its segments in order, and which calls never came to an end.

It writes no record and decides nothing by time: while the process holds its lock, an intent without an end is in
flight; once the lock is free and all was read, it is `interrupted`.

What waits stays in its segment until it is settled; nothing is copied. So a segment lives as long as its last body.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from typing import Final, Protocol
from uuid import UUID

from steward import log
from steward.adapters.spool_files import (
    OWNER,
    RESERVE,
    Folder,
    adopt,
    beside_facts,
    beside_name,
    segment_name,
    segment_number,
)
from steward.adapters.spool_index import NONE, Index
from steward.adapters.spool_progress import Mark
from steward.adapters.spool_scan import Condition, Found, Segment
from steward.seal import Keyring
from steward.wire.frames import Frame, Gap, Kind

SIDES: Final = ("q", "r")

_NO_FILE: Final = frozenset({errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENOTDIR})
"""What stands there is not a regular file."""


class Salvage(Protocol):
    """What becomes of octets that are no record."""

    def gap(self, relay: Relay, segment: Segment, gap: Gap) -> None:
        """Octets within a segment."""

    def wreck(self, relay: Relay, segment: Segment) -> bool:
        """A whole segment of which nothing can be opened; whether its file was taken."""


class Relay:
    """One folder. `segments` are those whose records are not all settled, by number."""

    def __init__(self, folder: Folder, keyring: Keyring, salvage: Salvage) -> None:
        """Takes the folder over. Raises OSError when it cannot be read."""
        self.folder = folder
        self.segments: dict[int, Segment] = {}
        self.lost = 0
        """Records that cannot be had any more: those of segments that are gone, and what could not be read in time."""
        self._keyring = keyring
        self.salvage = salvage
        self._open: dict[UUID, tuple[Segment, int, int]] = {}
        self._lock: int | None = None
        self._concluded = False
        self._said_ownerless = False
        self._listed_ns = 0
        self._has_besides = False
        self._last = -1
        self._besides: set[UUID] = set()
        """Calls with files of their own when this was opened: some may be settled already."""
        self._list(first=True)

    @property
    def dead(self) -> bool:
        """Its process is gone."""
        return self._lock is not None

    def look(self, budget: int) -> int:
        """Reads what is new, about `budget` octets of it; how much it was."""
        if self._concluded:
            return 0
        self._find_more()
        read = 0
        for number in sorted(self.segments):
            segment = self.segments[number]
            while not segment.over:
                if read >= budget:
                    return read
                found = self._look_at(segment, ended=self.dead or number < self._last)
                if found is None:
                    break
                read += found.read_bytes
                self._take_in(segment, found)
                if not found.again:
                    break
            if not segment.over:
                # What comes after it is read after it: an intent before its end.
                if number in self.segments:
                    return read
                continue
            self._end(segment)
        if self.dead:
            self._conclude()
        return read

    def drop_settled(self) -> None:
        """Segments of which nothing is needed any more go."""
        for number in [number for number, segment in self.segments.items() if segment.settled()]:
            segment = self.segments.pop(number)
            self._mark_answered(segment)
            self.lost += segment.lost_records()
            if segment.condition is Condition.DAMAGED and not self.salvage.wreck(self, segment):
                segment.rest()
                continue
            segment.remove()
            self.remove_besides(segment)

    def forget(self, segment: Segment) -> None:
        """Its file is gone, and what waited in it is lost."""
        if self.segments.pop(segment.number, None) is not None:
            self.lost += segment.lost_records() + segment.index.unsettled()
            segment.index = Index()
            segment.rest()

    def remove_besides(self, segment: Segment) -> None:
        """The files of calls that are settled go."""
        for request_id in segment.besides:
            self._remove_beside(request_id)
        segment.besides.clear()

    def _remove_beside(self, request_id: UUID) -> None:
        for side in SIDES:
            self.folder.remove(beside_name(request_id, side))

    def known_lost(self) -> int:
        """Records known to be missing."""
        return self.lost + sum(segment.lost_records() for segment in self.segments.values())

    def finished(self) -> bool:
        """Its process is gone and nothing of it waits."""
        return self._concluded and not self.segments

    def leave(self) -> bool:
        """Takes what is left of a finished folder away. False when something stands there that is not ours."""
        names = set(self.folder.names())
        ours = {name for name in names if name.endswith(".done") or beside_facts(name) is not None}
        for name in ours | (names & {RESERVE}):
            self.folder.remove(name)
        if names - ours - {RESERVE, OWNER}:
            return False
        self.folder.remove(OWNER)
        return True

    def rest(self) -> None:
        """Gives back the files of segments that were read to their end."""
        for segment in self.segments.values():
            if segment.over:
                segment.rest()

    def close(self) -> None:
        """Gives back all it holds open, the lock included. Safe to call twice."""
        for segment in self.segments.values():
            segment.rest()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self.folder.close()

    def stand_in(self, segment: Segment, place: int) -> bool:
        """The record at this place cannot be read: its intent waits in its stead. False when that is gone, too."""
        index = segment.index
        elsewhere = segment.answered.pop(place, None)
        if elsewhere is not None and (earlier := self.segments.get(elsewhere[0])) is not None:
            # Not marked on disk: that would say that the intent was answered.
            size = earlier.size_at(elsewhere[1])
            if size is None:
                return False
            earlier.index.add(elsewhere[1], size, index.time_ms(place))
            index.settle(place)
            return True
        intent = index.intent(place)
        size = None if intent == NONE else segment.size_at(intent)
        return size is not None and index.fall_back(place, size)

    def _find_more(self) -> None:
        """The lock first, then what stands there: whoever has no lock adds nothing."""
        if self._lock is None:
            try:
                self._lock = adopt(self.folder)
            except OSError as exc:
                # Nobody can tell whether it lives. It is taken for living: then nothing of it is thrown away.
                if not self._said_ownerless:
                    log.error("spool_owner_unreadable", exc)
                self._said_ownerless = True
            if self._lock is not None:
                self._list(first=False)
                return
        while self.folder.size(segment_name(self._last + 1)) is not None:
            self._add(self._last + 1)

    def _list(self, first: bool) -> None:
        names = self.folder.names()
        for number in sorted(number for name in names if (number := segment_number(name)) is not None):
            if number > self._last:
                self._add(number)
        if first:
            self._besides = {facts[0] for name in names if (facts := beside_facts(name)) is not None}

    def _add(self, number: int) -> None:
        self._last = number
        self.segments[number] = Segment(self.folder, number)

    def _look_at(self, segment: Segment, ended: bool) -> Found | None:
        """None when the file is not one, which is then left alone."""
        try:
            return segment.look(self._keyring, ended)
        except FileNotFoundError as exc:
            log.error("spool_segment_vanished", exc)
            self.forget(segment)
        except OSError as exc:
            log.error("spool_segment_unreadable", exc)
            if exc.errno in _NO_FILE:
                del self.segments[segment.number]
        return None

    def _take_in(self, segment: Segment, found: Found) -> None:
        if segment.condition is not Condition.OPEN:
            segment.lost.update(frame.number for frame in found.frames)
            return
        for gap in found.gaps:
            self.salvage.gap(self, segment, gap)
        self._look_for_besides()
        for frame in found.frames:
            if frame.kind is Kind.INTENT:
                self._intent(segment, frame)
            else:
                self._ended(segment, frame)

    def _intent(self, segment: Segment, frame: Frame) -> None:
        if segment.mark(frame.start) is not None:
            return
        if (before := self._open.get(frame.id)) is not None:
            before[0].open_intents -= 1
        self._open[frame.id] = (segment, frame.start, frame.end - frame.start)
        segment.open_intents += 1

    def _ended(self, segment: Segment, frame: Frame) -> None:
        intent, elsewhere = NONE, None
        if (begun := self._open.pop(frame.id, None)) is not None:
            begun[0].open_intents -= 1
            if begun[0] is segment:
                intent = begun[1]
            else:
                elsewhere = (begun[0].number, begun[1])
        mark = segment.mark(frame.start)
        place = segment.index.add(frame.start, frame.end - frame.start, _time_ms(frame.id), intent, mark)
        if elsewhere is not None:
            segment.answered[place] = elsewhere
        if mark is not Mark.DONE:
            segment.index.has_beside(place, self._beside_bytes(frame.id))
        elif frame.id in self._besides:
            self._remove_beside(frame.id)

    def _look_for_besides(self) -> None:
        """A folder that did not change has no new ones.

        Within one tick of the kernel's clock it may have: then the depth falls short until the record is handed out.
        """
        changed_ns = os.fstat(self.folder.descriptor).st_mtime_ns
        if changed_ns != self._listed_ns:
            self._listed_ns = changed_ns
            self._has_besides = any(beside_facts(name) is not None for name in self.folder.names())

    def _beside_bytes(self, request_id: UUID) -> int:
        if not self._has_besides:
            return 0
        return sum(self.folder.size(beside_name(request_id, side)) or 0 for side in SIDES)

    def _end(self, segment: Segment) -> None:
        """All of it was read: its file is given back until a record is asked for."""
        segment.rest()
        if segment.condition is Condition.SHUT and not segment.said_shut:
            segment.said_shut = True
            log.say("spool_segment_shut", logging.ERROR, bytes=segment.size_bytes)

    def _conclude(self) -> None:
        """The process is gone and all it wrote was read: what never came to an end never will."""
        for request_id, (segment, offset, size) in self._open.items():
            segment.index.add(offset, size, _time_ms(request_id))
            segment.open_intents -= 1
        self._open.clear()
        self._besides.clear()
        self._concluded = True

    def _mark_answered(self, segment: Segment) -> None:
        """The segment goes, and with it the ends of calls whose intents stand in earlier ones."""
        by_number: dict[int, list[int]] = {}
        for number, offset in segment.answered.values():
            by_number.setdefault(number, []).append(offset)
        for number, offsets in by_number.items():
            if (earlier := self.segments.get(number)) is not None:
                marked(earlier, [(offset, Mark.DONE) for offset in offsets])


def marked(segment: Segment, new: Iterable[tuple[int, Mark]]) -> bool:
    """Whether these marks are on disk. A disk that does not take them is said, and they go with the next ones."""
    try:
        return segment.progress.write(new)
    except OSError as exc:
        log.error("spool_progress_unwritable", exc)
        return False


def _time_ms(request_id: UUID) -> int:
    """When the call was made: the first 48 bits of a UUIDv7."""
    return request_id.int >> 80
