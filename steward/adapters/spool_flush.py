"""The thread behind a spool's writer: has the disk take what the kernel holds, and looks how much room there is.

No call waits for it and it decides nothing about one: what it may lose is what a power cut takes within its interval.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final

from steward import log
from steward.adapters.spool_files import Folder, segment_name

WATCH_S: Final = 0.5
"""How often it looks which segments the settler has taken away."""
MEASURE_S: Final = 10.0
"""How often it adds up what the whole of SPOOL_DIR holds."""


class Flusher:
    """Syncs and closes what the relay's thread hands over by plain appends: nothing here is locked."""

    def __init__(self, spool: Folder, relay: Folder, interval_s: float, on_round: Callable[[], None]) -> None:
        """`on_round` is called about every `WATCH_S`, in the thread."""
        self._spool = spool
        self._relay = relay
        self._interval_s = interval_s
        self._on_round = on_round
        self.current = -1
        """The descriptor that is appended to."""
        self.dirty = False
        """Something was appended to it."""
        self.named = False
        """The folder has new names."""
        self.retired: deque[int] = deque()
        """Descriptors that nobody writes to any more."""
        self.watched: frozenset[int] = frozenset()
        """Segments to look for."""
        self.gone: frozenset[int] = frozenset()
        """Those of them that are there no more; emptied by whoever has taken note."""
        self.others = 0
        """Octets in SPOOL_DIR that are not this process's."""
        self._failing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-flush", daemon=True)

    def start(self) -> None:
        """Once everything is in place."""
        self._measure()
        self._thread.start()

    def stop(self) -> None:
        """What was handed over is on disk when this returns. Waits for the disk."""
        self._ended.set()
        self._thread.join()
        self._guarded(self._flush)

    def _run(self) -> None:
        rounds = max(1, round(WATCH_S / self._interval_s))
        measured_at = time.monotonic()
        pause_s = MEASURE_S
        for turn in count(1):
            if self._ended.wait(self._interval_s):
                return
            self._guarded(self._flush)
            if turn % rounds:
                continue
            self._guarded(self._watch)
            began = time.monotonic()
            if began - measured_at >= pause_s:
                self._guarded(self._measure)
                measured_at = time.monotonic()
                pause_s = max(MEASURE_S, 50 * (measured_at - began))

    def _guarded(self, step: Callable[[], None]) -> None:
        """A disk that fails is said once until it works again; whatever is handed over meanwhile is tried anew."""
        try:
            step()
        except OSError as exc:
            if not self._failing:
                self._failing = True
                log.error("spool_disk_failed", exc)
        else:
            if step == self._flush:
                self._failing = False

    def _flush(self) -> None:
        """Bodies first: a record on the disk should find what it speaks of."""
        while self.retired:
            descriptor = self.retired.popleft()
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        if self.named:
            self.named = False
            self._relay.sync()
        if self.dirty:
            self.dirty = False
            try:
                os.fdatasync(self.current)
            except OSError:
                self.dirty = True
                raise

    def _watch(self) -> None:
        self.gone = frozenset(number for number in self.watched if self._relay.size(segment_name(number)) is None)
        self._on_round()

    def _measure(self) -> None:
        mine = self._relay.bytes_below()
        self.others = max(0, self._spool.bytes_below() - mine)
