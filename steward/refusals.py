"""Counts callers who were turned away before anyone knew who they were, and says so once a second.

A line each would let anybody with the port fill the log; none at all would hide a flood (SECURITY F14). It knows codes
and numbers, never an address, a key or a path.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from steward import log

EVERY_S = 1.0


class Refusals:
    """One per process. Used from its event loop."""

    def __init__(self, every_s: float = EVERY_S, told: Callable[[str, int], None] | None = None) -> None:
        """`told`: who else is told, with each line, of a code and a number."""
        self._every_s = every_s
        self._told = told
        self._counts: Counter[str] = Counter()
        self.total = 0
        """Turned away since the start."""

    def count(self, code: str) -> None:
        """One more, by the error's code. The first of a second starts the clock."""
        if not self._counts:
            asyncio.get_running_loop().call_later(self._every_s, self.tell)
        self._counts[code] += 1
        self.total += 1

    def tell(self) -> None:
        """Says what was counted. By itself a while after the first; at once for a host that may freeze before that."""
        counts, self._counts = self._counts, Counter()
        for code, number in sorted(counts.items()):
            log.say("callers_refused", logging.WARNING, code=code, count=number)
            if self._told is not None:
                self._told(code, number)
