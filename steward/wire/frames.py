"""Frames of an append-only segment: where a record begins, what kind it is, whose, and whether it is whole.

It opens no file, knows no key and never guesses: what fails its checksum is a gap, and reading resumes at the next
frame that is whole.

    magic 4 | kind 1 | number 4 | length 4 | request id 16 | payload | CRC-32 of all before it 4     (big-endian)

`number` counts the frames of a segment from 0. It is the nonce of the sealed payload, never given twice, and where
frames are missing behind damaged octets it tells how many. (Where no octets are damaged, a missing number means
nothing: a full disk took a part of that frame, and the writer cut it off.)
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final
from uuid import UUID

MAGIC: Final = b"\xf5MF\x1a"
HEAD: Final = struct.Struct(">4sBII16s")
HEAD_BYTES: Final = HEAD.size
TAIL_BYTES: Final = 4
FRAME_BYTES: Final = HEAD_BYTES + TAIL_BYTES
"""What a frame adds to its payload."""

MAX_PAYLOAD_BYTES: Final = 4 << 20
"""No writer of ours makes a larger one: a length above it is damage."""


class Kind(IntEnum):
    """What a frame's payload is."""

    INTENT = 1
    END = 2


@dataclass(slots=True, eq=False)
class Frame:
    """One whole frame. `start` and `end` are where it lies: offsets within the file."""

    kind: Kind
    number: int
    id: UUID
    payload: bytes = field(repr=False)
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Octets that are no frame: cut, overwritten, or foreign."""

    start: int
    end: int


def encode(kind: int, number: int, request_id: bytes, payload: bytes) -> bytes:
    """One frame, ready for one `write(2)`. `request_id` has 16 octets."""
    head = HEAD.pack(MAGIC, kind, number, len(payload), request_id)
    return b"%b%b%b" % (head, payload, zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big"))


def decode(data: bytes, offset: int = 0, *, ended: bool = False) -> tuple[list[Frame | Gap], int]:
    """What stands in `data`, in order, and how much of it is finished with: the rest belongs before what comes next.

    `offset`: where `data` lies in its file. `ended`: nothing comes after it, so what is left is a gap, too. Without it
    an incomplete frame at the end waits, unless a whole one stands behind its beginning.
    """
    found: list[Frame | Gap] = []
    at = 0
    while at < len(data):
        frame = _frame(data, at, offset)
        if isinstance(frame, Frame):
            found.append(frame)
            at = frame.end - offset
            continue
        following = _next_whole(data, at + 1)
        if following is None:
            if not ended and (at_most := _may_begin(data, at, frame)) is not None:
                return _with_gap(found, at, at_most, offset), at_most
            following = len(data)
        _with_gap(found, at, following, offset)
        at = following
    return found, at


def _frame(data: bytes, at: int, offset: int) -> Frame | bool:
    """The frame that begins here; True when it may be whole once more has come, False when it never will be."""
    if not data.startswith(MAGIC[: len(data) - at], at):
        return False
    if len(data) - at < HEAD_BYTES:
        return True
    _, kind, number, length, request_id = HEAD.unpack_from(data, at)
    if kind not in _KINDS or length > MAX_PAYLOAD_BYTES:
        return False
    body_at, body_end = at + HEAD_BYTES, at + HEAD_BYTES + length
    end = body_end + TAIL_BYTES
    if end > len(data):
        return True
    view = memoryview(data)
    if zlib.crc32(view[at:body_end]).to_bytes(4, "big") != data[body_end:end]:
        return False
    return Frame(_KINDS[kind], number, UUID(bytes=request_id), data[body_at:body_end], offset + at, offset + end)


def _next_whole(data: bytes, at: int) -> int | None:
    """Where the next whole frame begins, if one does: a magic alone may be chance, a checksum behind it is not."""
    while (at := data.find(MAGIC, at)) >= 0:
        if isinstance(_frame(data, at, 0), Frame):
            return at
        at += 1
    return None


def _may_begin(data: bytes, at: int, here: Frame | bool) -> int | None:
    """The first place from here on where an unfinished frame may begin; None when there is none."""
    if here is True:
        return at
    place = at + 1
    while (magic := data.find(MAGIC, place)) >= 0:
        if _frame(data, magic, 0) is True:
            return magic
        place = magic + 1
    for size in range(len(MAGIC) - 1, 0, -1):
        if len(data) - size > at and data.endswith(MAGIC[:size]):
            return len(data) - size
    return None


def _with_gap(found: list[Frame | Gap], start: int, end: int, offset: int) -> list[Frame | Gap]:
    """Gaps that touch are one."""
    if start == end:
        return found
    if found and isinstance(before := found[-1], Gap) and before.end == offset + start:
        found[-1] = Gap(before.start, offset + end)
    else:
        found.append(Gap(offset + start, offset + end))
    return found


_KINDS: Final = {kind.value: kind for kind in Kind}
