"""`steward export backfill`: lets Butler have calls that were made before the organisation was registered.

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
    if as_json:
        text = json.dumps({"since": since.isoformat(), "rows": rows}, indent=2) + "\n"
    else:
        text = f"{rows} calls since {since:%Y-%m-%d %H:%M} UTC go out now\n"
    (out or sys.stdout).write(text)
    return 0
