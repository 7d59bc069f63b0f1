"""Reads from stores that have a time to answer in: nobody waits longer, and one slow store keeps nobody from another.

A read cannot be broken off from outside. One that has taken its time is left alone to its end, in a thread of its own;
of one store only a few are in hand at once, those that were left among them, so that what never ends costs so much and
no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from typing import Final

from steward.errors import StoreSlow

WITHIN_S: Final = 15.0
"""From the question to the last octet: 64 MiB within a network take less."""
ROOM_S: Final = 2.0
"""How long somebody waits for others to be done with the same store."""
AT_ONCE: Final = 4
"""Reads of one store."""


class TimedReads:
    """Every method may be called from any thread."""

    def __init__(self, within_s: float = WITHIN_S, room_s: float = ROOM_S, at_once: int = AT_ONCE) -> None:
        self._within_s = within_s
        self._room_s = room_s
        self._at_once = at_once
        self._changed = threading.Condition()
        self._in_hand: dict[Hashable, int] = {}

    def read(self, store: Hashable, fetch: Callable[[], bytes]) -> bytes:
        """What `fetch` gives or raises. Raises StoreSlow when it takes too long, or `store` has too many in hand.

        `store`: what names it; reads of the same name share its room.
        """
        self._enter(store)
        answer: Future[bytes] = Future()

        def run() -> None:
            try:
                answer.set_result(fetch())
            except BaseException as exc:  # whoever waits for it gets it
                answer.set_exception(exc)
            finally:
                self._leave(store)

        try:
            threading.Thread(target=run, name="steward-body-read", daemon=True).start()
        except RuntimeError:
            self._leave(store)
            raise StoreSlow from None
        try:
            return answer.result(self._within_s)
        except TookTooLong:
            if answer.done():  # in the last moment; or it is the store's own
                return answer.result()
            raise StoreSlow from None

    def _enter(self, store: Hashable) -> None:
        until = time.monotonic() + self._room_s
        with self._changed:
            while self._in_hand.get(store, 0) >= self._at_once:
                if not self._changed.wait(until - time.monotonic()):
                    raise StoreSlow
            self._in_hand[store] = self._in_hand.get(store, 0) + 1

    def _leave(self, store: Hashable) -> None:
        with self._changed:
            self._in_hand[store] -= 1
            if not self._in_hand[store]:
                del self._in_hand[store]
            self._changed.notify_all()
