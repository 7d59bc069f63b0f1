"""The taker's end of a queue that lives in this process: the twin of the spool's, for tests and for trying things out.

It keeps nothing beyond the process, and bodies whole in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from uuid import UUID

from steward.exchange import Body, Exchange, Intent
from steward.ports import Depth, Handed, Settled


class _State(IntEnum):
    WAITS = 0
    BODY_WAITS = 1


@dataclass(slots=True, eq=False)
class _Kept:
    """One call, as it was put."""

    item: Exchange | Intent
    size_bytes: int
    state: _State = _State.WAITS
    out: bool = False


class MemoryQueue:
    """What was put and is not settled: what a disk is to the spool. Outlives its takers."""

    def __init__(self) -> None:
        self.kept: list[_Kept] = []
        self.set_aside: dict[UUID, tuple[Exchange | Intent, str]] = {}
        """Poison, with its code."""
        self.bodies: dict[UUID, tuple[Exchange | Intent, str]] = {}
        """Calls whose body the store refused for good, with its code."""

    def put(self, item: Exchange | Intent) -> None:
        """One call, or the intent of one whose end will never come. Takes over its body files."""
        if isinstance(item, Exchange):
            item = replace(item, request=_in_memory(item.request), response=_in_memory(item.response))
            size = len(item.request.data) + len(item.response.data)
        else:
            size = 0
        self.kept.append(_Kept(item, size))


class MemorySettled(Settled):
    """Hands out copies, so that what a taker does to one changes nothing when it is handed out again."""

    def __init__(self, queue: MemoryQueue, now: Callable[[], float] = time.time) -> None:
        """`now`: seconds since 1970, for ages alone."""
        self._queue = queue
        self._now = now
        for kept in queue.kept:
            kept.out = False

    def take(self, most: int, most_bytes: int) -> list[Handed]:
        return self._take(_State.WAITS, most, most_bytes)

    def take_bodies(self, most: int, most_bytes: int) -> list[Handed]:
        return self._take(_State.BODY_WAITS, most, most_bytes)

    def _take(self, state: _State, most: int, most_bytes: int) -> list[Handed]:
        waiting = [kept for kept in self._queue.kept if kept.state is state and not kept.out]
        waiting.sort(key=lambda kept: kept.item.id.int >> 80)
        taken: list[Handed] = []
        left = most_bytes
        for kept in waiting[:most]:
            if taken and kept.size_bytes > left:
                break
            left -= kept.size_bytes
            kept.out = True
            taken.append(Handed(_copy(kept.item), state is _State.BODY_WAITS, kept.size_bytes, kept))
        return taken

    def done(self, handed: Sequence[Handed]) -> None:
        gone = {id(each.token) for each in handed}
        self._queue.kept = [kept for kept in self._queue.kept if id(kept) not in gone]

    def later(self, handed: Sequence[Handed], recorded: bool) -> None:
        for each in handed:
            kept = _kept(each)
            kept.out = False
            if recorded:
                kept.state = _State.BODY_WAITS

    def set_aside(self, handed: Handed, code: str) -> None:
        item = _kept(handed).item
        self._queue.set_aside[item.id] = (item, code)
        self.done([handed])

    def keep_body(self, handed: Handed, code: str) -> None:
        item = _kept(handed).item
        self._queue.bodies[item.id] = (item, code)
        self.done([handed])

    def depth(self) -> Depth:
        queue = self._queue
        oldest_ms = min((kept.item.id.int >> 80 for kept in queue.kept), default=None)
        return Depth(
            items=len(queue.kept),
            size_bytes=sum(kept.size_bytes for kept in queue.kept),
            oldest_s=0.0 if oldest_ms is None else max(0.0, self._now() - oldest_ms / 1000),
            bodies=sum(kept.state is _State.BODY_WAITS for kept in queue.kept),
            set_aside=len(queue.set_aside) + len(queue.bodies),
        )

    def close(self) -> None:
        """Nothing is held open."""


def _kept(handed: Handed) -> _Kept:
    assert isinstance(handed.token, _Kept)
    return handed.token


def _in_memory(body: Body) -> Body:
    whole = Body(body.content().reveal(), None, body.size_bytes, body.truncated)
    body.close()
    return whole


def _copy(item: Exchange | Intent) -> Exchange | Intent:
    if isinstance(item, Intent):
        return item
    return replace(item, request=replace(item.request), response=replace(item.response))
