"""How long to leave a service alone that is away: full jitter, doubling up to a bound.

It tries nothing and waits for nothing itself; time and chance are given to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_S = 0.5
LONGEST_S = 60.0
_DOUBLINGS = 30


@dataclass(slots=True, eq=False)
class Backoff:
    """Each failure in a row doubles the bound below which the pause is drawn; the first success ends it."""

    first_s: float = FIRST_S
    longest_s: float = LONGEST_S
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    failures: int = 0
    _until: float = 0.0

    @property
    def failing(self) -> bool:
        """The last try failed."""
        return self.failures > 0

    def failed(self, at_least_s: float = 0.0) -> None:
        """One more failure: the pause begins now, and is not shorter than was asked for."""
        bound_s = min(self.longest_s, self.first_s * 2 ** min(self.failures, _DOUBLINGS))
        self.failures += 1
        self._until = self.now() + max(at_least_s, self.chance() * bound_s)

    def hurry(self) -> None:
        """It failed, but there is no use in waiting: the pause is over, the failures stand."""
        self._until = 0.0

    def worked(self) -> None:
        """It is there."""
        self.failures = 0
        self._until = 0.0

    def waits(self) -> float:
        """Seconds until the next try; 0 when it may be tried."""
        return max(0.0, self._until - self.now()) if self.failures else 0.0
