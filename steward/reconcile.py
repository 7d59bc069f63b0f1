"""Compares what rows say of bodies with what the store holds and what still waits: finds every gap, closes what it can.

It deletes no object and believes nobody's first word: what looks like a gap is looked at again, once more, after all
others have spoken, because calls are settled meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Protocol
from uuid import UUID

from steward.body_object import key_facts
from steward.errors import BodyNotFound
from steward.exchange import BodyState
from steward.ports import BodyBook, BodyRow, BodyStore, StoredObject
from steward.uploads import put_all

PAGE = 1000
READERS = 8
"""Objects that are read at a time."""
_GIVEN_UP = frozenset({BodyState.FAILED, BodyState.LOST})
GRACE = timedelta(minutes=10)
"""What is younger may be on its way."""


class GapKind(StrEnum):
    """What is wrong."""

    NO_ROW = "body without a row"
    MISSING = "row without its body"
    DIFFERENT = "body is not the row's"
    STUCK = "pending, and nothing waits"
    KEPT = "not stored, and kept here"
    """The store refused the body for good, or somebody marked it lost: the quarantine has it."""


class Remedy(StrEnum):
    """What was done about it."""

    AGAIN = "put again"
    """From the quarantine back into the spool: the settler stores it and writes its row."""
    MARKED = "marked in the row"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing that is wrong."""

    kind: GapKind
    id: UUID
    key: str | None = None
    requested_at: datetime | None = None
    remedy: Remedy | None = None
    """None: nothing was to be done."""


@dataclass(slots=True)
class Report:
    """All that was compared."""

    rows: int = 0
    objects: int = 0
    waiting: int = 0
    """Bodies that wait in the spool: no gap."""
    elsewhere: Counter[str] = field(default_factory=Counter)
    """How many rows have their body in another store, by its address: not looked at."""
    gaps: list[Gap] = field(default_factory=list)


class Kept(Protocol):
    """What the spool and its quarantine still have."""

    def waiting(self) -> set[UUID]:
        """Calls in the spool that are not settled."""

    def set_aside(self) -> set[UUID]:
        """Calls in the quarantine."""

    def try_again(self, request_id: UUID) -> None:
        """Takes a call from the quarantine back into the spool."""


@dataclass(frozen=True, slots=True)
class NothingKept:
    """Where there is no spool."""

    def waiting(self) -> set[UUID]:
        """None."""
        return set()

    def set_aside(self) -> set[UUID]:
        """None."""
        return set()

    def try_again(self, request_id: UUID) -> None:
        """There is nothing to try again."""
        raise KeyError(request_id)


class Reconcile:
    """One comparison of everything from a moment on."""

    def __init__(self, book: BodyBook, store: BodyStore, kept: Kept, now: Callable[[], datetime]) -> None:
        self._book = book
        self._store = store
        self._kept = kept
        self._now = now

    def run(self, since: datetime, fix: bool) -> Report:
        """Raises LedgerUnavailable, SchemaTooOld, StoreUnavailable, StoreRefused: then nothing is known."""
        report = Report()
        until = self._now() - GRACE
        pending, stored = self._rows(since, until, report)
        objects = {each.key: each for each in self._store.listed(since.astimezone(UTC).date())}
        report.objects = len(objects)
        suspects = [
            *(Gap(GapKind.STUCK, row.id, row.key, row.requested_at) for row in pending),
            *self._bodies(stored, objects),
            *self._without_row(objects, until),
            *self._kept_here(since),
        ]
        waiting = self._kept.waiting() if suspects or pending else set()
        report.waiting = len({row.id for row in pending} & waiting)
        report.gaps = [gap for gap in suspects if gap.id not in waiting and self._is_so(gap)]
        if fix:
            report.gaps = self._fixed(report.gaps)
        return report

    def _rows(self, since: datetime, until: datetime, report: Report) -> tuple[list[BodyRow], list[BodyRow]]:
        """Rows whose body is pending for long, and rows whose body this store should have."""
        pending: list[BodyRow] = []
        stored: list[BodyRow] = []
        after: UUID | None = None
        while page := self._book.since(since, after, PAGE):
            after = page[-1].id
            report.rows += len(page)
            pending += [row for row in page if row.body_state is BodyState.PENDING and row.requested_at < until]
            for row in page:
                if row.body_state is BodyState.STORED and row.key is not None:
                    if row.storage_config_id is None and row.url == self._store.url(row.key):
                        stored.append(row)
                    else:
                        report.elsewhere[_address(row)] += 1
        return pending, stored

    def _bodies(self, rows: Sequence[BodyRow], objects: dict[str, StoredObject]) -> list[Gap]:
        """Each body is read: that an object is there says nothing of what is in it."""
        found = put_all(lambda row: self._look(row, objects), rows, READERS, "reconcile") if rows else []
        return [gap for gap in found if gap is not None]

    def _look(self, row: BodyRow, objects: dict[str, StoredObject]) -> Gap | None:
        assert row.key is not None
        there = objects.get(row.key)
        gap = Gap(GapKind.MISSING, row.id, row.key, row.requested_at)
        if there is None:
            return gap
        if row.size_bytes is not None and there.size_bytes != row.size_bytes:
            return replace(gap, kind=GapKind.DIFFERENT)
        try:
            octets = self._store.get(row.key)
        except BodyNotFound:
            return gap
        return replace(gap, kind=GapKind.DIFFERENT) if sha256(octets).hexdigest() != row.sha256 else None

    def _without_row(self, objects: dict[str, StoredObject], until: datetime) -> Iterator[Gap]:
        ids: dict[UUID, StoredObject] = {}
        for key, each in objects.items():
            facts = key_facts(key)
            if facts is not None and each.stored_at < until:
                ids[facts.id] = each
        asked = list(ids)
        for at in range(0, len(asked), PAGE):
            known = {row.id for row in self._book.of(asked[at : at + PAGE])}
            yield from (Gap(GapKind.NO_ROW, each, ids[each].key) for each in asked[at : at + PAGE] if each not in known)

    def _kept_here(self, since: datetime) -> Iterator[Gap]:
        """Calls in the quarantine whose rows say that their body will not be stored any more."""
        asked = list(self._kept.set_aside())
        for at in range(0, len(asked), PAGE):
            for row in self._book.of(asked[at : at + PAGE]):
                if row.body_state in _GIVEN_UP and row.requested_at >= since:
                    yield Gap(GapKind.KEPT, row.id, row.key, row.requested_at)

    def _is_so(self, gap: Gap) -> bool:
        """Whether it is a gap still, now that all was heard that could have closed it."""
        rows = self._book.of([gap.id])
        if not rows:
            return gap.kind is GapKind.NO_ROW
        [row] = rows
        if gap.kind is GapKind.STUCK:
            return row.body_state is BodyState.PENDING
        if gap.kind is GapKind.KEPT:
            return row.body_state in _GIVEN_UP
        if gap.kind is GapKind.NO_ROW or row.body_state is not BodyState.STORED or row.key is None:
            return False
        try:
            return sha256(self._store.get(row.key)).hexdigest() != row.sha256
        except BodyNotFound:
            return True

    def _fixed(self, gaps: Sequence[Gap]) -> list[Gap]:
        """Puts again what is still here; of the rest the rows say that it is not."""
        set_aside = self._kept.set_aside()
        return [replace(gap, remedy=self._fix(gap, gap.id in set_aside)) for gap in gaps]

    def _fix(self, gap: Gap, set_aside: bool) -> Remedy:
        if gap.kind is GapKind.KEPT and set_aside:
            self._kept.try_again(gap.id)
            return Remedy.AGAIN
        rows = self._book.of([gap.id])
        # What is pending becomes `failed` there, never `lost`; and only from `lost` does a body that is put again
        # come to be `stored` once more.
        state = BodyState.FAILED if gap.kind is GapKind.STUCK else BodyState.LOST
        marked = bool(rows) and bool(self._book.mark(rows, state))
        if set_aside:
            self._kept.try_again(gap.id)
            return Remedy.AGAIN
        return Remedy.MARKED if marked else Remedy.LEFT


def _address(row: BodyRow) -> str:
    """The bucket or folder of a row's body; the organisation's, where a config of its own says so."""
    scheme, _, rest = (row.url or "?").partition("://")
    place = f"{scheme}://{rest.partition('/')[0]}"
    return place if row.storage_config_id is None else f"{place} of organisation {row.org_id}"
