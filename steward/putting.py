"""Puts bodies in a thread of its own, so that no row ever waits for a store that is slow or hangs.

It knows neither bodies nor stores, tries nothing again, and holds nobody up: what it was handed comes back once it was
tried, or is asked back before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from steward import log

T = TypeVar("T")


class Putting(Generic[T]):
    """One batch at a time is put; the others wait their turn."""

    def __init__(self, put: Callable[[list[T]], bool], at_once: int, now: Callable[[], float] = time.monotonic) -> None:
        """`put` tries a batch of at most `at_once`, and says whether to go on with the next; `now` gives seconds."""
        self._put = put
        self._at_once = at_once
        self._now = now
        self._change = threading.Condition()
        self._queue: deque[T] = deque()
        self._tried: list[T] = []
        self._trying = 0
        self._since = 0.0
        self._paused = False
        self._stopping = False
        # A daemon: Python waits at its exit for any other, and a store that never answers would keep the process.
        threading.Thread(target=self._run, name="steward-putting", daemon=True).start()

    def hand(self, items: Sequence[T]) -> None:
        """To be put, in this order."""
        with self._change:
            self._queue.extend(items)
            self._change.notify_all()

    def tried(self, within_s: float = 0.0) -> list[T]:
        """What was tried since the last look; waits up to `within_s` for something when there is nothing yet."""
        with self._change:
            if within_s and not self._tried and (self._queue or self._trying):
                self._change.wait_for(lambda: self._tried, within_s)
            tried, self._tried = self._tried, []
        return tried

    def paused(self) -> bool:
        """After a batch with which it was not to go on, until `recall`."""
        with self._change:
            return self._paused

    def recall(self) -> list[T]:
        """Takes back all that was not begun."""
        with self._change:
            back = list(self._queue)
            self._queue.clear()
            self._paused = False
        return back

    def busy(self) -> bool:
        """Whether anything waits or is being put."""
        with self._change:
            return bool(self._queue or self._trying)

    def silent_s(self) -> float:
        """How long the batch that is being put has been."""
        with self._change:
            return self._now() - self._since if self._trying else 0.0

    def close(self) -> None:
        """Begins nothing more. Waits for nothing."""
        with self._change:
            self._stopping = True
            self._queue.clear()
            self._change.notify_all()

    def _run(self) -> None:
        while batch := self._next():
            try:
                go_on = self._put(batch)
            except Exception as exc:  # a store that breaks its promise not to raise is one that is away
                log.error("store_failed", exc, count=len(batch))
                go_on = False
            with self._change:
                self._tried += batch
                self._paused = not go_on
                self._trying = 0
                self._change.notify_all()

    def _next(self) -> list[T]:
        """The next batch; empty at the end."""
        with self._change:
            self._change.wait_for(lambda: (self._queue and not self._paused) or self._stopping)
            if self._stopping:
                return []
            batch = [self._queue.popleft() for _ in range(min(self._at_once, len(self._queue)))]
            self._trying, self._since = len(batch), self._now()
            return batch
