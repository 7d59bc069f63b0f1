"""Pulls from Butler what changed there: keys by their changes, other sets whole; and does, or fails, each work item.

It believes Butler in nothing that `ingress.py` and the directory do not allow. One process syncs a registration at a
time; no registration waits for another one's Butler: each has a thread of its own while it is at work, and pauses of
its own after a failure. What takes effect is in the database, so that a restart or another process goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final, cast
from uuid import UUID

from steward import egress, ingress, log
from steward.backoff import Backoff
from steward.errors import ButlerDenied, ButlerFault, ButlerNonsense, ButlerRejected, ButlerUnavailable, StewardError
from steward.ingress import JobKind
from steward.paging import Paging
from steward.ports import MAX_SYNCED_KEYS, ButlerWord, ControlPlane, Directory, Registration, Turns
from steward.words import Secret

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
_EARLY: Final = 0.5
"""Of `every_s`: whoever calls `run_once` may come a little before its time."""
_FAILURES: Final = 3
"""In a row, then another process may try."""
_MOST_FLOODS: Final = 8
"""Then a pause lasts five minutes; the hourly pull of everything takes the place of what waits."""
MOST_PAGES: Final = 1500
"""Of one pull."""

OpenButler = Callable[[Registration, Secret[str]], ControlPlane]


@dataclass(frozen=True, slots=True)
class WholeSet:
    """A set that is pulled whole: what to ask, and what takes the answer."""

    call: egress.Call
    take: Callable[[Registration, object], None]
    """Raises ButlerNonsense for what is no such set, LedgerFault."""


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """Times in seconds."""

    every_s: float = 5.0
    """From one turn to the next, where no more work waits."""
    work_items: int = 50
    """Asked for at once."""
    in_a_row: int = 10
    """Turns without a pause between them, however much work waits."""
    full_every_s: float = 3600.0
    """All sets are pulled whole: a work item that was lost costs no more than that."""
    full_again_s: float = 300.0
    """The same after a pull that Butler did not answer as it should."""
    turn_s: float = 600.0
    """A turn that takes longer ends between two calls."""
    patience_s: float = 2.0
    """How long a round waits for its turns; what takes longer goes on beside the next."""
    at_once: int = 16
    """Turns that run at a time."""


@dataclass(slots=True, eq=False)
class _Lane:
    """One registration, as it was registered last."""

    registration: Registration
    backoff: Backoff
    thread: threading.Thread | None = None
    butler: ControlPlane | None = None
    full_at: float | None = None
    """When the next full pull is due; None: now."""
    more: bool = False
    """More work waits, and may be asked for at once."""
    in_a_row: int = 0
    floods: int = 0
    """Times in a row that its work did not end: each answer to an item is a row of the egress log, for ever."""
    said: str | None = None
    """The failure that was said last."""
    not_before: float = 0.0
    unserved: set[str] = field(default_factory=set)
    """Kinds of work of which it was said that they are not done here."""

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Syncer:
    """All registrations of this installation. `run_once` is called every WORK_TICK_INTERVAL, from one thread."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of
        self,
        directory: Directory,
        turns: Turns,
        open_butler: OpenButler,
        sets: Mapping[JobKind, WholeSet],
        limits: SyncLimits = SyncLimits(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._turns = turns
        self._open_butler = open_butler
        self._sets = sets
        self._limits = limits
        self._monotonic = monotonic
        self._lanes: dict[UUID, _Lane] = {}

    def run_once(self) -> bool:
        """A turn of each registration that is due, `at_once` of them; whether more waits. Raises LedgerFault."""
        lanes, others_due = self._due()
        for lane in lanes:
            lane.thread = threading.Thread(target=self._turn, args=(lane,), name="steward-sync", daemon=True)
            lane.thread.start()
        until = time.monotonic() + self._limits.patience_s
        for lane in lanes:
            if lane.thread is not None:
                lane.thread.join(max(0.0, until - time.monotonic()))
        return (bool(lanes) and others_due) or any(lane.more and not lane.running for lane in lanes)

    def finish(self, within_s: float = 0.0) -> None:
        """Waits so long for turns that run, then lets other processes go on. What still runs ends with this one."""
        until = time.monotonic() + within_s
        for lane in self._lanes.values():
            if lane.thread is not None:
                lane.thread.join(max(0.0, until - time.monotonic()))
            if not lane.running:
                _hang_up(lane)
        self._turns.close()

    def _due(self) -> tuple[list[_Lane], bool]:
        """Who may have a turn now: registered, not at work, and not in a pause; and whether others may, too."""
        live = {each.id: each for each in self._directory.registrations() if each.deregistered_at is None}
        for lane in [lane for lane in self._lanes.values() if not _stands(lane, live)]:
            if not lane.running:
                self._forget(lane, live)
        for each in live.values():
            if each.id not in self._lanes:
                backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, self._monotonic)
                self._lanes[each.id] = _Lane(each, backoff)
        idle = [lane for lane in self._lanes.values() if not lane.running and _stands(lane, live)]
        now = self._monotonic()
        due = [lane for lane in idle if now >= lane.not_before and not lane.backoff.waits()]
        room = self._limits.at_once - sum(lane.running for lane in self._lanes.values())
        first = due[: max(0, room)]
        for lane in first:  # whoever had no turn now is before them next time
            self._lanes[lane.registration.id] = self._lanes.pop(lane.registration.id)
        return first, len(due) > len(first)

    def _forget(self, lane: _Lane, live: Mapping[UUID, Registration]) -> None:
        _hang_up(lane)
        del self._lanes[lane.registration.id]
        if lane.registration.id not in live:
            self._turns.let_go(lane.registration.id)

    def _turn(self, lane: _Lane) -> None:
        """One registration's turn. Whatever happens in it concerns no other."""
        began = self._monotonic()
        lane.more = False
        try:
            waits = self._synced(lane)
        except ButlerFault as fault:
            self._failed(lane, fault)
            self._note(lane.registration, cast("ButlerWord", fault.code))
        except Exception as fault:
            self._failed(lane, fault)
        else:
            lane.backoff.worked()
            lane.in_a_row = lane.in_a_row + 1 if waits else 0
            lane.more = 0 < lane.in_a_row < self._limits.in_a_row
            if not lane.more:
                lane.floods = min(lane.floods + 1, _MOST_FLOODS) if waits else 0
                pause_s = self._limits.every_s * _EARLY * 2 ** max(0, lane.floods - 1)
                lane.in_a_row, lane.not_before = 0, began + pause_s
            if lane.said is not None:
                log.say("sync_recovered", org=lane.registration.org_id)
            lane.said = None

    def _failed(self, lane: _Lane, fault: Exception) -> None:
        lane.backoff.failed()
        _hang_up(lane)  # a token that was replaced is read anew
        if lane.backoff.failures % _FAILURES == 0 and isinstance(fault, ButlerFault):
            self._let_others_try(lane)
        if isinstance(fault, ButlerUnavailable) and fault.after_s is not None:
            lane.not_before = max(lane.not_before, self._monotonic() + min(fault.after_s, LONGEST_PAUSE_S))
        kind = type(fault).__name__
        if lane.said != kind:
            denied = isinstance(fault, ButlerDenied)
            log.error("sync_denied" if denied else "sync_failed", fault, org=lane.registration.org_id)
        lane.said = kind

    def _let_others_try(self, lane: _Lane) -> None:
        """What fails here may be this host's way to Butler alone: it must not keep revocations from all."""
        lane.not_before = self._monotonic() + 2 * self._limits.every_s
        try:
            self._turns.let_go(lane.registration.id)
        except StewardError as fault:
            log.error("sync_failed", fault, org=lane.registration.org_id)

    def _note(self, registration: Registration, word: ButlerWord | None) -> None:
        try:
            self._directory.heard(registration, word)
        except StewardError as fault:
            log.error("sync_failed", fault, org=registration.org_id)

    def _synced(self, lane: _Lane) -> bool:
        """Raises ButlerFault, LedgerFault, SealBroken."""
        registration = lane.registration
        if not self._turns.hold(registration.id):
            lane.full_at = None  # whoever takes over pulls everything first
            return False
        if lane.butler is None:
            token = self._directory.token(registration.org_id, registration)
            if token is None:
                return False
            lane.butler = self._open_butler(registration, token)
        turn = _Turn(self._directory, registration, lane.butler, self._sets, self._limits, self._monotonic)
        now = self._monotonic()
        if lane.full_at is None or now >= lane.full_at:
            whole = turn.everything()
            lane.full_at = now + (self._limits.full_every_s if whole else self._limits.full_again_s)
        more = turn.work(lane.unserved)
        self._directory.heard(registration, None)
        return more


def _stands(lane: _Lane, live: Mapping[UUID, Registration]) -> bool:
    """Whether it is still registered as it was: who registers again may have another token, and pulls everything."""
    each = live.get(lane.registration.id)
    return each is not None and each.registered_at == lane.registration.registered_at


def _hang_up(lane: _Lane) -> None:
    butler, lane.butler = lane.butler, None
    if butler is not None:
        butler.close()


@dataclass(slots=True, eq=False)
class _Turn:
    """What is done for one registration, one call after the other."""

    directory: Directory
    registration: Registration
    butler: ControlPlane
    sets: Mapping[JobKind, WholeSet]
    limits: SyncLimits
    monotonic: Callable[[], float]
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.monotonic()

    def everything(self) -> bool:
        """Every set, whole. False when Butler did not answer one of them as it should: the others are pulled."""
        pulls = [partial(self._keys, whole=True), *(partial(self._whole, each) for each in self.sets.values())]
        answered = [self._answered(pull) for pull in pulls]
        return all(answered)

    def work(self, unserved: set[str]) -> bool:
        """The items that Butler has; whether there may be more. `unserved`: kinds of which it was said already."""
        said = ingress.work(self.butler.ask(egress.Work(limit=self.limits.work_items)), self.registration.org_id)
        if said.size > len(said.items):
            log.say("sync_skipped", org=self.registration.org_id, count=said.size - len(said.items))
        done: dict[str, bool] = {}
        for item in said.items:
            if self._over():
                return False  # what is not acknowledged comes again
            kind = item.kind or "unknown"
            if kind not in done:
                done[kind] = self._done(kind, unserved)
            answer = egress.Ack(job_id=item.job_id) if done[kind] else egress.Fail(job_id=item.job_id)
            self._answered(partial(self.butler.ask, answer))
        return said.size >= self.limits.work_items

    def _done(self, kind: str, unserved: set[str]) -> bool:
        """Whether this kind of work was done, once for all items that ask for it."""
        if kind == "sync_api_keys":
            return self._answered(self._keys)
        each = self.sets.get(cast("JobKind", kind))
        if each is not None:
            return self._answered(partial(self._whole, each))
        if kind not in unserved:
            log.say("sync_work_not_served", org=self.registration.org_id, work=kind)
            unserved.add(kind)
        return False

    def _answered(self, ask: Callable[[], object]) -> bool:
        """Whether what was asked was answered as it should: what is not concerns this question alone."""
        try:
            ask()
        except (ButlerRejected, ButlerNonsense) as fault:
            log.error("sync_answer_refused", fault, org=self.registration.org_id)
            return False
        return True

    def _whole(self, each: WholeSet) -> None:
        each.take(self.registration, self.butler.ask(each.call))

    def _keys(self, whole: bool = False) -> None:
        """Pages of keys, each applied with its watermark; after a whole pull, what it did not hold rests."""
        state = self.directory.sync_state(self.registration, "api_keys")
        paging = Paging.since(None if whole else state.watermark)
        seen: set[UUID] = set()
        refused: set[UUID] = set()
        for _ in range(MOST_PAGES):
            asked = egress.ApiKeys(updated_after=paging.after, limit=paging.limit)
            said = ingress.api_keys(self.butler.ask(asked), self.registration.org_id, datetime.now(UTC))
            refused.update(self.directory.apply_keys(self.registration, said.keys).refused)
            seen |= said.seen
            if said.skipped:
                log.say("sync_skipped", org=self.registration.org_id, count=said.skipped)
            if not paging.goes_on(said.size, said.newest):
                break
            if self._over() or len(seen) > MAX_SYNCED_KEYS:
                paging.whole = False
                break
        else:
            paging.whole = False
        if refused:
            log.say("sync_keys_refused", org=self.registration.org_id, count=len(refused))
        if not paging.whole:
            log.say("sync_incomplete", org=self.registration.org_id)
        elif whole and (rested := self.directory.rest_missing(self.registration, seen, state.read_at)):
            log.say("sync_keys_rest", org=self.registration.org_id, count=rested)

    def _over(self) -> bool:
        return self.monotonic() - self._began > self.limits.turn_s
