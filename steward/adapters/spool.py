"""Hands a relayed call to the disk, sealed, before anyone can know that it went or ended: from there nothing is lost.

INTENT is the kernel's before the first byte goes to the provider, END (the whole exchange) before the piece that ends
the answer is sent: what the kernel has survives `kill -9`, and a thread has the disk take it every flush interval. What
comes within one turn of the event loop is written together, and sent only then (`spool_turn.py`). It parses and settles
nothing, asks nobody else, and never fails or holds a caller but by `NotAccepted`, before anything was sent.

On a full disk the bodies give way, never the record: an END without bodies takes what the reserve holds back, and no
call begins until the reserve is whole again. Segments and files go when the settler is through with them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NoReturn, cast
from uuid import UUID

from steward import log
from steward.adapters.spool_files import RESERVE, new_relay, open_spool
from steward.adapters.spool_flush import Flusher
from steward.adapters.spool_room import Room, SpoolLimits
from steward.adapters.spool_sealed import PIECE_BYTES, SealedWriter
from steward.adapters.spool_segment import NO_ROOM, Plain, Reserve, SegmentWriter, frame_bytes
from steward.adapters.spool_turn import HELD_BYTES, Held, Turn
from steward.codec import Beside, Kept, encode_exchange, encode_intent
from steward.errors import NotAccepted
from steward.exchange import Body, Exchange, Intent
from steward.seal import Keyring
from steward.wire.frames import Kind

__all__ = ["Spool", "SpoolLimits"]

_INTENT, _END = int(Kind.INTENT), int(Kind.END)

OWED: Final = 4096
"""Ends, without bodies, that wait in memory for a disk that took not even them."""

UNSYNCED_FILES: Final = 256
"""Bodies' files that wait for the disk; what is beyond is closed at once, and left to the kernel."""

WORTH_ENDING_BYTES: Final = 1 << 20
"""A segment that weighs so much is ended when calls are refused for want of room, so that it can go once settled."""


class Spool:
    """AfterResponse by a folder of this process's own below SPOOL_DIR. Made after the fork: it starts a thread."""

    shed = 0
    """Calls whose bodies found no room."""
    refused = 0
    """Calls that were not begun, for want of room."""
    lost = 0
    """Ends that cannot be written; they become `interrupted` once this process has ended."""

    def __init__(
        self,
        folder: Path,
        keyring: Keyring,
        limits: SpoolLimits,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`loop`: the one whose turns are written together; None: every record by itself.

        Raises SettingError for a folder that is not fit, OSError when the disk is full or fails.
        """
        self._limits = limits
        self._keyring = keyring
        self._room = Room(limits)
        self._spool = open_spool(folder)
        self._relay, self._owner = new_relay(self._spool)
        self._reserve = Reserve(self._relay, limits.reserve_bytes)
        self._room.disk_full = not self._reserve.whole
        self._segment = SegmentWriter(self._relay, keyring, 0)
        self._turn = Turn(loop, self._write_held)
        self._weight = 0
        self._ends_at = limits.segment_ends_at
        self._closed = False
        self._may_end = True
        self._owed: list[tuple[UUID, int, bytes]] = []
        self._said_full = False
        self._said_shed: set[UUID] = set()
        self._shed_before = 0
        self._flusher = Flusher(self._spool, self._relay, limits.flush_interval_s, self._look)
        self._flusher.current = self._segment.descriptor
        self._flusher.named = True
        self._flusher.start()
        self._room.measured(self._flusher.others)

    def intend(self, intent: Intent) -> Awaitable[None] | None:
        """See ports.AfterResponse."""
        self._may_begin()
        if self._turn.holds():
            return self._turn.hold(_INTENT, intent)
        self._intend(intent)
        self._turn.written()
        return None

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """See ports.AfterResponse."""
        try:
            return self._submit(exchange)
        except Exception as exc:  # whatever it is, the caller has his answer, and the call its intent
            self._lose(exchange, exc)
            return None

    def spill(self, request_id: UUID, side: str, key_id: UUID) -> BinaryIO:
        """See ports.AfterResponse: sealed from its first octet (SECURITY F12)."""
        return cast(BinaryIO, SealedWriter(self._relay, request_id, side, self._room.spilling(key_id)))

    async def close(self) -> None:
        """What was accepted is on disk when this returns; the folder is the settler's from then on."""
        if self._closed:
            return
        self._write_held()
        self._pay()
        self._closed = True
        await asyncio.to_thread(self._flusher.stop)
        self._reserve.close()
        self._relay.remove(RESERVE)
        os.close(self._segment.descriptor)
        os.close(self._owner)
        self._relay.close()
        self._spool.close()

    def _may_begin(self) -> None:
        """Raises NotAccepted where no call may begin."""
        if self._flusher.gone:
            self._note_gone()
        if self._owed:
            self._pay()
        if self._closed or self._owed or not self._room.takes_calls():
            self._refuse()

    def _intend(self, intent: Intent) -> None:
        try:
            self._append(_INTENT, intent.id, intent.caller.key_id.int, encode_intent(intent))
        except OSError as exc:
            self._refuse(exc)

    def _submit(self, exchange: Exchange) -> Awaitable[None] | None:
        if self._closed:
            raise OSError("the spool is closed")
        request, response = exchange.request, exchange.response
        asked, answered = request.data, response.data
        bound = self._limits.beside_bytes
        files = request.file is not None or response.file is not None
        if files or len(asked) > bound or len(answered) > bound:
            self._write_held()
            self._submit_large(exchange)
            return None
        turn, size = self._turn, len(asked) + len(answered)
        if not turn.holds():
            self._submit_small(exchange)
            turn.written()
            return None
        if turn.size_bytes + size > HELD_BYTES or not self._takes_body(exchange, turn.size_bytes + size):
            self._write_held()  # what is held counts, also where it is another key's: once it is written it is known
            if not self._takes_body(exchange, size):
                self._submit_small(exchange)
                return None
        return turn.hold(_END, exchange, size)

    def _submit_small(self, exchange: Exchange) -> None:
        """The whole record; without its bodies where there is no room for them, or the disk does not take them."""
        if not self._takes_body(exchange, len(exchange.request.data) + len(exchange.response.data)):
            self._submit_bare(exchange)
            return
        try:
            self._append(_END, exchange.id, exchange.caller.key_id.int, _encoded(exchange))
        except OSError:
            self._submit_bare(exchange)

    def _takes_body(self, exchange: Exchange, size: int) -> bool:
        return not size or self._room.takes_body(exchange.caller.key_id.int, size)

    def _lose(self, exchange: Exchange, exc: Exception) -> None:
        self.lost += 1
        log.error("spool_end_lost", exc, id=exchange.id)

    def _write_held(self) -> None:
        """All of it by one write; each by itself what that leaves: then every call has the fate it would have had.

        Sealed here, one after the other, which takes a third of what it takes call by call: all is in the caches.
        """
        held = self._turn.take()
        if not held:
            return
        done = 0
        try:
            records = [
                (kind, item.id.bytes, encode_intent(item) if isinstance(item, Intent) else _encoded(item))
                for kind, item, _ in held
            ]
            if self._segment.size + self._weight >= self._ends_at:
                self._next_segment()
            done = self._segment.append_all(records)
        except OSError:
            pass
        except Exception as exc:  # one record's fault is not to be the others': each is tried again alone
            log.error("spool_turn_failed", exc, count=len(held))
        if done:
            self._written(held[:done], records)
        for _, item, kept in held[done:]:
            _tell(kept, self._write_alone(item))

    def _written(self, held: Sequence[Held], records: Sequence[Plain]) -> None:
        self._flusher.dirty = True
        by_key: dict[int, int] = {}
        for (_, item, kept), (_, _, plain) in zip(held, records, strict=False):
            key = item.caller.key_id.int
            by_key[key] = by_key.get(key, 0) + frame_bytes(plain)
            if not kept.done():  # he may have left
                kept.set_result(None)
        for key, size in by_key.items():
            self._room.add(self._segment.number, key, size)

    def _write_alone(self, item: Intent | Exchange) -> NotAccepted | None:
        """What `intend` or `submit` would do now."""
        try:
            if isinstance(item, Intent):
                self._may_begin()
                self._intend(item)
            else:
                self._submit_small(item)
        except NotAccepted as refusal:
            return refusal
        except Exception as exc:  # as in `submit`
            if isinstance(item, Intent):
                log.error("spool_intent_lost", exc, id=item.id)
                return NotAccepted()
            self._lose(item, exc)
        return None

    def _submit_large(self, exchange: Exchange) -> None:
        """A side that is large, or in a file, gets (or has) a file of its own, complete before the record."""
        files: list[SealedWriter] = []
        request_body, response_body = exchange.request, exchange.response
        key = exchange.caller.key_id.int
        try:
            request = self._beside(exchange, "q", request_body, files)
            response = self._beside(exchange, "r", response_body, files)
            inside = sum(len(each) for each in (request, response) if isinstance(each, bytes))
            if self._closed or (inside and not self._room.takes_body(key, inside)):
                raise OSError(errno.EDQUOT, "the spool is full, or this key's part of it")
            segment = self._append(_END, exchange.id, key, encode_exchange(exchange, request, response))
        except OSError:
            for file in files:
                file.discard()
            self._submit_bare(exchange)
            return
        for file in files:
            self._room.spilt(segment, key, file.disk_bytes)
            self._weight += file.disk_bytes
            self._retire(file.release())
        request_body.file = response_body.file = None
        self._flusher.named = True

    def _beside(self, exchange: Exchange, side: str, body: Body, files: list[SealedWriter]) -> Kept:
        """The side's octets, or its finished file, which joins `files`. Raises OSError."""
        if body.file is None and len(body.data) <= self._limits.beside_bytes:
            return body.data
        ours: object = body.file
        if isinstance(ours, SealedWriter):
            file = ours
            files.append(file)
        else:
            file = SealedWriter(self._relay, exchange.id, side, self._room.spilling(exchange.caller.key_id))
            files.append(file)
            _copy(body, file)
        beside: Beside = file.finish()
        body.truncated = body.truncated or beside.size_bytes < body.size_bytes
        return beside

    def _submit_bare(self, exchange: Exchange) -> None:
        """The record without its bodies, out of the reserve if need be; later, when that is spent, too."""
        exchange.request.close()
        exchange.response.close()
        if self._closed:
            raise OSError("the spool is closed")
        if exchange.request.size_bytes or exchange.response.size_bytes:
            self._shed(exchange)
        key, plain = exchange.caller.key_id.int, encode_exchange(exchange, None, None)
        while True:
            try:
                self._append(_END, exchange.id, key, plain)
            except OSError as exc:
                if exchange.error == NotAccepted.code:
                    return  # refused for want of room, counted so, never sent: what is left is for calls that were
                spent = exc.errno in NO_ROOM and self._reserve.spend()
                self._room.disk_full = True
                if spent:
                    continue
                if len(self._owed) >= OWED:
                    raise
                self._owed.append((exchange.id, key, plain))
                log.error("spool_end_waits", exc, id=exchange.id)
            return

    def _pay(self) -> None:
        """Ends that a disk did not take come before new calls: until they are written none begins."""
        try:
            while self._owed:
                self._append(_END, *self._owed[0])
                del self._owed[0]
        except OSError:
            self._room.disk_full = True

    def _retire(self, descriptor: int) -> None:
        """To be synced and closed, but for what a slow disk lets pile up: descriptors are what calls need."""
        if len(self._flusher.retired) < UNSYNCED_FILES:
            self._flusher.retired.append(descriptor)
        else:
            os.close(descriptor)

    def _shed(self, exchange: Exchange) -> None:
        """The row will say it; here it is counted, and said once for each key until there is room again."""
        self.shed += 1
        exchange.bodies_shed = True
        key_id = exchange.caller.key_id
        if key_id not in self._said_shed:
            self._said_shed.add(key_id)
            log.say("spool_bodies_shed", logging.WARNING, key=key_id)

    def _append(self, kind: int, request_id: UUID, key: int, plain: bytes) -> int:
        """One frame more; the number of the segment it went to. Raises OSError: then nothing was appended."""
        self._write_held()
        segment = self._segment
        if segment.size + self._weight >= self._ends_at:
            self._next_segment()
            segment = self._segment
        size = segment.append(kind, request_id.bytes, plain)
        self._room.add(segment.number, key, size)
        self._flusher.dirty = True
        return segment.number

    def _next_segment(self) -> None:
        """A new one is begun; where it cannot be, the old one grows on. What is held was meant for the old one."""
        self._write_held()
        try:
            following = SegmentWriter(self._relay, self._keyring, self._segment.number + 1)
        except OSError as exc:
            self._ends_at += self._limits.segment_ends_at  # and is tried again when it has grown so much more
            log.error("spool_segment_failed", exc)
            return
        self._ends_at = self._limits.segment_ends_at
        self._flusher.retired.append(self._segment.descriptor)
        self._segment = following
        self._weight = 0
        self._flusher.current = following.descriptor
        self._flusher.named = True
        self._flusher.watched = frozenset(self._room.segments()) - {following.number}

    def _note_gone(self) -> None:
        gone, self._flusher.gone = self._flusher.gone, frozenset()
        for number in gone:
            self._room.gone(number)
        self._flusher.watched = frozenset(self._room.segments()) - {self._segment.number}

    def _refuse(self, exc: OSError | None = None) -> NoReturn:
        self.refused += 1
        if not self._said_full:
            self._said_full = True
            log.say("spool_full", logging.ERROR, bytes=self._room.used)
        if self._may_end and self._segment.size + self._weight >= min(WORTH_ENDING_BYTES, self._limits.segment_ends_at):
            # The segment that is written to never goes: on a disk that it fills, nothing would ever make room.
            self._may_end = False
            self._next_segment()
        raise NotAccepted from exc

    def _look(self) -> None:
        """Now and then, in the flusher's thread: the reserve, and whether what was said once may be said again."""
        self._may_end = True
        self._reserve.restore()
        self._room.disk_full = not self._reserve.whole
        self._room.measured(self._flusher.others)
        if self._said_full and self._room.takes_calls():
            self._said_full = False
        if self.shed == self._shed_before:
            self._said_shed.clear()
        self._shed_before = self.shed


def _encoded(exchange: Exchange) -> bytes:
    """The record of a call whose bodies are in memory."""
    return encode_exchange(exchange, exchange.request.data, exchange.response.data)


def _tell(kept: asyncio.Future[None], refusal: NotAccepted | None) -> None:
    """Whoever waits for it goes on, if he did not leave."""
    if kept.done():
        return
    if refusal is None:
        kept.set_result(None)
    else:
        kept.set_exception(refusal)


def _copy(body: Body, file: SealedWriter) -> None:
    """A side that is in memory, or in a file that is not ours, which is given back. Raises OSError."""
    if body.file is None:
        file.write(body.data)
        body.data = b""
        return
    body.file.seek(0)
    while piece := body.file.read(PIECE_BYTES):
        file.write(piece)
    body.close()
