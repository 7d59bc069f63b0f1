"""The settling process: takes what relays left in the spool and settles it, beside them or alone.

It listens nowhere and relays nothing. One works on a spool at a time; a second waits until the first is gone. What it
has not done when it must end stays on the volume, for the next.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from types import FrameType

from steward import log
from steward.errors import LedgerFault
from steward.metric_files import Board
from steward.settings import Settings
from steward.settling import Rounds
from steward.wiring.settler import SettlerServices, build_settler
from steward.wiring.watching import MAINTENANCE_RETRY_S, MAINTENANCE_S

DRAIN_S = 10.0
"""How long after the signal to end it goes on with what is there."""
_LAST_MOMENT_S = 2.0
"""Beyond that it is ended where it stands: a statement or a system call may hang."""
_LOOK_AGAIN_S = 0.5
_BROKEN_PAUSE_S = 1.0
_SEEN_EVERY_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_settler(settings: Settings, board: Board | None = None) -> int:
    """Settles until SIGTERM or SIGINT, then what is there for `DRAIN_S`. Returns the exit code. Raises SettingError.

    Call it from the main thread of a process of its own. A signal that is ignored already stays so. `board`: where
    all processes of this Steward count.
    """
    log.catch_crashes()
    return run(build_settler(settings, board), settings.pricing_refresh_interval_s, Stopping())


def run(services: SettlerServices, refresh_s: float, stopping: Stopping) -> int:
    """The same with what it runs on; closes it. `refresh_s`: how often prices are fetched."""
    with stopping.signals():
        try:
            if _is_the_one(services, stopping):
                _settle(services, refresh_s, stopping)
        finally:
            services.close()
    log.say("stopped")
    return 0


class Stopping:
    """The first signal drains; the second, or a drain that hangs, ends the process at once: the volume has it all."""

    def __init__(self, drain_s: float = DRAIN_S, end: Callable[[int], None] = os._exit) -> None:
        self._asked = False
        # No Event: its lock is not reentrant, and a signal may come while this very thread holds it in `wait`.
        self._word: SimpleQueue[None] = SimpleQueue()
        self._drain_s = drain_s
        self._end = end
        self._until = 0.0

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """While the process settles, signals come here."""
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._told) for number in heard}
        overdue = signal.signal(signal.SIGALRM, self._overdue)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in [*before.items(), (signal.SIGALRM, overdue)]:
                signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Waits, at most until it is asked to end; whether it is."""
        with contextlib.suppress(Empty):
            self._word.get(timeout=max(0.0, seconds))
            self._word.put(None)  # for whoever else waits
        return self._asked

    def asked(self) -> bool:
        """Whether it is to end, soon."""
        return self._asked

    def over(self) -> bool:
        """Whether the time to drain is over."""
        return self._asked and time.monotonic() >= self._until

    def left_s(self) -> float:
        """Seconds of the time to drain."""
        return max(0.0, self._until - time.monotonic())

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._end(0)
            return
        self._until = time.monotonic() + self._drain_s
        signal.setitimer(signal.ITIMER_REAL, self._drain_s + _LAST_MOMENT_S)
        self._asked = True
        self._word.put(None)

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        self._end(0)


def _is_the_one(services: SettlerServices, stopping: Stopping) -> bool:
    """Waits until no other process settles this spool; False when it is to end before."""
    if not services.acquire():
        log.say("settler_waits")
        while not services.acquire():
            if stopping.wait(_LOOK_AGAIN_S):
                return False
    return not stopping.asked()


def _settle(services: SettlerServices, refresh_s: float, stopping: Stopping) -> None:
    services.prices.start(refresh_s)
    services.looking.start()
    threading.Thread(target=_maintain, args=(services, stopping), name="steward-maintain", daemon=True).start()
    services.clockwork.start()
    rest_garbage_collector()
    log.say("settling")
    try:
        _rounds(services, stopping)
    finally:
        services.clockwork.join(stopping.left_s())


def _rounds(services: SettlerServices, stopping: Stopping) -> None:
    rounds = services.rounds
    seen_at = -_SEEN_EVERY_S
    while not stopping.over():
        pause_s = _round(rounds)
        if time.monotonic() - seen_at >= _SEEN_EVERY_S:
            seen_at = time.monotonic()
            services.queue_metrics.observe(rounds.depth(), rounds.ledger_up())
        if not stopping.asked():
            stopping.wait(pause_s)
            continue
        services.clockwork.end()
        if pause_s and not rounds.in_hand():
            return
        else:
            time.sleep(pause_s)


def rest_garbage_collector() -> None:
    """What was imported lives as long as the process; and a batch is hundreds of calls that are freed by counting."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _round(rounds: Rounds) -> float:
    try:
        return rounds.run_once()
    except Exception as exc:  # what fails in one round must not end all that come after
        log.error("settle_failed", exc)
        return _BROKEN_PAUSE_S


def _maintain(services: SettlerServices, stopping: Stopping) -> None:
    """Keeps next month's partition made ahead, and the egress log as long as it is to be."""
    pause_s = 0.0
    while not stopping.wait(pause_s):
        try:
            services.maintain(datetime.now(UTC))
        except LedgerFault as exc:
            log.error("maintenance_failed", exc)
            pause_s = MAINTENANCE_RETRY_S
        else:
            pause_s = MAINTENANCE_S
