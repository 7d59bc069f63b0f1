"""The settler's end of the spool: hands out what the relays wrote until it is said to be done.

It waits for nothing, copies nothing and throws nothing away that can still be read: a record stays in its segment,
with a mark, until row and body are in. What cannot be read is set aside alone, as octets, and the call's intent stands
in for it. It tells the living from the dead by locks; the clock is for ages and for the quarantine's 14 days.

Not for several threads: one settler calls it, one call at a time.
"""

from __future__ import annotations

import heapq
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from steward import log
from steward.adapters.spool_files import RELAYS, SETTLER, lock, open_spool
from steward.adapters.spool_index import Index, State
from steward.adapters.spool_progress import Mark
from steward.adapters.spool_quarantine import Quarantine, SetAside, Shelf, with_bodies
from steward.adapters.spool_relay import Relay, marked
from steward.adapters.spool_relays import OUT_OF_MEANS, Relays
from steward.adapters.spool_scan import READ_BYTES, Segment
from steward.codec import decode_intent
from steward.errors import SealBroken
from steward.exchange import Exchange
from steward.ports import Depth, Handed, Settled
from steward.seal import Keyring
from steward.wire.frames import Gap, Kind

TAKE_READS_BYTES: Final = 8 * READ_BYTES
"""New octets that one `take` looks through, about: a long backlog becomes known over several."""

DEPTH_READS_BYTES: Final = READ_BYTES
SWEEP_EVERY_S: Final = 3600.0


@dataclass(slots=True, eq=False)
class _Token:
    """Where a record stands, and whose files go with it."""

    relay: Relay
    segment: Segment
    index: Index
    """The segment's, when it was handed out."""
    place: int
    intent: bool = False
    """It has no body. The item may not say so: settle keeps an intent in place of a call whose body it let go of."""
    beside_of: UUID | None = None


class SpoolReader(Settled):
    """Nothing is touched before `acquire` says yes."""

    def __init__(self, folder: Path, keyring: Keyring, now: Callable[[], float] = time.time) -> None:
        """`now`: seconds since 1970. Raises SettingError for a folder that is not fit."""
        self._spool = open_spool(folder)
        self._keyring = keyring
        self._now = now
        self._settler: int | None = None
        self._relays: Relays | None = None
        self._quarantine: Quarantine | None = None
        self._swept_at = 0.0

    def acquire(self) -> bool:
        """Whether this is the spool's one settler, now and until `close`. Raises OSError."""
        if self._settler is not None:
            return True
        handle = lock(self._spool, SETTLER)
        if handle is None:
            return False
        try:
            quarantine = Quarantine(self._spool, self._keyring)
            relays = Relays(self._spool.folder(RELAYS, make=True), self._keyring, quarantine)
        except OSError:
            os.close(handle)
            raise
        relays.clear_unfinished()
        self._settler, self._quarantine, self._relays = handle, quarantine, relays
        return True

    def take(self, most: int, most_bytes: int) -> list[Handed]:
        """The oldest first, but those of one segment in the order in which they ended."""
        return self._hand_out(State.WAITS, most, most_bytes)

    def take_bodies(self, most: int, most_bytes: int) -> list[Handed]:
        return self._hand_out(State.BODY_WAITS, most, most_bytes)

    def done(self, handed: Sequence[Handed]) -> None:
        """On a disk too full for the marks they are kept in memory, and so are the bodies' files, until they fit."""
        tokens = [_token(each) for each in handed]
        for each in handed:
            _close(each)
        self._settle(tokens)

    def later(self, handed: Sequence[Handed], recorded: bool) -> None:
        """An intent has no body: once its row is in, it is done."""
        for each in handed:
            _close(each)
        tokens = [_token(each) for each in handed]
        if recorded:
            self._settle([token for token in tokens if token.intent])
            tokens = [token for token in tokens if not token.intent]
        if recorded:
            by_segment: dict[Segment, list[tuple[int, Mark]]] = {}
            for token in tokens:
                offset = token.index.offset(token.place)
                by_segment.setdefault(token.segment, []).append((offset, Mark.RECORDED))
            for segment, marks in by_segment.items():
                marked(segment, marks)
        for token in tokens:
            token.index.give_back(token.place, recorded)

    def set_aside(self, handed: Handed, code: str) -> None:
        """Raises OSError where the disk does not take it: then it is to be said again."""
        self._keep(Shelf.EXCHANGES, handed, code)

    def keep_body(self, handed: Handed, code: str) -> None:
        """The whole record is kept, of which the body's object is built anew: the same octets, and one way back.

        Raises OSError as `set_aside`.
        """
        self._keep(Shelf.BODIES, handed, code)

    def depth(self) -> Depth:
        if self._settler is None:
            return Depth()
        relays, quarantine = self._look(DEPTH_READS_BYTES)
        segments = [segment for _, segment in relays.segments()]
        oldest = [at for segment in segments if (at := segment.index.oldest_ms()) is not None]
        return Depth(
            items=sum(segment.index.unsettled() for segment in segments),
            size_bytes=sum(segment.index.waiting_bytes + segment.unread_bytes() for segment in segments),
            oldest_s=max(0.0, self._now() - min(oldest) / 1000) if oldest else 0.0,
            bodies=sum(segment.index.bodies() for segment in segments),
            set_aside=quarantine.count(),
            lost=relays.lost(),
        )

    def close(self) -> None:
        """Another may be the settler from now on. Safe to call twice."""
        if self._relays is not None:
            self._relays.close()
            self._relays = None
        if self._quarantine is not None:
            self._quarantine.close()
            self._quarantine = None
        if self._settler is not None:
            os.close(self._settler)
            self._settler = None
        self._spool.close()

    def _hand_out(self, state: State, most: int, most_bytes: int) -> list[Handed]:
        relays, _ = self._look(TAKE_READS_BYTES)
        queue: list[tuple[int, int, Relay, Segment]] = []
        for relay, segment in relays.segments():
            _enqueue(queue, relay, segment, state)
        taken: list[Handed] = []
        left = most_bytes
        while queue and len(taken) < most:
            _, _, relay, segment = queue[0]
            place = segment.index.next(state)
            if place is not None:
                if taken and segment.index.weight(place) > left:
                    break
                try:
                    handed = self._try(relay, segment, place)
                except OSError as exc:
                    log.error("spool_out_of_means", exc)
                    break
                if handed is not None:
                    if taken and handed.size_bytes > left:
                        # Its files turn out to be larger than was known of it.
                        self.later([handed], recorded=False)
                        break
                    handed.recorded = state is State.BODY_WAITS
                    taken.append(handed)
                    left -= handed.size_bytes
            heapq.heappop(queue)
            _enqueue(queue, relay, segment, state)
        relays.rest()
        return taken

    def _try(self, relay: Relay, segment: Segment, place: int) -> Handed | None:
        """Hands one out. None when it cannot be read: then it is dealt with. Raises OSError when nothing can be."""
        try:
            handed = self._open(relay, segment, place)
        except FileNotFoundError as exc:
            log.error("spool_segment_vanished", exc)
            relay.forget(segment)
            return None
        except OSError as exc:
            if exc.errno in OUT_OF_MEANS:
                raise
            # The disk fails here alone, perhaps for now: it stays as it is, and the next settler tries again.
            log.error("spool_record_not_read", exc)
            segment.index.hand_out(place)
            return None
        if handed is not None:
            segment.index.hand_out(place)
        return handed

    def _open(self, relay: Relay, segment: Segment, place: int) -> Handed | None:
        """None when it cannot be read, now or later: then it is dealt with. Raises OSError when it may be later."""
        index = segment.index
        frame = segment.frame(index.offset(place), index.size(place))
        if frame is None:
            self._lose(relay, segment, place)
            return None
        try:
            payload = segment.payload(frame)
        except SealBroken as exc:
            log.error("spool_record_refused", exc, id=frame.id)
            relay.salvage.gap(relay, segment, Gap(frame.start, frame.end))
            self._lose(relay, segment, place)
            return None
        token = _Token(relay, segment, index, place, frame.kind is Kind.INTENT)
        try:
            if frame.kind is Kind.INTENT:
                return Handed(decode_intent(payload), size_bytes=index.weight(place), token=token)
            exchange, beside_bytes, lost = with_bodies(payload, relay.folder)
        except ValueError as exc:
            log.error("spool_record_undecodable", exc, id=frame.id)
            try:
                self._shelve(Shelf.EXCHANGES, token, SetAside(frame.id, frame.kind, payload, "undecodable"))
            except OSError as full:
                log.error("spool_quarantine_failed", full, id=frame.id)
                index.hand_out(place)
            return None
        if beside_bytes:
            token.beside_of = frame.id
            index.has_beside(place, beside_bytes)
        if lost:
            segment.bodies_lost.add(place)
        return Handed(exchange, size_bytes=index.weight(place), token=token)

    def _lose(self, relay: Relay, segment: Segment, place: int) -> None:
        """A record is gone. Its intent stands in for it; where that is gone, too, nothing is left to settle."""
        relay.lost += 1
        if not relay.stand_in(segment, place):
            self._settle([_Token(relay, segment, segment.index, place)])

    def _keep(self, shelf: Shelf, handed: Handed, code: str) -> None:
        token = _token(handed)
        index, segment = token.index, token.segment
        _close(handed)
        try:
            frame = segment.frame(index.offset(token.place), index.size(token.place))
            payload = None if frame is None else segment.payload(frame)
        except (FileNotFoundError, SealBroken) as exc:
            log.error("spool_record_refused", exc, id=handed.item.id)
            frame = payload = None
        finally:
            token.relay.rest()
        if frame is None or payload is None:
            token.relay.lost += 1
            self._settle([token])
            return
        self._shelve(shelf, token, SetAside(frame.id, frame.kind, payload, code, handed.item.requested_at))

    def _shelve(self, shelf: Shelf, token: _Token, what: SetAside) -> None:
        """Raises OSError where the disk does not take it: then nothing has changed."""
        assert self._quarantine is not None
        self._quarantine.keep(shelf, what, token.relay.folder)
        log.say("spool_set_aside", logging.ERROR, id=what.id)
        self._settle([token])

    def _settle(self, tokens: Iterable[_Token]) -> None:
        """Marks, then the bodies' files, then whole segments. A file goes only once its mark is on disk."""
        by_segment: dict[Segment, list[_Token]] = {}
        for token in tokens:
            by_segment.setdefault(token.segment, []).append(token)
        for segment, settled in by_segment.items():
            relay = settled[0].relay
            offsets = [offset for token in settled for offset in token.index.settle(token.place)]
            segment.besides += [token.beside_of for token in settled if token.beside_of is not None]
            if marked(segment, [(offset, Mark.DONE) for offset in offsets]):
                relay.remove_besides(segment)
        for relay in {id(each[0].relay): each[0].relay for each in by_segment.values()}.values():
            relay.drop_settled()

    def _look(self, budget: int) -> tuple[Relays, Quarantine]:
        assert self._relays is not None and self._quarantine is not None, "acquire first"
        self._relays.look(budget)
        now = self._now()
        if not 0 <= now - self._swept_at < SWEEP_EVERY_S:
            self._swept_at = now
            self._quarantine.sweep(now)
        return self._relays, self._quarantine


def _enqueue(queue: list[tuple[int, int, Relay, Segment]], relay: Relay, segment: Segment, state: State) -> None:
    """The segment stands in the queue by its first record in this state, if it has one."""
    place = segment.index.next(state)
    if place is not None:
        heapq.heappush(queue, (segment.index.time_ms(place), id(segment), relay, segment))


def _token(handed: Handed) -> _Token:
    assert isinstance(handed.token, _Token)
    return handed.token


def _close(handed: Handed) -> None:
    if isinstance(handed.item, Exchange):
        handed.item.request.close()
        handed.item.response.close()
