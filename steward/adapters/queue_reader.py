"""The settler's end of a queue: messages that wait, opened, until they are said to be done.

Any number of processes read one queue; what one has in hand stays hidden from the others as long as it lives, within
the queue's own bounds, so that an outage of hours uses up none of a message's tries. It keeps little: what does not fit
stays in the queue. What does not open, or is poison, is not said done: the queue hands it out again and sets it aside
in its dead-letter queue in the end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from steward import log
from steward.carrier import Carrier, Delivery
from steward.claims import Claims
from steward.errors import MessageRefused, MessageWaits, QueueFault
from steward.exchange import Exchange
from steward.ports import Depth, Handed, Settled

_LOOK_AGAIN_S = 0.2
_MOST_FAILING = 10_000
"""Messages that are remembered as failing; more are not counted."""


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """Times in seconds."""

    held: int = 500
    """Messages in hand."""
    held_bytes: int = 64 << 20
    """Of their texts."""
    bodies: int = 250
    """Of them, those whose body waits for its store; more go back into the queue for a while."""
    hidden_s: int = 120
    """For so long a message is hidden, and hidden anew while it is in hand."""
    wait_s: float = 10.0
    """How long the queue is asked at a time."""
    back_s: int = 300
    """For so long rests what went back: its object is missing, or its store is away."""
    failed_s: int = 20
    """For so long rests what is poison, until it is tried again."""
    pause_s: float = 2.0
    """After the queue failed."""
    depth_s: float = 10.0
    """For so long what the queue said of its depth is believed."""


@dataclass(slots=True, eq=False)
class _Held:
    """One message in hand."""

    delivery: Delivery
    hidden_until: float
    exchange: Exchange | None = None
    """None: to be opened again before it is handed out again."""
    recorded: bool = False
    out: bool = False

    @property
    def size_bytes(self) -> int:
        if self.exchange is None:
            return len(self.delivery.text)
        return len(self.delivery.text) + self.exchange.request.kept_bytes + self.exchange.response.kept_bytes


@dataclass(slots=True)
class _Told:
    """What is said of the queue."""

    depth: int | None = None
    at: float = field(default=float("-inf"))


class QueueReader(Settled):
    """Without `start`, `take` asks the queue itself and never waits for it; with it, a thread asks and opens."""

    def __init__(
        self,
        carrier: Carrier,
        claims: Claims,
        refused: Callable[[str], None] = lambda reason: None,
        limits: ReaderLimits = ReaderLimits(),
        now: Callable[[], float] = time.time,
    ) -> None:
        """Closes `carrier` in the end. `refused` is told of each message that does not open, and why."""
        self._carrier = carrier
        self._claims = claims
        self._refused = refused
        self._limits = limits
        self._now = now
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._told = _Told()
        self._failing: set[str] = set()
        """The queue's names for what failed here and was not settled since, however often it was handed out."""
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Asks the queue from now on, once `ready` says yes, and keeps hidden what is in hand."""
        for name, run in (("steward-queue-reads", partial(self._reads, ready)), ("steward-queue-hides", self._hides)):
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def poll(self, wait_s: float = 0.0) -> int:
        """Asks the queue once and opens what came, and what is to be opened again; how much there was of both.

        Raises QueueFault.
        """
        again = self._to_open_again()
        for held in again:
            self._open(held)
        room = self._room()
        if room <= 0:
            return len(again)
        hidden_until = time.monotonic() + self._limits.hidden_s
        deliveries = self._carrier.receive(room, 0.0 if again else wait_s, self._limits.hidden_s)
        for delivery in deliveries:
            self._open(_Held(delivery, hidden_until))
        return len(again) + len(deliveries)

    def take(self, most: int, most_bytes: int) -> list[Handed]:
        if not self._threads:
            self._poll_quietly(0.0)
        return self._hand_out(most, most_bytes, recorded=False)

    def take_bodies(self, most: int, most_bytes: int) -> list[Handed]:
        if not self._threads:
            for held in self._to_open_again():
                self._open(held)
        return self._hand_out(most, most_bytes, recorded=True)

    def done(self, handed: Sequence[Handed]) -> None:
        """Raises QueueFault: then it is to be said again."""
        self._carrier.done([_held(each).delivery.receipt for each in handed])
        self._forget(handed)

    def later(self, handed: Sequence[Handed], recorded: bool) -> None:
        """That a row is in is known as long as this process lives; after it, the row is written again, unchanged."""
        going: list[_Held] = []
        with self._lock:
            bodies = sum(held.recorded for held in self._held.values())
            for each in handed:
                held = _held(each)
                _close(held)
                held.out = False
                bodies += recorded and not held.recorded
                held.recorded = held.recorded or recorded
                if held.recorded and bodies > self._limits.bodies:
                    bodies -= 1
                    going.append(held)
        self._give_back(going, self._limits.back_s)

    def set_aside(self, handed: Handed, code: str) -> None:
        """It fails again and again until the queue sets it aside itself."""
        self._fail(handed, code)

    def keep_body(self, handed: Handed, code: str) -> None:
        """The same; once it is redriven, its body is tried anew."""
        self._fail(handed, code)

    def depth(self) -> Depth:
        """Of the whole queue, where it tells; asked by a thread. Of ages it knows those in hand."""
        now = time.monotonic()
        if now - self._told.at >= self._limits.depth_s and not self._threads:
            self._ask_depth()
        with self._lock:
            in_hand = list(self._held.values())
            oldest_ms = min((h.exchange.id.int >> 80 for h in in_hand if h.exchange is not None), default=None)
            items = len(in_hand) if self._told.depth is None else max(len(in_hand), self._told.depth)
            return Depth(
                items=items,
                size_bytes=sum(held.size_bytes for held in in_hand),
                oldest_s=0.0 if oldest_ms is None else max(0.0, self._now() - oldest_ms / 1000),
                bodies=sum(held.recorded for held in in_hand),
                set_aside=len(self._failing),
            )

    def close(self) -> None:
        """What is in hand is handed out anew, soon, to whoever reads the queue."""
        self._ending.set()
        with self._lock:
            going = list(self._held.values())
        try:
            self._give_back(going, 0)
        except QueueFault as exc:
            log.error("queue_not_told", exc, count=len(going))
        self._carrier.close()

    # what is in hand

    def _room(self) -> int:
        with self._lock:
            octets = sum(len(held.delivery.text) for held in self._held.values())
            return self._limits.held - len(self._held) if octets < self._limits.held_bytes else 0

    def _to_open_again(self) -> list[_Held]:
        with self._lock:
            return [held for held in self._held.values() if held.exchange is None and not held.out]

    def _open(self, held: _Held) -> None:
        """Puts it where it is handed out. What does not open is left to the queue."""
        try:
            exchange = self._claims.open(held.delivery.text)
        except MessageRefused as exc:
            self._refused(exc.reason)
            log.error("message_refused", exc)
            self._give_back([held], self._limits.failed_s, quietly=True)
            return
        except MessageWaits as exc:
            log.error("message_waits", exc)
            self._give_back([held], self._limits.back_s, quietly=True)
            return
        except OSError as exc:
            log.error("message_waits", exc)
            self._give_back([held], self._limits.failed_s, quietly=True)
            return
        with self._lock:
            held.exchange = exchange
            self._held[held.delivery.receipt] = held

    def _hand_out(self, most: int, most_bytes: int, recorded: bool) -> list[Handed]:
        taken: list[Handed] = []
        left = most_bytes
        with self._lock:
            waiting = [
                h for h in self._held.values() if h.exchange is not None and not h.out and h.recorded == recorded
            ]
            waiting.sort(key=_age)
            for held in waiting[:most]:
                size = held.size_bytes
                if taken and size > left:
                    break
                left -= size
                held.out = True
                assert held.exchange is not None
                taken.append(Handed(held.exchange, recorded, size, held))
        return taken

    def _fail(self, handed: Handed, code: str) -> None:
        log.say("message_failed", logging.ERROR, id=handed.item.id)
        self._give_back([_held(handed)], self._limits.failed_s)
        with self._lock:
            if len(self._failing) < _MOST_FAILING:
                self._failing.add(_held(handed).delivery.message_id)

    def _give_back(self, going: Sequence[_Held], rests_s: int, quietly: bool = False) -> None:
        """Raises QueueFault, unless `quietly`: then they come back by themselves when they are hidden no more."""
        if not going:
            return
        try:
            self._carrier.hide([held.delivery.receipt for held in going], rests_s)
        except QueueFault as exc:
            if not quietly:
                raise
            log.error("queue_not_told", exc, count=len(going))
        with self._lock:
            for held in going:
                _close(held)
                self._held.pop(held.delivery.receipt, None)

    def _forget(self, handed: Sequence[Handed]) -> None:
        with self._lock:
            for each in handed:
                held = _held(each)
                _close(held)
                self._held.pop(held.delivery.receipt, None)
                self._failing.discard(held.delivery.message_id)

    # threads

    def _reads(self, ready: Callable[[], bool]) -> None:
        while not self._ending.is_set():
            if not ready():
                self._ending.wait(_LOOK_AGAIN_S)
                continue
            came = self._poll_quietly(self._limits.wait_s)
            if time.monotonic() - self._told.at >= self._limits.depth_s:
                self._ask_depth()
            if not came:
                self._ending.wait(self._limits.pause_s if came is None or self._room() <= 0 else 0.0)

    def _poll_quietly(self, wait_s: float) -> int | None:
        """None when the queue failed."""
        try:
            return self.poll(wait_s)
        except Exception as exc:  # one failure must not end all that come after
            log.error("queue_not_read", exc)
            return None

    def _ask_depth(self) -> None:
        depth: int | None = None
        try:
            depth = self._carrier.depth()
        except QueueFault as exc:
            log.error("queue_not_read", exc)
        self._told = _Told(depth, time.monotonic())

    def _hides(self) -> None:
        while not self._ending.wait(self._limits.hidden_s / 6):
            self.keep_hidden()

    def keep_hidden(self) -> None:
        """What is in hand and would be handed out to others soon is hidden anew."""
        now = time.monotonic()
        with self._lock:
            soon = [held for held in self._held.values() if held.hidden_until - now < self._limits.hidden_s / 2]
        try:
            self._carrier.hide([held.delivery.receipt for held in soon], self._limits.hidden_s)
        except Exception as exc:  # tried again soon; handed out twice is settled once
            log.error("queue_not_told", exc, count=len(soon))
            return
        for held in soon:
            held.hidden_until = now + self._limits.hidden_s


def _held(handed: Handed) -> _Held:
    assert isinstance(handed.token, _Held)
    return handed.token


def _age(held: _Held) -> int:
    assert held.exchange is not None
    return held.exchange.id.int >> 80


def _close(held: _Held) -> None:
    """Lets go of the call; its text stays."""
    if held.exchange is not None:
        held.exchange.request.close()
        held.exchange.response.close()
        held.exchange = None
