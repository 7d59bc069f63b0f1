"""What a serving Butler does beside answering: partitions ahead, ended sessions, tags made filters after the fact.

`run_once` does one bounded piece and says whether more waits; it has no loop and no clock of its own. Safe beside
others of its kind.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Final

from steward import log
from steward.butler.partitions import ensure_month
from steward.butler.services import Services
from steward.errors import LedgerFault

EVERY_S: Final = 5.0
AFTER_FAULT_S: Final = 30.0
_AHEAD: Final = timedelta(days=7)


def run_once(services: Services) -> bool:
    """One piece. Raises LedgerFault."""
    now = services.now()
    for at in (now, now + _AHEAD):
        ensure_month(services.database, (at.year, at.month), now)
    services.sessions.forget_expired(now)
    return services.metadata_keys.backfill()


class Upkeep:
    """A thread that runs it until told to stop."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the piece in hand."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if run_once(self._services) else EVERY_S
            except LedgerFault as fault:
                log.error("upkeep_failed", fault)
                pause = AFTER_FAULT_S
