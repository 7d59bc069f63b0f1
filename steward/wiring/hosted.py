"""What a process runs on that its host freezes, throttles or ends between calls: Lambda, Cloud Run, Cloud Functions.

Nothing runs in its background, and no pool, thread or connection is made before the first call asks for it: the host
calls `prepare` before a call, `turn` after it and `sweep` on its own schedule. `handlers/` knows which host it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cached_property

from steward import log
from steward.errors import LedgerFault
from steward.settings import Settings
from steward.stores import LOOK_EVERY_S, DecidedStores
from steward.wiring.relay import Ground

_MAINTAINED_EVERY_S = 3600.0


def elapsed() -> float:
    """Seconds that passed, also while the process was frozen: some clocks stand still then.

    Never less than before; a clock that is set forward ages what is remembered, and that does no harm.
    """
    return _ELAPSED()


class _Elapsed:
    """The greater of two clocks' advances, added up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._monotonic, self._wall = time.monotonic(), time.time()
        self._seconds = 0.0

    def __call__(self) -> float:
        with self._lock:
            monotonic, wall = time.monotonic(), time.time()
            self._seconds += max(0.0, monotonic - self._monotonic, wall - self._wall)
            self._monotonic, self._wall = monotonic, wall
            return self._seconds


_ELAPSED = _Elapsed()


class StoresByCall:
    """Where bodies go, asked anew before a batch is stored once what is known is older than LOOK_EVERY_S."""

    def __init__(self, stores: DecidedStores, now: Callable[[], float] = elapsed) -> None:
        self._stores = stores
        self._now = now
        self._looked_at: float | None = None

    def look(self) -> None:
        """Raises nothing: what was known stays in force."""
        now = self._now()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S:
            return
        try:
            self._stores.look()
        except LedgerFault as exc:
            log.error("stores_not_looked_up", exc)
        else:
            self._looked_at = now


class Export:
    """The rows of this installation to their Butlers, when called; its client is made at the first call."""

    def __init__(self, settings: Settings, ground: Ground) -> None:
        self._settings = settings
        self._ground = ground

    @cached_property
    def _exporter(self):  # type: ignore[no-untyped-def]  # noqa: ANN202 - egress models are imported with it
        from steward.adapters.postgres_egress_log import PostgresEgressLog
        from steward.adapters.postgres_outbox import PostgresOutbox
        from steward.wiring.butlers import registered_butlers
        from steward.wiring.schedule import open_exporter

        engine, keyring = self._ground.engine, self._ground.keyring
        open_butler = registered_butlers(self._settings, PostgresEgressLog(engine, keyring))
        return open_exporter(
            self._settings, self._ground.directory, PostgresOutbox(engine), open_butler, self._ground.board
        )

    def until(self, until: float) -> None:
        """Everything that is due, or as much as goes in until a monotonic moment. Raises LedgerFault."""
        self._exporter.drain(until)
