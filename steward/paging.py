"""From where, and how many at once, the next page of changes is asked for, whatever the last one held.

A page overlaps the one before by a second: a change that was committed late is seen, and repeats are harmless. Where
more changes lie in that second than a page holds, it asks for twice as many, then goes on by microseconds. It never
goes back, and gives up on a Butler whose full pages lead nowhere. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

PAGE: Final = 200
OVERLAP: Final = timedelta(seconds=1)
STEP: Final = timedelta(microseconds=1)
MOST_STEPS: Final = 8
"""In a row, without anything new."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, eq=False)
class Paging:
    """One pull. `after` and `limit` are what to ask next."""

    after: datetime
    limit: int = PAGE
    whole: bool = True
    """Nothing can have been passed over."""
    _newest: datetime = EPOCH
    _steps: int = 0
    _stepping: bool = False

    @classmethod
    def since(cls, watermark: datetime | None) -> Paging:
        """From what was applied last; None: from the beginning."""
        after = EPOCH if watermark is None else max(EPOCH, watermark - OVERLAP)
        return cls(after, _newest=after)

    def goes_on(self, size: int, newest: datetime | None) -> bool:
        """Whether to ask again, after a page of so many rows whose latest change was `newest`."""
        if size != self.limit:  # more than was asked for is all there is: it knows no limit
            return False
        if newest is not None and newest > self._newest:
            self._newest, self._steps = newest, 0
            back = STEP if self._stepping else OVERLAP
            self.after = max(self.after, newest - back)
        elif self.limit == PAGE:
            self.limit = 2 * PAGE
        elif self._steps == MOST_STEPS:
            self.whole = False
            return False
        else:
            self._steps, self._stepping = self._steps + 1, True
            self.after = max(self.after + STEP, self._newest - STEP)
            if self.after >= self._newest:
                self.whole = False  # of changes of one microsecond, more than a page holds cannot be told apart
        return True
