"""A Butler that is told nothing which the egress log does not hold: the row is written first, then the call is made.

When the log cannot be written the call is not made: what left unseen could never be told again, and what waits is
not lost. When the answer cannot be noted the row stands without one, which says: not known. A poll that says nothing
but what the one before it said, which was answered, is written once an hour: the log is kept for long, and must last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from steward import egress, log
from steward.errors import LedgerFault, StewardError
from steward.ports import ControlPlane, Departure, EgressLog

OK: Final = "ok"
FOREIGN: Final = "foreign"
POLL_ROW_S: Final = 3600.0
_POLLS: Final = (egress.Work, egress.ManagedPending)
"""Questions without a word of ours in them, asked every few seconds: 17,000 a day for each organisation."""


class Polls:
    """Which polls were written lately, and answered."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._written: dict[tuple[type[egress.Call], str], float] = {}

    def needs_row(self, call: egress.Call) -> bool:
        """False for the repetition of one that was."""
        if not isinstance(call, _POLLS):
            return True
        at = self._written.get((type(call), call.target()))
        return at is None or self._monotonic() - at >= POLL_ROW_S

    def came(self, call: egress.Call, answer: str, written: bool) -> None:
        """What came of one: after anything but an answer, the next is written."""
        if not isinstance(call, _POLLS):
            return
        if answer != OK:
            self._written.pop((type(call), call.target()), None)
        elif written:
            self._written[type(call), call.target()] = self._monotonic()


class LoggedButler(ControlPlane):
    """One Butler, for one registration (None: it is asked whose a token is)."""

    def __init__(
        self,
        butler: ControlPlane,
        egress_log: EgressLog,
        registration_id: UUID | None = None,
        polls: Polls | None = None,
    ) -> None:
        """`polls`: of this registration at this Butler alone."""
        self._butler = butler
        self._log = egress_log
        self._registration_id = registration_id
        self._polls = polls or Polls()

    def ask(self, call: egress.Call, fields: frozenset[str] | None = None) -> object:
        """As ControlPlane. Raises also LedgerFault: the call was not made."""
        written = self._polls.needs_row(call)
        number = self._log.leaving(_departure(call, fields, self._registration_id)) if written else None
        answer = FOREIGN
        try:
            said = self._butler.ask(call, fields)
            answer = OK
        except StewardError as refused:
            answer = refused.code
            raise
        finally:
            self._polls.came(call, answer, written)
            if number is not None:
                self._note(number, answer)
        return said

    def close(self) -> None:
        self._butler.close()

    def _note(self, number: int, answer: str) -> None:
        try:
            self._log.answered(number, answer)
        except LedgerFault as exc:
            log.error("egress_answer_not_noted", exc, count=number)


def _departure(call: egress.Call, fields: frozenset[str] | None, registration_id: UUID | None) -> Departure:
    ids = [record.id for record in call.records] if isinstance(call, egress.Ingest) else []
    return Departure(
        registration_id=registration_id,
        kind=type(call).__name__,
        target=call.target(),
        count=call.count,
        body=call.body(fields),
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )
