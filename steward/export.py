"""Sends Butler what the ledger has and it has not, one bounded batch a turn for each registration.

Refuses to lose a row: what Butler does not take as it stands is found by halving and set aside alone, with a code;
what it cannot take now waits. It keeps no time itself and does not loop: `clockwork.py` calls it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from steward import egress, ingress, log
from steward.backoff import Backoff
from steward.clockwork import FIRST_S, LONGEST_S, Fanout
from steward.egress import Ingest, MetadataRecord
from steward.errors import (
    ButlerFault,
    ButlerNonsense,
    ButlerRejected,
    ButlerUnavailable,
    LedgerFault,
    NotExportable,
    SealBroken,
)
from steward.export_record import ExportRules, export_record
from steward.metrics import ExportMetrics
from steward.ports import ControlPlane, Directory, Lane, LedgerRow, Outbox, Registration, SetAside
from steward.words import Secret

OpenButler = Callable[[Registration, Secret[str]], ControlPlane]

_DOUBTFUL: Final = 8
"""Records refused one after the other with none taken: is it them, or Butler?"""


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """Times in seconds."""

    batch: int = 500
    every_s: float = 2.0
    lease_s: float = 180.0
    """Longer than any one call to Butler takes; after it another replica may send the same rows, which does no harm."""
    at_once: int = 4
    """Registrations that are served at once."""
    patience_s: float = 1.0
    """How long a turn waits for the first of them to end."""
    keep_local: int = 2000
    """Rows a turn that are said to stay: they are in no hurry, and a ledger of years must not be written at once."""
    count: int = 10_000
    """Rows that wait are counted up to here, for each registration."""
    look_s: float = 15.0
    """How often what waits is counted."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What the export goes by: who is registered, what waits, and how a registration's Butler is spoken to."""

    directory: Directory
    outbox: Outbox
    open_butler: OpenButler


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time and chance come from."""

    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


@dataclass(slots=True, eq=False)
class _Line:
    """One registration's Butler, as it answered."""

    butler: ControlPlane
    opened_for: datetime
    """Registered anew, it has another token."""
    fields: frozenset[str] | None = None
    control: MetadataRecord | None = None
    """Something it took: sent again, it shows that it takes what is right."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Rows under way."""

    lane: Lane
    line: _Line
    open: set[UUID]
    """Claimed, and neither marked nor set aside."""
    took: bool = False
    """Butler took something since the batch began."""
    asked_anew: bool = False
    refused: list[MetadataRecord] = field(default_factory=list)


class Exporter:
    """One a process. `run_once` is called by one thread; each registration is served in one of its own."""

    def __init__(
        self,
        ways: Ways,
        rules: ExportRules,
        limits: ExportLimits = ExportLimits(),
        metrics: ExportMetrics | None = None,
        clocks: Clocks = Clocks(),
    ) -> None:
        self._directory, self._outbox, self._open_butler = ways.directory, ways.outbox, ways.open_butler
        self._rules = rules
        self._limits = limits
        self._metrics = metrics or ExportMetrics()
        self._now, self._chance = clocks.now, clocks.chance
        self._away: dict[UUID, Backoff] = {}
        """Of `drain` alone: a Butler that is away must not cost every call the time of asking it."""
        self._lines: dict[UUID, _Line] = {}
        self._known: Mapping[UUID, Registration] = {}
        self._looked_at: float | None = None
        self._said_alone = False
        self._turns: Fanout[tuple[Lane, ...]] = Fanout(
            self._serve, "export", limits.every_s, limits.at_once, limits.patience_s, clocks.now, clocks.chance
        )

    def run_once(self) -> bool:
        """A batch for each registration that is due; True when more waits. Raises LedgerFault."""
        known = [each for each in self._directory.registrations() if each.deregistered_at is None]
        self._known = {each.id: each for each in known}
        self._hang_up(set(self._known))
        if not known:
            if not self._said_alone:
                log.say("nothing_registered")
            self._said_alone = True
            self._metrics.observe(0, 0.0)
            return False
        local = len(known) == 1 and not self._rules.managed
        lanes = {each.id: _lanes(each, local) for each in known}
        more = self._turns.step(lanes)
        kept = self._outbox.keep_local(self._limits.keep_local, self._rules.managed)
        self._metrics.kept_local(kept)
        if self._looked_at is None or self._now() - self._looked_at >= self._limits.look_s:
            self._looked_at = self._now()
            self._look([lane for each in lanes.values() for lane in each])
        return more

    def drain(self, until: float) -> None:
        """All that is due, here and now, one registration after the other; no batch begins at `until` or later.

        For hosts that run by the call: no thread, no pace. `until` is of the clock given. Raises LedgerFault; a Butler
        that is away is said, and concerns no other.
        """
        known = [each for each in self._directory.registrations() if each.deregistered_at is None]
        self._known = {each.id: each for each in known}
        self._hang_up(set(self._known))
        local = len(known) == 1 and not self._rules.managed
        for each in known:
            away = self._away.setdefault(each.id, Backoff(FIRST_S, LONGEST_S, self._now, self._chance))
            try:
                more = True
                while more and not away.waits() and self._now() < until:
                    more = self._serve(_lanes(each, local))
                    away.worked()
            except (ButlerFault, SealBroken) as exc:
                away.failed((exc.after_s or 0.0) if isinstance(exc, ButlerUnavailable) else 0.0)
                log.error("task_failed", exc, task="export", id=each.id, seconds=away.waits())
        if known and self._now() < until:
            self._metrics.kept_local(self._outbox.keep_local(self._limits.keep_local, self._rules.managed))

    def finish(self, within_s: float) -> None:
        """Waits for batches under way, then hangs up."""
        if self._turns.finish(within_s):
            for line in self._lines.values():
                line.butler.close()

    def _hang_up(self, known: set[UUID]) -> None:
        """On those that are registered no more."""
        for gone in [key for key in self._lines if key not in known and not self._turns.runs(key)]:
            self._lines.pop(gone).butler.close()

    def _look(self, lanes: Sequence[Lane]) -> None:
        told = [self._outbox.waiting(lane, self._limits.count) for lane in lanes]
        self._metrics.observe(sum(each.rows for each in told), max(each.oldest_s for each in told))

    def _serve(self, lanes: tuple[Lane, ...]) -> bool:
        """One batch of each lane. Raises ButlerFault, LedgerFault, SealBroken: what was under way waits again."""
        more = False
        for lane in lanes:
            if (line := self._line(lane)) is None:
                return False
            rows = self._outbox.claim(lane, self._limits.batch, self._limits.lease_s)
            if rows:
                self._export(lane, line, rows)
            more |= len(rows) == self._limits.batch
        return more

    def _line(self, lane: Lane) -> _Line | None:
        """The way to the registration's Butler, which said whose the token is; None once it is deregistered."""
        registration = self._known.get(lane.registration_id)
        token = None if registration is None else self._directory.token(registration.org_id, registration)
        line = self._lines.get(lane.registration_id)
        stale = line is not None and (registration is None or line.opened_for != registration.registered_at)
        if line is not None and stale:
            self._lines.pop(lane.registration_id).butler.close()
            line = None
        if registration is None or token is None:
            return None
        if line is None:
            line = _Line(self._open_butler(registration, token), registration.registered_at)
            try:
                line.fields = _fields(line, lane)
            except BaseException:
                line.butler.close()
                raise
            self._lines[lane.registration_id] = line
        return line

    def _export(self, lane: Lane, line: _Line, rows: Sequence[LedgerRow]) -> None:
        batch = _Batch(lane, line, {row.record.id for row in rows})
        try:
            records: list[MetadataRecord] = []
            unfit: list[SetAside] = []
            for row in rows:
                try:
                    records.append(export_record(row, lane.org_id, self._rules))
                except NotExportable as fault:
                    unfit.append(SetAside(row.record.id, row.revision, fault.code))
            self._set_aside(batch, unfit)
            if records:
                self._send(batch, records)
        finally:
            if batch.open:
                self._release(batch)

    def _send(self, batch: _Batch, records: Sequence[MetadataRecord]) -> None:
        """All that Butler takes is marked; what it refuses alone is set aside, if it is not Butler that is at fault."""
        waiting = [records]
        while waiting:
            part = waiting.pop()
            try:
                batch.line.butler.ask(Ingest(records=tuple(part)), batch.line.fields)
            except ButlerRejected:
                waiting += self._refused(batch, part)
            else:
                batch.took, batch.line.control = True, part[0]
                self._outbox.mark(batch.lane, [(record.id, record.revision) for record in part])
                batch.open.difference_update(record.id for record in part)
                self._metrics.taken(len(part))
        if batch.refused:
            self._show_it_takes(batch)
            code = ButlerRejected.code
            self._set_aside(batch, [SetAside(record.id, record.revision, code) for record in batch.refused])

    def _refused(self, batch: _Batch, part: Sequence[MetadataRecord]) -> list[Sequence[MetadataRecord]]:
        """What is to be sent in its place."""
        if not batch.asked_anew:
            batch.asked_anew = True
            fields = _fields(batch.line, batch.lane)
            if fields != batch.line.fields:  # another Butler answers there than the one that was asked
                batch.line.fields = fields
                return [part]
        if len(part) > 1:
            middle = len(part) // 2
            return [part[middle:], part[:middle]]
        batch.refused.append(part[0])
        if len(batch.refused) >= _DOUBTFUL:
            self._show_it_takes(batch)
        return []

    @staticmethod
    def _show_it_takes(batch: _Batch) -> None:
        """Raises ButlerUnavailable unless it takes something: a door that says no to all is no judge of a record."""
        if batch.took:
            return
        if batch.line.control is None:
            raise ButlerUnavailable
        try:
            batch.line.butler.ask(Ingest(records=(batch.line.control,)), batch.line.fields)
        except ButlerRejected:
            raise ButlerUnavailable from None
        batch.took = True

    def _set_aside(self, batch: _Batch, rows: Sequence[SetAside]) -> None:
        if not rows:
            return
        self._outbox.set_aside(batch.lane, rows)
        batch.open.difference_update(row.id for row in rows)
        self._metrics.set_aside(len(rows))
        for row in rows:
            log.say("row_not_exported", logging.WARNING, id=row.id, code=row.code)

    def _release(self, batch: _Batch) -> None:
        try:
            self._outbox.release(batch.lane, list(batch.open))
        except LedgerFault as exc:
            log.error("claims_not_released", exc, count=len(batch.open))


def _lanes(registration: Registration, local: bool) -> tuple[Lane, ...]:
    own = Lane(registration.id, registration.org_id)
    return (own, Lane(registration.id, registration.org_id, local=True)) if local else (own,)


def _fields(line: _Line, lane: Lane) -> frozenset[str] | None:
    """What Butler takes of a record. Raises ButlerNonsense when the token is another organisation's (SECURITY F8)."""
    said = ingress.identity(line.butler.ask(egress.Me()))
    if said.org_id != lane.org_id:
        raise ButlerNonsense
    return said.record_fields
