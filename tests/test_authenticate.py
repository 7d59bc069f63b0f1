"""Who calls: from memory while the poll is fresh, from one query a hash otherwise, and never 401 for an outage."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import orjson
import pytest

from steward import log
from steward.adapters.memory import MemoryDirectory
from steward.authenticate import KEY_PATTERN, Authenticator, KeyLimits
from steward.errors import (
    InvalidKey,
    KeyCheckUnavailable,
    LedgerFault,
    LedgerUnavailable,
    MissingKey,
    RevokedKey,
    SchemaTooOld,
    StewardError,
)
from steward.exchange import LOCAL_ORG, Caller
from steward.ports import ApiKey
from tests.servers.waiting import eventually_async

LIMITS = KeyLimits(lookup_wait_s=20.0, answer_wait_s=20.0)
"""No test waits for these; one that wants to be kept waiting says how long."""
_numbers = count()


class Clock:
    """Turns only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class WatchedDirectory(MemoryDirectory):
    """Counts what it is asked; fails, or holds its answer back, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.changes_asked = 0
        self.confirmed: list[set[str]] = []
        self.fault: Exception | None = None
        self.answers = threading.Event()
        """Whoever is among `held` answers once it is set."""
        self.answers.set()
        self.held = {"find_key", "changed_keys", "confirm_keys"}
        self.says: dict[str, ApiKey] = {}
        """Answers that are not its own: what a database that was put back to yesterday would say."""
        self.inside = 0
        self.most_inside = 0
        self._counting = threading.Lock()

    def make(self, **facts: Any) -> tuple[bytes, ApiKey]:
        """A new key: its plaintext, and what is known of it."""
        plaintext = f"mdm_sk_{next(_numbers):040d}".encode()
        key = self.create_key(LOCAL_ORG, "tests", hashlib.sha256(plaintext).hexdigest())
        if facts:
            key = self.says[key.key_hash] = replace(key, **facts)
        return plaintext, key

    @contextmanager
    def _watched(self, method: str) -> Iterator[None]:
        with self._counting:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            assert method not in self.held or self.answers.wait(30)
            if self.fault is not None:
                raise self.fault
            yield
        finally:
            with self._counting:
                self.inside -= 1

    def find_key(self, key_hash: str) -> ApiKey | None:
        self.asked.append(key_hash)
        with self._watched("find_key"):
            return self.says.get(key_hash) or super().find_key(key_hash)

    def changed_keys(self) -> list[ApiKey]:
        self.changes_asked += 1
        with self._watched("changed_keys"):
            return [self.says.get(key.key_hash, key) for key in super().changed_keys()]

    def confirm_keys(self, key_hashes: Iterable[str]) -> list[ApiKey]:
        asked = set(key_hashes)
        self.confirmed.append(asked)
        with self._watched("confirm_keys"):
            return [self.says.get(key.key_hash, key) for key in super().confirm_keys(asked)]


@dataclass(frozen=True)
class House:
    """One authenticator with its directory and its clock."""

    directory: WatchedDirectory
    clock: Clock
    keys: Authenticator

    async def known(self) -> tuple[bytes, ApiKey]:
        """A key that was used once, and a poll that was just now."""
        plaintext, key = self.directory.make()
        assert await self.keys.ask(plaintext) == Caller(key.id, LOCAL_ORG)
        await self.keys.poll_once()
        self.directory.asked.clear()
        return plaintext, key

    async def tell(self, key: bytes) -> Caller:
        """As the proxy asks: memory first."""
        return self.keys.at_once(key) or await self.keys.ask(key)

    async def refusal(self, key: bytes) -> type[StewardError] | None:
        """The kind of the refusal, None for a caller who is let in."""
        try:
            await self.tell(key)
        except StewardError as refused:
            return type(refused)
        return None


def house(limits: KeyLimits = LIMITS, polled: bool = True) -> House:
    directory, clock = WatchedDirectory(), Clock()
    return House(directory, clock, Authenticator(directory, limits, polled, clock))


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(told())


def invented() -> bytes:
    """A well-formed key that nobody made."""
    return f"mdm_sk_{uuid4().hex}".encode()


def test_a_known_key_needs_no_database_while_the_poll_is_fresh() -> None:
    async def story() -> None:
        it = house()
        key, row = await it.known()
        it.clock.now += LIMITS.fresh_s - 0.001
        it.directory.fault = LedgerUnavailable()
        for _ in range(1000):
            assert it.keys.at_once(key) == row.caller()
        assert it.directory.asked == []
        assert it.keys.database_heard()
        it.clock.now += 0.001
        assert it.keys.at_once(key) is None
        assert not it.keys.database_heard()

    run(story)


def test_no_key_and_no_key_of_ours() -> None:
    async def story() -> None:
        it = house()
        with pytest.raises(MissingKey):
            it.keys.at_once(None)
        malformed = (
            b"",
            b"mdm_sk_",
            b"mdm_sk_" + b"a" * 15,
            b"mdm_sk_" + b"a" * 201,
            b"mdm_sk_" + b"a" * 30 + b"\n",
            b"mdm_sk_" + b"a" * 30 + b" ",
            b"mdm_sk_" + b"a" * 30 + b"\0",
            b"mdm_sk_" + "ä".encode() * 20,
            b"MDM_SK_" + b"a" * 30,
            b"mdm_pk_" + b"a" * 30,
            b"Bearer mdm_sk_" + b"a" * 30,
            b"sk-" + b"a" * 40,
            b"a" * 100_000,
        )
        for key in malformed:
            assert KEY_PATTERN.fullmatch(key) is None
            assert await it.refusal(key) is InvalidKey, key[:40]
        it.directory.fault = LedgerUnavailable()
        assert {await it.refusal(key) for key in malformed} == {InvalidKey}
        assert it.directory.asked == []

    run(story)


def test_the_caller_is_whose_key_it_is() -> None:
    async def story() -> None:
        it = house()
        key, row = it.directory.make(user_id=uuid4(), registration_id=uuid4(), org_id=uuid4())
        caller = Caller(row.id, row.org_id, row.user_id, row.registration_id)
        assert await it.keys.ask(key) == caller
        await it.keys.poll_once()
        assert it.keys.at_once(key) == caller

    run(story)


# revocation


def test_a_revocation_is_seen_by_the_next_poll() -> None:
    async def story() -> None:
        it = house()
        key, row = await it.known()
        other, _ = await it.known()
        it.directory.revoke_key(LOCAL_ORG, row.id)
        assert it.keys.at_once(key) == row.caller()
        await it.keys.poll_once()
        with pytest.raises(RevokedKey):
            it.keys.at_once(key)
        assert it.keys.at_once(other) is not None
        assert it.directory.asked == []

    run(story)


def test_a_revoked_key_is_told_apart_from_an_unknown_one() -> None:
    async def story() -> None:
        it = house()
        key, row = it.directory.make()
        it.directory.revoke_key(LOCAL_ORG, row.id)
        assert await it.refusal(key) is RevokedKey
        assert await it.refusal(invented()) is InvalidKey
        it.directory.asked.clear()
        assert await it.refusal(key) is RevokedKey
        assert it.directory.asked == []

    run(story)


def test_a_revoked_key_stays_revoked_whatever_the_database_says_later() -> None:
    async def story() -> None:
        it = house()
        key, row = await it.known()
        it.directory.says[row.key_hash] = replace(row, is_active=False)
        await it.keys.poll_once()
        it.directory.says[row.key_hash] = replace(row, is_active=True)
        await it.keys.poll_once()
        assert await it.refusal(key) is RevokedKey
        it.clock.now += LIMITS.overlap_s + 1
        await it.keys.poll_once()
        assert await it.refusal(key) is RevokedKey
        it.clock.now += LIMITS.fresh_s + 1
        it.directory.fault = LedgerUnavailable()
        assert await it.refusal(key) is RevokedKey

    run(story)


def test_a_key_that_rested_is_good_again_by_a_later_word_and_no_other() -> None:
    """Its organisation was deregistered and came back; a revoked one does not come back with it."""

    async def story() -> None:
        it = house()
        key, row = await it.known()
        later = [row.updated_at + timedelta(seconds=n) for n in range(4)]
        it.directory.says[row.key_hash] = replace(row, is_active=False, updated_at=later[1])
        await it.keys.poll_once()
        it.directory.says[row.key_hash] = row
        await it.keys.poll_once()
        assert await it.refusal(key) is RevokedKey, "an answer from before"
        it.directory.says[row.key_hash] = replace(row, updated_at=later[2])
        await it.keys.poll_once()
        assert it.keys.at_once(key) == row.caller()
        it.directory.says[row.key_hash] = replace(row, is_active=False, revoked_at=later[2], updated_at=later[3])
        await it.keys.poll_once()
        it.directory.says[row.key_hash] = replace(row, updated_at=later[3] + timedelta(days=1))
        await it.keys.poll_once()
        assert await it.refusal(key) is RevokedKey

    run(story)


def test_a_key_that_comes_after_its_first_call_works_with_the_next_poll() -> None:
    async def story() -> None:
        it = house()
        key = invented()
        assert await it.refusal(key) is InvalidKey
        it.directory.create_key(LOCAL_ORG, "late", hashlib.sha256(key).hexdigest())
        assert await it.refusal(key) is InvalidKey, "it is remembered that there was none"
        await it.keys.poll_once()
        assert await it.refusal(key) is None

    run(story)


def test_a_look_up_that_began_before_a_revocation_does_not_undo_it() -> None:
    """Its answer is from before; the poll saw the revocation first."""

    async def story() -> None:
        it = house(replace(LIMITS, unpolled_fresh_s=0.0), polled=False)
        key, row = it.directory.make()
        await it.keys.ask(key)
        it.directory.answers.clear()
        slow = asyncio.ensure_future(it.keys.ask(key))
        await eventually_async(lambda: it.directory.inside == 1)
        it.directory.says[row.key_hash] = replace(row, is_active=False)
        polling = asyncio.ensure_future(it.keys.poll_once())
        await eventually_async(lambda: it.directory.inside == 2)
        it.directory.answers.set()
        await asyncio.wait((slow, polling))
        slow.exception()
        it.directory.says[row.key_hash] = row
        assert await it.refusal(key) is RevokedKey

    run(story)


def test_revoked_while_it_is_asked_about() -> None:
    async def story() -> None:
        it = house()
        key, row = it.directory.make()
        it.directory.answers.clear()
        asking = asyncio.ensure_future(it.keys.ask(key))
        await eventually_async(lambda: it.directory.inside == 1)
        it.directory.revoke_key(LOCAL_ORG, row.id)
        it.directory.answers.set()
        with pytest.raises(RevokedKey):
            await asking

    run(story)


# the database away


def test_known_keys_serve_until_their_word_is_too_old_then_it_is_503() -> None:
    async def story() -> None:
        it = house()
        key, row = await it.known()
        it.directory.fault = LedgerUnavailable()
        it.clock.now += LIMITS.fresh_s
        assert await it.tell(key) == row.caller()
        it.clock.now += LIMITS.stale_ttl_s - LIMITS.fresh_s
        assert await it.tell(key) == row.caller()
        it.clock.now += 0.001
        assert await it.refusal(key) is KeyCheckUnavailable
        assert it.directory.asked == []

    run(story)


def test_every_poll_confirms_the_known_keys() -> None:
    """The time that a key is good for runs from the last poll, not from its first use."""

    async def story() -> None:
        it = house()
        key, row = await it.known()
        for _ in range(200):
            it.clock.now += 30
            await it.keys.poll_once()
        it.directory.fault = LedgerUnavailable()
        it.clock.now += LIMITS.stale_ttl_s
        assert await it.tell(key) == row.caller()
        it.clock.now += 0.001
        assert await it.refusal(key) is KeyCheckUnavailable

    run(story)


@pytest.mark.parametrize("fault", [LedgerUnavailable(), SchemaTooOld(), LedgerFault()], ids=lambda fault: fault.code)
@pytest.mark.parametrize("gone_s", [0.0, 11.0, 10_000.0])
def test_an_unknown_key_is_503_and_never_401_in_an_outage(fault: LedgerFault, gone_s: float) -> None:
    async def story() -> None:
        it = house()
        await it.known()
        it.directory.fault = fault
        it.clock.now += gone_s
        real, _ = it.directory.make()
        for key in (real, invented()):
            for _ in range(3):
                assert await it.refusal(key) is KeyCheckUnavailable

    run(story)


def test_the_database_that_was_never_heard_is_503_and_serves_once_it_is() -> None:
    async def story() -> None:
        it = house()
        it.directory.fault = LedgerUnavailable()
        key, row = it.directory.make()
        assert await it.refusal(key) is KeyCheckUnavailable
        assert not it.keys.database_heard()
        it.directory.fault = None
        assert await it.tell(key) == row.caller()

    run(story)


def test_while_the_poll_fails_nobody_waits_for_the_database() -> None:
    """It may hang rather than refuse: the poll's age alone decides, and no query is made."""

    async def story() -> None:
        it = house()
        key, row = await it.known()
        it.clock.now += LIMITS.fresh_s
        it.directory.answers.clear()
        assert await it.tell(key) == row.caller()
        assert await it.refusal(invented()) is KeyCheckUnavailable
        assert (it.directory.inside, it.directory.asked) == (0, [])
        it.directory.answers.set()

    run(story)


def test_a_database_that_hangs_is_waited_for_in_bounds() -> None:
    async def story() -> None:
        it = house(replace(LIMITS, answer_wait_s=0.1))
        await it.known()
        it.directory.answers.clear()
        key, row = it.directory.make()
        assert await it.refusal(key) is KeyCheckUnavailable
        assert it.directory.inside == 1
        it.directory.answers.set()
        await eventually_async(lambda: it.keys.at_once(key) == row.caller())

    run(story)


def test_after_a_gap_every_known_key_is_confirmed_in_one_query() -> None:
    async def story() -> None:
        it = house()
        made = [await it.known() for _ in range(20)]
        changes = it.directory.changes_asked
        it.directory.confirmed.clear()
        it.clock.now += LIMITS.overlap_s + 1
        (key, revoked), (lost, gone) = made[0], made[1]
        it.directory.revoke_key(LOCAL_ORG, revoked.id)
        del it.directory._keys[gone.key_hash]  # as in a database that was put back to yesterday
        await it.keys.poll_once()
        assert it.directory.confirmed == [{row.key_hash for _, row in made}]
        assert (it.directory.changes_asked, it.directory.asked) == (changes, [])
        assert await it.refusal(key) is RevokedKey
        assert await it.refusal(lost) is InvalidKey
        assert all(it.keys.at_once(kept) == row.caller() for kept, row in made[2:])
        await it.keys.poll_once()
        assert len(it.directory.confirmed) == 1

    run(story)


@pytest.mark.parametrize("gap_s", [60.0, 60.1, 61.0, 69.0, 3600.0, 1e6])
def test_a_poll_that_looks_back_less_than_the_gap_is_not_enough(gap_s: float) -> None:
    """A revocation just after the last poll is further back than the next one looks."""

    async def story() -> None:
        it = house()
        _, row = await it.known()
        it.directory.confirmed.clear()
        it.clock.now += gap_s
        await it.keys.poll_once()
        assert it.directory.confirmed == [{row.key_hash}]

    run(story)


def test_a_key_learnt_while_the_others_are_confirmed_is_not_forgotten() -> None:
    """At the start: calls come in before the first poll has its answer."""

    async def story() -> None:
        it = house()
        first, first_row = it.directory.make()
        await it.keys.ask(first)
        it.directory.held = {"confirm_keys"}
        it.directory.answers.clear()
        confirming = asyncio.ensure_future(it.keys.poll_once())
        await eventually_async(lambda: it.directory.inside == 1)
        fresh, row = it.directory.make()
        assert await it.tell(fresh) == row.caller()
        it.directory.answers.set()
        await confirming
        assert (it.keys.at_once(first), it.keys.at_once(fresh)) == (first_row.caller(), row.caller())

    run(story)


def test_a_poll_that_fails_changes_nothing() -> None:
    async def story() -> None:
        it = house()
        key, row = await it.known()
        it.clock.now += LIMITS.fresh_s / 2
        it.directory.fault = LedgerUnavailable()
        with pytest.raises(LedgerUnavailable):
            await it.keys.poll_once()
        assert it.keys.at_once(key) == row.caller()
        it.clock.now += LIMITS.fresh_s / 2
        assert not it.keys.database_heard()

    run(story)


def test_a_poll_counts_from_its_beginning() -> None:
    """What was changed while a slow poll waited for its answer may not be in it."""

    async def story() -> None:
        it = house()
        await it.known()
        it.directory.answers.clear()
        polling = asyncio.ensure_future(it.keys.poll_once())
        await eventually_async(lambda: it.directory.inside == 1)
        it.clock.now += LIMITS.fresh_s
        it.directory.answers.set()
        await polling
        assert not it.keys.database_heard()

    run(story)


@pytest.fixture
def said() -> Iterator[io.BytesIO]:
    """What the log says."""
    stream = io.BytesIO()
    log.configure("debug", stream)
    yield stream
    log.configure()


def test_the_poll_says_an_outage_once_and_its_end_and_goes_on(said: io.BytesIO) -> None:
    """Also through an error that no adapter promises: a poll that ended would leave every replica deaf."""

    async def story() -> None:
        it = house()
        faults: list[Exception | None] = [
            *(None, LedgerUnavailable(), LedgerUnavailable(), None),
            *(ValueError("CANARY"), LedgerUnavailable("CANARY"), None, None),
        ]
        turns = iter(faults)
        ended = asyncio.Event()

        async def between(seconds: float) -> None:
            assert seconds == LIMITS.poll_s
            try:
                it.directory.fault = next(turns)
            except StopIteration:
                ended.set()
                await asyncio.Event().wait()

        polling = asyncio.ensure_future(it.keys.poll(between))
        await asyncio.wait({polling, asyncio.ensure_future(ended.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert ended.is_set(), "the poll ended by itself"
        polling.cancel()
        await asyncio.wait({polling})

    run(story)
    events = [orjson.loads(line)["event"] for line in said.getvalue().splitlines()]
    assert events == ["key_poll_failing", "key_poll_recovered"] * 2
    assert b"CANARY" not in said.getvalue()


# where no poller runs


def test_without_a_poller_an_older_entry_is_confirmed_before_use() -> None:
    async def story() -> None:
        it = house(polled=False)
        key, row = it.directory.make()
        await it.keys.ask(key)
        it.clock.now += LIMITS.unpolled_fresh_s - 0.001
        assert it.keys.at_once(key) == row.caller()
        it.clock.now += 0.001
        assert it.keys.at_once(key) is None
        it.directory.asked.clear()
        assert await it.tell(key) == row.caller()
        assert it.directory.asked == [row.key_hash]
        assert it.keys.at_once(key) == row.caller()
        it.directory.revoke_key(LOCAL_ORG, row.id)
        it.clock.now += LIMITS.unpolled_fresh_s
        assert await it.refusal(key) is RevokedKey

    run(story)


def test_without_a_poller_an_outage_is_lived_through_too() -> None:
    async def story() -> None:
        it = house(polled=False)
        key, row = it.directory.make()
        await it.keys.ask(key)
        it.directory.fault = LedgerUnavailable()
        it.clock.now += LIMITS.stale_ttl_s
        assert await it.tell(key) == row.caller()
        it.clock.now += 0.001
        assert await it.refusal(key) is KeyCheckUnavailable
        assert await it.refusal(invented()) is KeyCheckUnavailable

    run(story)


# misses


def test_a_hundred_who_ask_for_one_key_make_one_query() -> None:
    async def story() -> None:
        it = house()
        key, row = it.directory.make()
        it.directory.answers.clear()
        asking = [asyncio.ensure_future(it.keys.ask(key)) for _ in range(100)]
        await eventually_async(lambda: it.directory.inside == 1)
        it.directory.answers.set()
        assert await asyncio.gather(*asking) == [row.caller()] * 100
        assert it.directory.asked == [row.key_hash]

    run(story)


def test_a_hundred_who_ask_for_one_key_that_nobody_made_make_one_query() -> None:
    async def story() -> None:
        it = house()
        key = invented()
        answers = await asyncio.gather(*(it.refusal(key) for _ in range(100)))
        assert answers == [InvalidKey] * 100
        assert len(it.directory.asked) == 1

    run(story)


def test_who_stops_waiting_takes_nothing_from_the_others() -> None:
    async def story() -> None:
        it = house()
        key, row = it.directory.make()
        it.directory.answers.clear()
        asking = [asyncio.ensure_future(it.keys.ask(key)) for _ in range(10)]
        await eventually_async(lambda: it.directory.inside == 1)
        for impatient in (asking[0], asking[4], asking[9]):
            impatient.cancel()
        await asyncio.wait((asking[0], asking[4], asking[9]))
        it.directory.answers.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [answer for answer in answers if answer == row.caller()] == [row.caller()] * 7
        assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 3
        assert len(it.directory.asked) == 1

    run(story)


def test_when_all_stop_waiting_the_answer_is_still_kept() -> None:
    async def story() -> None:
        it = house()
        await it.known()
        key, row = it.directory.make()
        it.directory.answers.clear()
        asking = asyncio.ensure_future(it.keys.ask(key))
        await eventually_async(lambda: it.directory.inside == 1)
        asking.cancel()
        await asyncio.wait((asking,))
        it.directory.answers.set()
        await eventually_async(lambda: it.keys.at_once(key) == row.caller())

    run(story)


def test_at_most_four_look_ups_are_under_way_and_the_fifth_waits_in_bounds() -> None:
    async def story() -> None:
        it = house(replace(LIMITS, lookup_wait_s=0.1))
        await it.known()
        it.directory.answers.clear()
        made = [it.directory.make() for _ in range(12)]
        asking = [asyncio.ensure_future(it.refusal(key)) for key, _ in made]
        await eventually_async(lambda: sum(task.done() for task in asking) == 12 - LIMITS.lookups)
        assert it.directory.most_inside == LIMITS.lookups == 4
        it.directory.answers.set()
        answers = await asyncio.gather(*asking)
        assert answers == [None] * 4 + [KeyCheckUnavailable] * 8
        assert len(it.directory.asked) == 4

    run(story)


def test_no_such_key_is_kept_for_five_seconds_and_no_longer() -> None:
    async def story() -> None:
        it = house()
        key = f"mdm_sk_{next(_numbers):040d}".encode()
        assert await it.refusal(key) is InvalidKey
        it.clock.now += LIMITS.unknown_ttl_s - 0.001
        assert await it.refusal(key) is InvalidKey
        assert len(it.directory.asked) == 1
        row = it.directory.create_key(LOCAL_ORG, "made after it was tried", hashlib.sha256(key).hexdigest())
        assert await it.refusal(key) is InvalidKey
        it.clock.now += 0.001
        assert await it.tell(key) == row.caller()

    run(story)


def test_what_no_key_is_known_of_needs_no_database_either() -> None:
    """Known to be unknown, it is 401 even while the database is away: the database has said so."""

    async def story() -> None:
        it = house()
        key = invented()
        assert await it.refusal(key) is InvalidKey
        it.directory.fault = LedgerUnavailable()
        assert await it.refusal(key) is InvalidKey
        it.clock.now += LIMITS.unknown_ttl_s
        assert await it.refusal(key) is KeyCheckUnavailable

    run(story)


# floods


async def _all(tasks: Iterable[Awaitable[type[StewardError] | None]]) -> set[type[StewardError] | None]:
    return set(await asyncio.gather(*tasks))


def test_a_hundred_thousand_invented_keys_with_the_database_away() -> None:
    """Known callers are let in at once, every invented key is 503, and nothing of it stays in memory."""

    async def story() -> None:
        it = house()
        known = [await it.known() for _ in range(50)]
        it.directory.fault = LedgerUnavailable()
        it.clock.now += LIMITS.fresh_s

        async def flood(numbers: range) -> int:
            refused = 0
            for number in numbers:
                try:
                    await it.keys.ask(b"mdm_sk_invented_%031x" % number)
                except KeyCheckUnavailable:
                    refused += 1
                if number % 5000 == 0:
                    assert [await it.tell(key) for key, _ in known] == [row.caller() for _, row in known]
            return refused

        assert await flood(range(95_000)) == 95_000
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            assert await flood(range(95_000, 100_000)) == 5_000
            after, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most - before < 100_000, f"{(after - before) >> 10} KiB stay of 5,000, {(most - before) >> 10} at most"
        assert it.keys.known_keys == 50

    run(story)


def test_a_flood_while_the_poll_is_still_fresh_is_bounded_too() -> None:
    async def story() -> None:
        it = house()
        known = [await it.known() for _ in range(50)]
        it.directory.fault = LedgerUnavailable()
        assert await _all(it.refusal(invented()) for _ in range(500)) == {KeyCheckUnavailable}
        assert it.directory.most_inside <= LIMITS.lookups
        assert [it.keys.at_once(key) for key, _ in known] == [row.caller() for _, row in known]

    run(story)


def test_unknown_keys_evict_no_known_one_and_are_themselves_bounded() -> None:
    async def story() -> None:
        limits = replace(LIMITS, unknown_entries=100, known_entries=10, unknown_per_s=1e9)
        it = house(limits)
        known = [await it.known() for _ in range(10)]
        keys = [invented() for _ in range(1000)]
        for start in range(0, 1000, 50):
            assert await _all(it.refusal(key) for key in keys[start : start + 50]) == {InvalidKey}
        assert [it.keys.at_once(key) for key, _ in known] == [row.caller() for _, row in known]
        assert len(it.keys._unknown) <= 100
        it.directory.asked.clear()
        assert await it.refusal(keys[-1]) is InvalidKey
        assert it.directory.asked == []

    run(story)


def test_known_keys_are_bounded_and_the_newest_is_among_them() -> None:
    async def story() -> None:
        it = house(replace(LIMITS, known_entries=10))
        for _ in range(30):
            key, row = await it.known()
            assert it.keys.at_once(key) == row.caller()
        assert it.keys.known_keys == 10

    run(story)


def test_invented_keys_cost_the_database_no_more_than_their_budget() -> None:
    """A thousand at once: fifty are looked up, the others are 503 after a bounded wait, and no debt is passed on."""

    async def story() -> None:
        it = house(replace(LIMITS, lookup_wait_s=1.0))
        known = [await it.known() for _ in range(5)]
        answers = await asyncio.gather(*(it.refusal(invented()) for _ in range(1000)))
        looked_up = len(it.directory.asked)
        assert looked_up == answers.count(InvalidKey)
        assert LIMITS.unknown_per_s <= looked_up <= LIMITS.unknown_per_s + LIMITS.lookups
        assert answers.count(KeyCheckUnavailable) == 1000 - looked_up
        assert [it.keys.at_once(key) for key, _ in known] == [row.caller() for _, row in known]
        it.clock.now += 1.0
        fresh, row = it.directory.make()
        assert await it.tell(fresh) == row.caller()

    run(story)


def test_good_keys_draw_on_no_budget() -> None:
    """A rolling start: two hundred keys that are used for the first time within a moment."""

    async def story() -> None:
        it = house()
        made = [it.directory.make() for _ in range(200)]
        callers = await asyncio.gather(*(it.keys.ask(key) for key, _ in made))
        assert callers == [row.caller() for _, row in made]
        assert it.keys.known_keys == 200

    run(story)


def test_the_budget_fills_again_with_time() -> None:
    async def story() -> None:
        it = house(replace(LIMITS, lookup_wait_s=0.05, unknown_per_s=10))
        for _ in range(10):
            assert await it.refusal(invented()) is InvalidKey
        assert await it.refusal(invented()) is KeyCheckUnavailable
        it.clock.now += 0.5
        for _ in range(5):
            assert await it.refusal(invented()) is InvalidKey
        assert await it.refusal(invented()) is KeyCheckUnavailable
        it.clock.now += 3600
        answers = [await it.refusal(invented()) for _ in range(12)]
        assert answers == [InvalidKey] * 10 + [KeyCheckUnavailable] * 2

    run(story)
