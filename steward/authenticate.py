"""Tells who calls, from `X-Majordomo-Key` alone, without a database on the way but for a key's first use.

It never answers an outage with a refusal: a key that cannot be checked is 503, not 401. What it keeps of known keys and
of unknown ones is apart, so that a flood of invented keys evicts nobody (DESIGN 9, SECURITY F11).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from steward import log
from steward.errors import InvalidKey, KeyCheckUnavailable, LedgerFault, MissingKey, RevokedKey
from steward.exchange import Caller
from steward.ports import ApiKey, Directory

T = TypeVar("T")
_DIGESTS = 4096
"""Good keys whose hash is remembered: hashing one anew costs a twentieth of a call. They cross this process anyway."""
KEY_PATTERN = re.compile(rb"mdm_sk_[A-Za-z0-9_-]{16,200}")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Times in seconds."""

    poll_s: float = 2.0
    fresh_s: float = 10.0
    """While the last poll is younger, a known key needs no database."""
    overlap_s: float = 60.0
    """What one poll looks back; after a longer gap every known key is confirmed first."""
    stale_ttl_s: float = 3600.0
    """How long a known key serves after its last confirmation, while the database is away."""
    unpolled_fresh_s: float = 5.0
    """Where no poller runs: an older entry is confirmed before use."""
    unknown_ttl_s: float = 5.0
    unknown_entries: int = 10_000
    known_entries: int = 100_000
    lookups: int = 4
    """Look-ups in flight a process."""
    lookup_wait_s: float = 1.0
    """The longest wait for one of them to begin."""
    answer_wait_s: float = 5.0
    """The longest wait for the database's answer: it may hang rather than refuse."""
    unknown_per_s: float = 50.0
    """Look-ups that end unknown, a second and process."""


@dataclass(slots=True)
class _Known:
    caller: Caller
    active: bool
    confirmed: float
    revoked: bool
    updated_at: datetime

    def stands_against(self, row: ApiKey) -> bool:
        """Whether what is known is the later word, or the last one. Of two of the same moment, the refusal."""
        if self.revoked or row.updated_at < self.updated_at:
            return True
        return row.updated_at == self.updated_at and not self.active


class _Budget:
    """A bucket that fills by `rate` a second up to one second's worth."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._left = rate
        self._at = now

    def wait_s(self, now: float) -> float:
        """How long until there is something to spend; 0: there is."""
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1 - self._left) / self._rate)

    def spend(self) -> None:
        self._left -= 1


class Authenticator:
    """Key to Caller. One per event loop; the directory's methods run in threads."""

    def __init__(
        self,
        directory: Directory,
        limits: KeyLimits = KeyLimits(),
        polled: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._polled = polled
        self._now = now
        self._known: dict[str, _Known] = {}
        self._digests: dict[bytes, str] = {}
        self._unknown: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[_Known | None]] = {}
        self._slots = asyncio.Semaphore(limits.lookups)
        self._next_unknown = asyncio.Lock()
        self._budget = _Budget(limits.unknown_per_s, now())
        self._polled_at: float | None = None
        self._poll_failing = False

    @property
    def polled(self) -> bool:
        """Whether a poll keeps the memory fresh; else the database is asked for each key that is a few seconds old."""
        return self._polled

    @property
    def known_keys(self) -> int:
        """How many keys are in memory."""
        return len(self._known)

    def database_heard(self) -> bool:
        """Whether the revocation poll is recent enough to trust the memory alone."""
        return self._polled_at is not None and self._now() - self._polled_at < self._limits.fresh_s

    def at_once(self, key: bytes | None) -> Caller | None:
        """The caller when memory alone can tell, None when the database must be asked.

        Raises MissingKey, InvalidKey, RevokedKey.
        """
        if key is None:
            raise MissingKey
        entry = self._known.get(self._digests.get(key) or hashlib.sha256(key).hexdigest())
        if entry is None:
            return None
        if not entry.active:
            raise RevokedKey
        now = self._now()
        if self._polled:
            if self._polled_at is not None and now - self._polled_at < self._limits.fresh_s:
                return entry.caller
        elif now - entry.confirmed < self._limits.unpolled_fresh_s:
            return entry.caller
        return None

    async def ask(self, key: bytes) -> Caller:
        """The caller, asking the database. Raises InvalidKey, RevokedKey, KeyCheckUnavailable."""
        if KEY_PATTERN.fullmatch(key) is None:
            raise InvalidKey
        now = self._now()
        digest = hashlib.sha256(key).hexdigest()
        entry = self._known.get(digest)
        if entry is None:
            if now < self._unknown.get(digest, now):
                raise InvalidKey
            if self._polled and self._polled_at is not None and not self.database_heard():
                raise KeyCheckUnavailable
            found = await self._look_up(digest)
        elif self._polled and not self.database_heard():
            # The poll is failing: the database counts as down, and nobody waits for it.
            return self._stale(entry, now)
        else:
            try:
                found = await self._look_up(digest)
            except KeyCheckUnavailable:
                return self._stale(entry, now)
        if found is None:
            raise InvalidKey
        if not found.active:
            raise RevokedKey
        if len(self._digests) >= _DIGESTS:
            self._digests.clear()
        self._digests[key] = digest
        return found.caller

    def _stale(self, entry: _Known, now: float) -> Caller:
        confirmed = max(entry.confirmed, self._polled_at or entry.confirmed)
        if now - confirmed > self._limits.stale_ttl_s:
            raise KeyCheckUnavailable
        if not entry.active:
            raise RevokedKey
        return entry.caller

    async def _look_up(self, digest: str) -> _Known | None:
        """One query per hash in flight; all who ask for it wait for the same, in bounds."""
        task = self._looking.get(digest)
        if task is None:
            task = asyncio.ensure_future(self._query(digest))
            self._looking[digest] = task
            task.add_done_callback(lambda done: self._done(digest, done))
        try:
            async with asyncio.timeout(self._limits.answer_wait_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise KeyCheckUnavailable from None

    def _done(self, digest: str, task: asyncio.Task[_Known | None]) -> None:
        self._looking.pop(digest, None)
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody waiting is no defect

    async def _query(self, digest: str) -> _Known | None:
        try:
            async with asyncio.timeout(self._limits.lookup_wait_s):
                await self._slot(digest)
        except TimeoutError:
            raise KeyCheckUnavailable from None
        try:
            found = await asyncio.to_thread(self._directory.find_key, digest)
        except LedgerFault as exc:
            raise KeyCheckUnavailable from exc
        finally:
            self._slots.release()
        return self._remember(digest, found)

    async def _slot(self, digest: str) -> None:
        """One of the few look-ups. Keys not in memory come one after the other, and wait while the budget is spent:
        many at once must not cost the database more than it.
        """
        if digest in self._known:
            await self._slots.acquire()
            return
        async with self._next_unknown:
            while wait_s := self._budget.wait_s(self._now()):  # noqa: ASYNC110 - it fills with time, nobody sets it
                await asyncio.sleep(wait_s)
            await self._slots.acquire()

    def _remember(self, digest: str, found: ApiKey | None) -> _Known | None:
        now = self._now()
        if found is None:
            self._budget.spend()
            self._known.pop(digest, None)
            if len(self._unknown) >= self._limits.unknown_entries:
                self._unknown.clear()
            self._unknown[digest] = now + self._limits.unknown_ttl_s
            return None
        self._unknown.pop(digest, None)
        if len(self._known) >= self._limits.known_entries and digest not in self._known:
            self._known.pop(next(iter(self._known)))
        return self._keep(found, now)

    def _keep(self, row: ApiKey, now: float) -> _Known:
        """What is known now. Revoked stays revoked, and what rested rests until a later word: an answer that says
        otherwise is from before.
        """
        before = self._known.get(row.key_hash)
        if before is not None and before.stands_against(row):
            before.confirmed = now
            return before
        entry = _Known(row.caller(), row.is_active, now, row.revoked_at is not None, row.updated_at)
        self._known[row.key_hash] = entry
        return entry

    # the revocation poll

    async def poll_once(self) -> None:
        """One round: what changed in the last minute, or after a gap every known key. Raises LedgerFault."""
        began = self._now()
        gap = self._polled_at is None or began - self._polled_at > self._limits.overlap_s - self._limits.fresh_s
        if gap and self._known:
            asked = list(self._known)
            found = await asyncio.to_thread(self._directory.confirm_keys, asked)
            for lost in set(asked) - {row.key_hash for row in found}:
                self._known.pop(lost, None)
        else:
            found = await asyncio.to_thread(self._directory.changed_keys)
        for row in found:
            if row.key_hash in self._known:
                self._keep(row, began)
            self._unknown.pop(row.key_hash, None)
        self._polled_at = began

    async def poll(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Polls until cancelled. An outage is said once, and its end."""
        while True:
            try:
                await self.poll_once()
            except Exception as exc:  # whatever it is, a poll that ended would leave this process deaf
                if not self._poll_failing:
                    log.error("key_poll_failing", exc)
                self._poll_failing = True
            else:
                if self._poll_failing:
                    log.say("key_poll_recovered")
                self._poll_failing = False
            await sleep(self._limits.poll_s)
