"""The parent of the relaying processes and of the settling one: restarts what dies, passes signals on, reaps as PID 1.

It relays nothing, settles nothing and opens nothing: what a child runs, it is handed. The settling process ends last,
so that what the relaying ones wrote at their end can still be settled.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from steward import log

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESTART_PAUSE_S = 1.0
_HEARD = (*SIGNALS, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """One process to keep alive."""

    run: Callable[[], int]
    """What it does, in a fork of the parent; returns the exit code."""
    index: int = 0
    settles: bool = False
    """It is told to end once all others have ended."""
    views: bool = False
    """It is the viewer's: no worker, in what is said of it."""


@dataclass(frozen=True, slots=True)
class StopTimes:
    """What children are promised from their signal to their end, in seconds."""

    relays_s: float
    settler_s: float
    beyond_s: float = 20.0
    """What they have beyond that, and after a second signal, before they are killed."""


class Supervisor:
    """Call it from the main thread of a process without others: it forks."""

    def __init__(self, children: Sequence[Child], times: StopTimes, close: Callable[[], None]) -> None:
        """`close` is called at the first signal: what only children shall hold on to is let go of."""
        self._children = children
        self._times = times
        self._close = close
        self._running: dict[int, Child] = {}
        self._again: dict[Child, float] = {}
        self._told = 0
        self._settler_told = False
        self._deadline: float | None = None

    def run(self) -> int:
        """Until every child has ended after a signal."""
        with _heard() as wakeups:
            for child in self._children:
                self._start(child)
            while self._running or not self._told:
                self._wait(wakeups)
                self._reap()
                if self._told:
                    self._end()
                else:
                    self._restart()
        return 0

    def _wait(self, wakeups: socket.socket) -> None:
        """Until a signal, or until something is due."""
        due = [at for at in (*self._again.values(), self._deadline) if at is not None]
        within = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([wakeups], [], [], within)
        for number in wakeups.recv(4096) if ready else b"":
            if number in SIGNALS:
                self._hear()

    def _hear(self) -> None:
        """Passed on, every time: a child knows the second one from the first."""
        self._told += 1
        if self._told == 1:
            self._again.clear()
            self._close()
        relays = [pid for pid, child in self._running.items() if not child.settles]
        if relays:
            promised_s = self._times.relays_s if self._told == 1 else 0
            self._deadline = time.monotonic() + promised_s + self._times.beyond_s
            _send(relays, signal.SIGTERM)
        elif self._settler_told:
            _send(self._running, signal.SIGTERM)

    def _end(self) -> None:
        """The settling process is told once nobody writes any more; who is overdue is ended."""
        relays = [pid for pid, child in self._running.items() if not child.settles]
        if not relays and not self._settler_told:
            self._settler_told = True
            self._deadline = time.monotonic() + self._times.settler_s + self._times.beyond_s
            _send(self._running, signal.SIGTERM)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = time.monotonic() + self._times.beyond_s
            _send(relays or self._running, signal.SIGKILL)

    def _reap(self) -> None:
        """Every process that ended, also those that PID 1 inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._running.pop(pid, None)
            if child is None or self._told:
                continue
            code = os.waitstatus_to_exitcode(status)
            if child.settles:
                log.say("settler_died", logging.ERROR, pid=pid, status=code)
            elif child.views:
                log.say("viewer_died", logging.ERROR, pid=pid, status=code)
            else:
                log.say("worker_died", logging.ERROR, worker=child.index, pid=pid, status=code)
            self._again[child] = time.monotonic() + RESTART_PAUSE_S

    def _restart(self) -> None:
        now = time.monotonic()
        for child in [each for each, at in self._again.items() if at <= now]:
            del self._again[child]
            self._start(child)

    def _start(self, child: Child) -> None:
        # A signal that comes between the fork and the child's own hearing must not be heard as the parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = child
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
            return
        code = 1
        try:
            _become_child(parent)
            code = child.run()
        except BaseException as exc:  # a fork must never return into its parent's code
            if child.settles:
                log.error("settler_failed", exc)
            elif child.views:
                log.error("viewer_failed", exc)
            else:
                log.error("worker_failed", exc, worker=child.index)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


@contextlib.contextmanager
def _heard() -> Iterator[socket.socket]:
    """Signals arrive as octets in the socket, and nowhere in the middle of anything."""
    hearing, telling = socket.socketpair()
    with hearing, telling:
        telling.setblocking(False)
        ignored = {number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN}
        # The socket first and last: a signal that found `_noted` without it would be lost.
        wakeup = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, _noted) for number in _HEARD if number not in ignored}
        try:
            yield hearing
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)


def _noted(number: int, frame: object) -> None:
    """The octet is in the socket already."""


def _become_child(parent: int) -> None:
    """Nothing of the parent's hearing is left, and it does not outlive the parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C reaches all of a terminal's processes: the parent's word alone counts, else it would count twice.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)


def end_with(parent: int) -> None:
    """From now on the parent's death is a SIGTERM: nobody would end this process, and it would keep the port."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _send(pids: Sequence[int] | dict[int, Child], number: signal.Signals) -> None:
    for pid in list(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
