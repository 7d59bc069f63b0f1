"""A Butler that is told nothing which the egress log does not hold: the row is written first, then the call is made.

When the log cannot be written the call is not made: what left unseen could never be told again, and what waits is
not lost. When the answer cannot be noted the row stands without one, which says: not known.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from steward import egress, log
from steward.errors import LedgerFault, StewardError
from steward.ports import ControlPlane, Departure, EgressLog

OK: Final = "ok"
FOREIGN: Final = "foreign"


class LoggedButler(ControlPlane):
    """One Butler, for one registration (None: it is asked whose a token is)."""

    def __init__(self, butler: ControlPlane, egress_log: EgressLog, registration_id: UUID | None = None) -> None:
        self._butler = butler
        self._log = egress_log
        self._registration_id = registration_id

    def ask(self, call: egress.Call, fields: frozenset[str] | None = None) -> object:
        """As ControlPlane. Raises also LedgerFault: the call was not made."""
        number = self._log.leaving(_departure(call, fields, self._registration_id))
        answer = FOREIGN
        try:
            said = self._butler.ask(call, fields)
            answer = OK
        except StewardError as refused:
            answer = refused.code
            raise
        finally:
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
