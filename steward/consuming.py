"""Settles messages that a host hands over in batches, and says of each whether it is settled: Lambda, pushed messages.

Safe to run twice on the same message, in any order and with the same one twice: a call has one row and one object. It
tells the queue nothing; whoever called does. What fails is tried again by the queue, which sets it aside in the end:
a body is never given up here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from steward import log
from steward.claims import Claims
from steward.errors import LedgerFault, MessageRefused, MessageWaits
from steward.exchange import BodyState, Exchange, Record
from steward.settle import Settler, Settling, give_up

AT_ONCE = 64
EXPORT_S = 10.0

Message = tuple[str, str | bytes]
"""The queue's name for a message, and what it holds."""


@dataclass(frozen=True, slots=True)
class Around:
    """What is done before and after a batch."""

    before: Callable[[], None] = lambda: None
    """Looks anew at what may have changed. What it raises is said, and keeps nothing."""
    export: Callable[[float], None] = lambda until: None
    """Tells Butler of what is due, until a monotonic moment. In a thread of its own: it may take longer than that."""
    refused: Callable[[str], None] = lambda reason: None
    """Told of each message that does not open, and why."""
    close: Callable[[], None] = lambda: None


class Consumer:
    """One process that settles what it is handed. Not for several threads."""

    def __init__(self, claims: Claims, settler: Settler, ready: Callable[[], None], around: Around = Around()) -> None:
        """`ready`: see Ledger.ready."""
        self._claims = claims
        self._settler = settler
        self._ready = ready
        self._around = around
        self._exporting: threading.Thread | None = None

    def settle(self, messages: Sequence[Message], until: float | None = None) -> dict[str, str | None]:
        """None for each message that is settled, else one of our own words: the queue is to hand it out again.

        Exports once, in the end, for EXPORT_S, and not beyond a monotonic moment. Raises nothing.
        """
        try:
            self._around.before()
        except Exception as exc:  # what was known stays in force
            log.error("look_failed", exc)
        said: dict[str, str | None] = {}
        for at in range(0, len(messages), AT_ONCE):
            for message_id, code in self._settled(messages[at : at + AT_ONCE]):
                said[message_id] = said.get(message_id) or code
        if any(code is None for code in said.values()):
            ends = time.monotonic() + EXPORT_S
            self._export(ends if until is None else min(ends, until))
        return said

    def close(self) -> None:
        """Gives back what it was made of."""
        self._around.close()

    def _export(self, ends: float) -> None:
        """Returns at `ends`, whatever Butler does.

        One that hangs must not take the host's time to its end: the host would kill this process before it said what
        is settled, and the queue hand all of it out again, until it sets it aside.
        """
        if (before := self._exporting) is not None:
            before.join(max(0.0, ends - time.monotonic()))
            if before.is_alive():
                log.say("export_hangs", logging.WARNING)
                return
        self._exporting = threading.Thread(target=self._exported, args=(ends,), name="steward-exports", daemon=True)
        self._exporting.start()
        self._exporting.join(max(0.0, ends - time.monotonic()))

    def _exported(self, ends: float) -> None:
        try:
            self._around.export(ends)
        except Exception as exc:  # the rows are in: whoever exports next has them
            log.error("export_failed", exc)

    def _settled(self, messages: Sequence[Message]) -> list[tuple[str, str | None]]:
        calls: dict[UUID, Exchange] = {}
        whose: list[tuple[str, UUID | str]] = []
        for message_id, data in messages:
            opened = self._opened(data)
            if isinstance(opened, str):
                whose.append((message_id, opened))
                continue
            whose.append((message_id, opened.id))
            if opened.id in calls:
                _close(opened)
            else:
                calls[opened.id] = opened
        ends = self._ends(list(calls.values()))
        return [(message_id, call if isinstance(call, str) else ends[call]) for message_id, call in whose]

    def _opened(self, data: str | bytes) -> Exchange | str:
        """The call of a message, or why there is none now."""
        try:
            return self._claims.open(data)
        except MessageRefused as exc:
            self._around.refused(exc.reason)
            log.error("message_refused", exc)
            return exc.reason
        except MessageWaits as exc:
            log.error("message_waits", exc)
            return exc.reason
        except OSError as exc:
            log.error("message_waits", exc)
            return "no_room"

    def _ends(self, calls: Sequence[Exchange]) -> dict[UUID, str | None]:
        """What became of each."""
        ends: dict[UUID, str | None] = {call.id: "not_metered" for call in calls}
        settling = self._settler.metered(calls, counted=False)
        try:
            self._settler.put([each for each in settling if each.record.body_state is BodyState.PENDING])
            for each in settling:
                ends[each.exchange.id] = _end(each)
            known = self._settler.known(settling)
            not_taken = self._recorded([each.record for each in settling])
            ends |= not_taken
            for each in settling:  # a queue hands a call out again, to any process: it counts once, with its first row
                if each.exchange.id not in known and each.exchange.id not in not_taken:
                    self._settler.count(each)
        except LedgerFault as exc:
            log.error("rows_waiting", exc, count=len(settling))
            ends |= {each.exchange.id: exc.code for each in settling}
        except Exception as exc:  # what one batch meets must not be the end of the next
            log.error("settle_failed", exc, count=len(settling))
            ends |= {each.exchange.id: "settle_failed" for each in settling}
        finally:
            for each in settling:
                each.close()
        return ends

    def _recorded(self, records: Sequence[Record]) -> dict[UUID, str]:
        """Writes the rows; those that the ledger will not take, each alone at fault. Raises LedgerFault."""
        if not records:
            return {}
        try:
            return {each.id: "row_refused" for each in self._settler.record(records)}
        except LedgerFault:
            raise
        except Exception as exc:  # no adapter promises it: one row may be poison to all
            self._ready()
            if len(records) == 1:
                log.error("row_poisoned", exc, id=records[0].id)
                return {records[0].id: "row_broken"}
        return {request_id: code for record in records for request_id, code in self._recorded([record]).items()}


def _end(settling: Settling) -> str | None:
    if settling.broken:
        give_up(settling, BodyState.FAILED)
        return "body_not_built"
    if settling.record.body_state is BodyState.PENDING:
        return "body_waits" if settling.refused is None else "body_refused"
    return None


def _close(exchange: Exchange) -> None:
    exchange.request.close()
    exchange.response.close()
