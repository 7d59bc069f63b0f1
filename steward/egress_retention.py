"""Lets the oldest rows of the egress log go once they are older than EGRESS_LOG_RETENTION, some hundred at a time.

Refuses to let go of a log that is not what was written: it says so, and all of it stays for whoever looks.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from steward import log
from steward.errors import EgressLogBroken
from steward.ports import EgressLog

BATCH: Final = 500
"""Rows of one transaction."""

MOST_BATCHES: Final = 1000
"""Of one run: what is left waits for the next, hours later."""


class Retention:
    """How long the rows of one log are kept."""

    def __init__(self, egress_log: EgressLog, keep_s: float, batch: int = BATCH) -> None:
        """`keep_s`: seconds, 0 for ever."""
        self._log = egress_log
        self._keep_s = keep_s
        self._batch = batch

    def run(self, now: datetime) -> None:
        """Lets go of what is too old. Raises LedgerUnavailable, SchemaTooOld; then what went stays gone."""
        if not self._keep_s:
            return
        before, gone = now - timedelta(seconds=self._keep_s), 0
        try:
            for _ in range(MOST_BATCHES):
                went = self._log.let_go(before, self._batch, now)
                gone += went
                if went < self._batch:
                    break
        except EgressLogBroken as exc:
            log.error("egress_log_broken", exc)
        if gone:
            log.say("egress_log_let_go", count=gone, until=before)
