"""`steward export backfill` and `resend`: lets Butler have calls of before the registration, or those it refused.

It sends nothing itself: the rows wait then like all others, and leave by the running Steward.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Final, TextIO

from steward.errors import LedgerFault
from steward.ports import Outbox

_AT_ONCE: Final = 5000


def backfill(outbox: Outbox, since: datetime, as_json: bool, out: TextIO | None = None) -> int:
    """Prints how many calls of this time and later go out now. Raises LedgerFault unless exactly one is registered.

    Ended half way, it is run again.
    """
    rows = 0
    while some := outbox.backfill(since, _AT_ONCE):
        rows += some
    if some is None:
        raise LedgerFault("Not exactly one organisation is registered: nobody knows whose these calls would be.")
    _tell(since, rows, as_json, out)
    return 0


def resend(outbox: Outbox, since: datetime, as_json: bool, out: TextIO | None = None) -> int:
    """Prints how many calls of this time and later that were set aside are tried again. Raises LedgerFault."""
    rows = 0
    while some := outbox.resend(since, _AT_ONCE):
        rows += some
    _tell(since, rows, as_json, out)
    return 0


def _tell(since: datetime, rows: int, as_json: bool, out: TextIO | None) -> None:
    if as_json:
        text = json.dumps({"since": since.isoformat(), "rows": rows}, indent=2) + "\n"
    else:
        text = f"{rows} calls since {since:%Y-%m-%d %H:%M} UTC go out now\n"
    (out or sys.stdout).write(text)
