"""One segment as the settler sees it: read once from end to end while it grows, then record by record.

It holds offsets, never bodies; it writes nothing into the segment, and what it cannot read it names by octets and
number.

A frame's number is used once in its segment. So a frame whose number was seen before is a repetition and is passed
over; numbers that are missing where octets are damaged are records that were cut or overwritten. (A number may also be
missing where nothing is: a writer gives none twice, and a disk that was full took only a part of that frame.)
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from uuid import UUID

from steward import log
from steward.adapters.spool_files import (
    FORMAT,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    Folder,
    SegmentSeal,
    done_name,
    open_segment,
    segment_name,
)
from steward.adapters.spool_index import Index
from steward.adapters.spool_progress import Mark, Progress
from steward.errors import SealBroken
from steward.seal import KEY_ID_BYTES, Keyring
from steward.wire import frames
from steward.wire.frames import Frame, Gap

READ_BYTES: Final = frames.MAX_PAYLOAD_BYTES + frames.FRAME_BYTES + 256 * 1024
"""Read at a time: more than any frame has."""

PAGE_BYTES: Final = mmap.PAGESIZE
"""The kernel takes a write page by page and stops between two when the process is killed. What ends so was never
accepted: its writer had not heard of it, and nothing was sent or answered on the strength of it. So it is not lost."""

_MAX_JUMP: Final = 1 << 22
"""More frames than fit into a segment: a number so far ahead is not a writer's."""

_KINDS: Final = {kind.value: kind for kind in frames.Kind}
_KEY_ID_AT: Final = len(SEGMENT_MAGIC) + 2


class Condition(Enum):
    """What the segment's header says."""

    NEW = "new"
    """It is not all there yet."""
    OPEN = "open"
    SHUT = "shut"
    """Sealed with another ENCRYPTION_KEY, or by a later release: nothing is known of it, and nothing is done to it."""
    DAMAGED = "damaged"
    """It was our key, or no header of ours at all: what was sealed under it cannot be opened by anybody."""


@dataclass(slots=True)
class Found:
    """What one reading found: whole new frames in order, and octets that are none."""

    frames: list[Frame] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    read_bytes: int = 0
    again: bool = False
    """There is more to be read at once."""


class Segment:
    """One segment. Its file is opened when it is read, and given back by `rest`."""

    def __init__(self, relay: Folder, number: int) -> None:
        """Nothing is read yet. Raises OSError when the folder cannot be asked for it."""
        self.number = number
        self.index = Index()
        self.progress = Progress(relay, done_name(number))
        self.condition = Condition.NEW
        self.open_intents = 0
        """Intents found here whose ends were not found yet."""
        self.answered: dict[int, tuple[int, int]] = {}
        """By place: segment and offset of the intent, where that stands in an earlier segment."""
        self.over = False
        """Nothing is added to it any more, and all of it was read."""
        self.size_bytes = relay.size(segment_name(number)) or 0
        """Octets of the file when it was last looked at."""
        self.read_to = 0
        self.lost: set[int] = set()
        """Numbers of records that were there once."""
        self.bodies_lost: set[int] = set()
        """Places of records whose bodies' files are gone or damaged."""
        self.besides: list[UUID] = []
        """Calls that are settled and whose bodies' files are still there."""
        self.said_shut = False
        self._relay = relay
        self._seal: SegmentSeal | None = None
        self._next_number = 0
        self._absent: set[int] = set()
        self._marks: dict[int, Mark] | None = None
        self._doubted: set[int] = set()
        self._handle = -1

    def mark(self, offset: int) -> Mark | None:
        """How far the record at this offset had come in an earlier life of the settler."""
        if self._marks is None:
            try:
                self._marks = self.progress.load()
            except OSError as exc:
                # Not a file of ours: it goes, and its records are settled once more.
                log.error("spool_progress_unreadable", exc)
                self.progress.remove()
                self._marks = {}
        return self._marks.get(offset)

    def look(self, keyring: Keyring, ended: bool) -> Found:
        """The next part of it, at most `READ_BYTES`. `ended`: its writer is past it.

        Raises OSError for a file of another kind.
        """
        found = Found()
        handle = self._opened()
        self.size_bytes = size = os.fstat(handle).st_size
        if self.condition is Condition.NEW and not self._read_header(keyring, handle, ended):
            self.over = ended
            return found
        if self.condition is Condition.SHUT:
            self.over = ended
            return found
        if size < self.read_to:
            self.read_to = SEGMENT_HEADER_BYTES
        if size > self.read_to:
            data = os.pread(handle, READ_BYTES, self.read_to)
            found.read_bytes = len(data)
            at_end = self.read_to + len(data) >= size
            parts, used = frames.decode(data, self.read_to, ended=ended and at_end)
            if self._may_be_cut(parts):
                self.read_to = SEGMENT_HEADER_BYTES
                found.again = True
                return found
            self._sort(parts, found, data, ended and at_end)
            self.read_to += used
            found.again = used > 0 and not at_end
        if ended and self.read_to >= size:
            self.over = True
            self._marks = None
        return found

    def frame(self, offset: int, size: int) -> Frame | None:
        """The frame that was found here; None when none of that length is there any more.

        Its checksum was right once; whether it is as it was is for `payload` to say.
        """
        data = os.pread(self._opened(), size, offset)
        if len(data) < size or size < frames.FRAME_BYTES:
            return None
        magic, kind, number, length, request_id = frames.HEAD.unpack_from(data)
        if magic != frames.MAGIC or kind not in _KINDS or length + frames.FRAME_BYTES != size:
            return None
        payload = data[frames.HEAD_BYTES : -frames.TAIL_BYTES]
        return Frame(_KINDS[kind], number, UUID(bytes=request_id), payload, offset, offset + size)

    def size_at(self, offset: int) -> int | None:
        """The length of the frame whose head stands here; None when there is none."""
        head = os.pread(self._opened(), frames.HEAD_BYTES, offset)
        if len(head) < frames.HEAD_BYTES or not head.startswith(frames.MAGIC):
            return None
        length: int = frames.HEAD.unpack(head)[3]
        return length + frames.FRAME_BYTES if length <= frames.MAX_PAYLOAD_BYTES else None

    def octets(self, start: int, end: int) -> Iterator[bytes]:
        """What stands there, piece by piece."""
        while start < end and (piece := os.pread(self._opened(), min(READ_BYTES, end - start), start)):
            yield piece
            start += len(piece)

    def payload(self, frame: Frame) -> bytes:
        """In clear. Raises SealBroken for a frame that is not this segment's, call's and kind's own."""
        if self._seal is None:
            raise SealBroken
        return self._seal.open(frame)

    def lost_records(self) -> int:
        """Records of which all or a body is gone."""
        return len(self.lost) + len(self.bodies_lost)

    def unread_bytes(self) -> int:
        """Octets of which nothing is known yet, or ever will be."""
        return self.size_bytes if self.condition is Condition.SHUT else max(0, self.size_bytes - self.read_to)

    def settled(self) -> bool:
        """Nothing in it is needed any more."""
        readable = self.condition is not Condition.SHUT
        return self.over and readable and not self.open_intents and self.index.oldest_ms() is None

    def rest(self) -> None:
        """Gives the file back until it is needed again."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def remove(self) -> None:
        """Its files go; the progress last, so that nothing is settled twice after a crash between."""
        self.rest()
        self._relay.remove(segment_name(self.number))
        self.progress.remove()

    def _opened(self) -> int:
        if self._handle < 0:
            self._handle = self._relay.open(segment_name(self.number))
        return self._handle

    def _read_header(self, keyring: Keyring, handle: int, ended: bool) -> bool:
        """False while it is not all there, or when there is nothing at all."""
        header = os.pread(handle, SEGMENT_HEADER_BYTES, 0)
        if len(header) < SEGMENT_HEADER_BYTES:
            if ended and header:
                self.condition = Condition.DAMAGED
            return ended and bool(header)
        try:
            self._seal = open_segment(keyring, self._relay.name, self.number, header)
            self.condition = Condition.OPEN
        except SealBroken:
            self.condition = _why_not(header, keyring)
        self.read_to = SEGMENT_HEADER_BYTES
        return True

    def _may_be_cut(self, parts: list[Frame | Gap]) -> bool:
        """Whether what was read before may have been cut off and written over, so that all is to be read again.

        Once for each place: what is found there again is a gap.
        """
        if not parts or self.read_to <= SEGMENT_HEADER_BYTES or self.read_to in self._doubted:
            return False
        first = parts[0]
        if isinstance(first, Frame) and (first.number == self._next_number or self._came(first.number)):
            return False
        self._doubted.add(self.read_to)
        return True

    def _sort(self, parts: list[Frame | Gap], found: Found, data: bytes, last: bool) -> None:
        start, damaged = self.read_to, False
        for part in parts:
            if isinstance(part, Gap):
                damaged = True
                found.gaps.append(part)
                if not (last and part is parts[-1]):
                    self._note_heads(data[part.start - start : part.end - start])
                elif part.end % PAGE_BYTES:
                    self._note_heads(data[part.start - start : part.end - start], last=True)
            elif not self._came(part.number):
                self._note(part.number, damaged)
                damaged = False
                found.frames.append(part)

    def _came(self, number: int) -> bool:
        """Whether a frame of this number was found before."""
        return number < self._next_number and number not in self._absent

    def _note(self, number: int, damaged: bool) -> None:
        """It was found; all numbers before it were given away, too."""
        if number in self._absent:
            self._absent.discard(number)
            self.lost.discard(number)
        elif number - self._next_number <= _MAX_JUMP:
            between = range(self._next_number, number)
            self._absent.update(between)
            if damaged:
                self.lost.update(between)
            self._next_number = number + 1

    def _note_heads(self, octets: bytes, last: bool = False) -> None:
        """Frames whose beginning stands in a gap: after the last whole frame nothing else tells of them."""
        at = octets.find(frames.MAGIC)
        while 0 <= at <= len(octets) - frames.HEAD_BYTES:
            if frames.HEAD.unpack_from(octets, at)[2] == self._next_number:
                self._lose_next()
            at = octets.find(frames.MAGIC, at + 1)
        if last and len(octets) < frames.HEAD_BYTES and octets[: len(frames.MAGIC)] == frames.MAGIC[: len(octets)]:
            self._lose_next()

    def _lose_next(self) -> None:
        self._absent.add(self._next_number)
        self.lost.add(self._next_number)
        self._next_number += 1


def _why_not(header: bytes, keyring: Keyring) -> Condition:
    if not header.startswith(SEGMENT_MAGIC):
        return Condition.DAMAGED
    key_id = header[_KEY_ID_AT : _KEY_ID_AT + KEY_ID_BYTES]
    ours = header[len(SEGMENT_MAGIC)] == FORMAT and key_id == keyring.key_id
    return Condition.DAMAGED if ours else Condition.SHUT
