"""Managed mode: takes over the organisations that its Butler assigns, many in one transaction, then claims each.

It takes an organisation only when its token's own answer names it, leaves one that is registered at another Butler as
it is, and claims nothing that is not registered here. An assignment that cannot be taken over concerns no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from steward import egress, ingress, log
from steward.errors import ButlerDenied, ButlerNonsense, ButlerRejected, ButlerUnavailable, StewardError
from steward.ingress import Assignment
from steward.ports import ControlPlane, Directory, Identity
from steward.registering import OpenButler, whose
from steward.words import Secret

MOST_AT_ONCE: Final = 100
"""Assignments of one transaction."""


_AWAY: Final = 3
"""Calls without an answer in one round, then it is Butler that is away."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Trouble:
    """What fails for the moment with one assignment: the others have their turn, then it is raised."""

    faults: list[ButlerUnavailable] = field(default_factory=list)

    def borne(self, do: Callable[[], T]) -> T | None:
        """None: it failed, or nothing is asked any more."""
        if len(self.faults) >= _AWAY:
            return None
        try:
            return do()
        except ButlerUnavailable as fault:
            self.faults.append(fault)
            return None


class ElsewhereRegistered(StewardError):
    """An assignment names an organisation that another Butler has here."""

    code = "registered_elsewhere"
    message = "This organisation is registered at another Butler."


@dataclass(frozen=True, slots=True)
class Managed:
    """What MANAGED_BUTLER_URL assigns to MANAGED_MASTER_TOKEN."""

    directory: Directory
    open_butler: OpenButler
    url: str
    master: Secret[str]
    every_s: float = 30.0
    """How often `run_once` is called."""
    _last: set[UUID] = field(default_factory=set)
    """Assignments that could not be taken over lately: the others come first."""

    def run_once(self) -> bool:
        """Takes over what is pending; whether more waits. Raises ButlerFault, LedgerFault."""
        butler = self.open_butler(self.url, self.master)
        try:
            pending, skipped = ingress.managed_pending(butler.ask(egress.ManagedPending()))
            if skipped:
                log.say("managed_skipped", count=skipped)
            self._last.intersection_update(each.id for each in pending)
            claimed = self._taken_over(butler, sorted(pending, key=lambda each: each.id in self._last)[:MOST_AT_ONCE])
        finally:
            butler.close()
        return claimed > 0 and len(pending) > MOST_AT_ONCE

    def _taken_over(self, butler: ControlPlane, pending: Sequence[Assignment]) -> int:
        """How many were claimed."""
        self._last.update(each.id for each in pending)
        trouble = _Trouble()
        asked = [(each, trouble.borne(partial(self._identity, each))) for each in pending]
        known = [(each, identity) for each, identity in asked if identity is not None]
        made = self.directory.take_over([(identity, each.token) for each, identity in known], self.url)
        here = {each.org_id for each in made}
        claimed = 0
        for each, _ in known:
            if each.org_id not in here:
                log.error("managed_refused", ElsewhereRegistered(), org=each.org_id)
            else:
                claimed += bool(trouble.borne(partial(self._claimed, butler, each)))
        if trouble.faults:
            raise trouble.faults[0]
        return claimed

    def _identity(self, each: Assignment) -> Identity | None:
        """What the assignment's own token says; None when that is not what the assignment says (SECURITY F8)."""
        try:
            found = whose(self.open_butler, self.url, each.token)
            if found.org_id != each.org_id:
                raise ButlerNonsense
        except (ButlerDenied, ButlerNonsense) as fault:
            log.error("managed_refused", fault, org=each.org_id)
            return None
        return found

    def _claimed(self, butler: ControlPlane, each: Assignment) -> bool:
        try:
            butler.ask(egress.ManagedClaim(assignment_id=each.id))
        except (ButlerRejected, ButlerNonsense) as fault:
            log.error("managed_claim_refused", fault, org=each.org_id)
            return False
        self._last.discard(each.id)
        log.say("managed_taken_over", org=each.org_id)
        return True
