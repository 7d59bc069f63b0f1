"""The account after the faults: what callers got and the provider saw, beside what the ledger and the store hold.

It forgives nothing by itself: a test names the body states that its fault may leave, and how many calls may be noted as
interrupted follows from what the callers saw.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from steward.adapters.postgres_connection import mapped
from steward.errors import BodyNotFound, LedgerUnavailable, NotAccepted
from steward.exchange import BodyState, Outcome
from tests.faults.installation import Installation, key_numbers
from tests.faults.load import Call, Load
from tests.faults.plays import CANARY, Kind, answered, asked
from tests.faults.stand_in import StandIn
from tests.servers.waiting import eventually

WITHIN_S = 120.0
_LOOK_EVERY_S = 0.25
_ROWS = text(
    "SELECT id, tags->>'Call' AS number, api_key_id, outcome, body_state, body_key, body_sha256, truncated "
    "FROM llm_requests"
)
_ENDS: Mapping[Kind, Iterable[Outcome]] = {
    Kind.RESET: (Outcome.UPSTREAM_FAILED,),
    Kind.LEAVE: (Outcome.CLIENT_CANCELLED, Outcome.COMPLETE),
}
"""How a call of this kind ends that was not served whole, when nothing else befell it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One ledger row, as far as the account needs it."""

    id: UUID
    number: int | None
    """None for a call of which only the intent is known."""
    key: int
    outcome: Outcome
    body_state: BodyState
    body_key: str | None
    body_sha256: str | None
    truncated: bool = False


@dataclass
class Account:
    """What is wrong is in the lists; all are empty when nothing was lost. The counters are figures to print."""

    served: int = 0
    rows: int = 0
    interrupted: int = 0
    bodies: Counter[str] = field(default_factory=Counter)
    """Served calls by the state of their body."""
    altered: list[int] = field(default_factory=list)
    """Octets that a caller got are not those that the provider sent."""
    lost: list[int] = field(default_factory=list)
    """Served, and without a row that says so."""
    doubled: list[int] = field(default_factory=list)
    """More than one row, or sent to the provider more than once."""
    unseen: list[int] = field(default_factory=list)
    """The provider saw it; the ledger does not know it."""
    invented: list[int] = field(default_factory=list)
    """Rows that no call explains."""
    refused_but_sent: list[int] = field(default_factory=list)
    """The caller got our 503 before anything was forwarded; the provider saw it all the same."""
    pending: list[int] = field(default_factory=list)
    unexcused: list[int] = field(default_factory=list)
    """Bodies that are missing though the fault does not excuse it."""
    other_bodies: list[int] = field(default_factory=list)
    """Stored, and not what was asked and answered."""
    wrong_outcomes: list[int] = field(default_factory=list)

    def assert_clean(self) -> None:
        """Nothing lost, nothing doubled, nothing altered."""
        wrong = {
            name: (len(value), value[:8]) for name, value in vars(self).items() if isinstance(value, list) and value
        }
        assert not wrong, (wrong, str(self))

    def __str__(self) -> str:
        states = ", ".join(f"{count:,} {state}" for state, count in sorted(self.bodies.items()))
        return f"{self.served:,} served, {self.rows:,} rows, {self.interrupted:,} interrupted; bodies: {states}"


def settle(
    installation: Installation,
    provider: StandIn,
    loads: Sequence[Load],
    read: Callable[[str], bytes],
    excused: Collection[BodyState] = (),
    within_s: float = WITHIN_S,
    one_body_in: int = 1,
) -> Account:
    """Waits until nothing about any call will change, then takes the account and asserts that it is clean.

    `read`: a stored object's octets by its key. `excused`: states that a served call's body may be left in.
    `one_body_in`: how many stored objects are looked into, where all would be too many.
    """
    calls = [call for load in loads for call in load.calls]
    keys = key_numbers(installation.engine)
    account = Account()

    def settled() -> bool:
        nonlocal account
        try:
            account = take(calls, provider.seen, rows(installation, keys), excused)
        except LedgerUnavailable:
            return False
        return not (account.lost or account.unseen or account.pending or account.unexcused)

    try:
        eventually(now_and_then(settled), within_s)
    except AssertionError:
        account.assert_clean()
        raise
    account.other_bodies = other_bodies(calls, rows(installation, keys)[::one_body_in], read)
    account.altered = [number for load in loads for number in load.altered]
    account.assert_clean()
    assert_nothing_leaked(installation)
    return account


def rows(installation: Installation, keys: Mapping[UUID, int]) -> list[Row]:
    """The ledger as it is now. Raises LedgerUnavailable."""
    with mapped(), installation.engine.connect() as connection:
        found = connection.execute(_ROWS).all()
    return [
        Row(
            id=each.id,
            number=None if each.number is None else int(each.number),
            key=keys[each.api_key_id],
            outcome=Outcome(each.outcome),
            body_state=BodyState(each.body_state),
            body_key=each.body_key,
            body_sha256=each.body_sha256,
            truncated=each.truncated,
        )
        for each in found
    ]


def take(
    calls: Sequence[Call], seen: Mapping[int, int], ledger: Sequence[Row], excused: Collection[BodyState] = ()
) -> Account:
    """The account of these calls, bodies not looked into."""
    by_number = {call.number: call for call in calls}
    by_id = {row.id: row for row in ledger}
    told = Counter(row.number for row in ledger if row.number is not None)
    account = Account(rows=len(ledger), interrupted=sum(row.outcome is Outcome.INTERRUPTED for row in ledger))
    account.doubled = [number for number, count in told.items() if count > 1]
    account.doubled += [number for number, count in seen.items() if count > 1]
    account.invented = [number for number in told if number not in by_number]
    for call in calls:
        row = by_id.get(call.id) if call.id is not None else None
        _look(account, call, row, excused)
        if call.ended and call.code == NotAccepted.code and call.number in seen:
            account.refused_but_sent.append(call.number)
    _count_intents(account, by_number, seen, ledger)
    account.pending = [row.number or 0 for row in ledger if row.body_state is BodyState.PENDING]
    return account


def _look(account: Account, call: Call, row: Row | None, excused: Collection[BodyState]) -> None:
    """One call beside its row."""
    if call.served:
        account.served += 1
        if row is None or row.number != call.number or row.outcome is Outcome.INTERRUPTED:
            account.lost.append(call.number)
            return
        account.bodies[row.body_state] += 1
        if row.outcome is not Outcome.COMPLETE:
            account.wrong_outcomes.append(call.number)
        state = BodyState.SHED if row.truncated else row.body_state  # a part of it was shed, and the row says so
        if state is not BodyState.STORED and state not in excused:
            account.unexcused.append(call.number)
    elif row is not None and call.status == 200 and row.outcome not in _ends(call.kind):
        account.wrong_outcomes.append(call.number)


def _ends(kind: Kind) -> Collection[Outcome]:
    return {*_ENDS.get(kind, Outcome), Outcome.INTERRUPTED}


def _count_intents(
    account: Account, by_number: Mapping[int, Call], seen: Mapping[int, int], ledger: Sequence[Row]
) -> None:
    """Rows of which only the intent is known name no call: they are told by the id that its caller got, else counted,
    key by key, beside the calls of that key which the provider saw and no other row names.
    """
    numbers = {row.number for row in ledger if row.number is not None}
    ids = {call.id: call.number for call in by_number.values() if call.id is not None}
    numbers |= {ids[row.id] for row in ledger if row.id in ids}
    nameless = Counter(row.key for row in ledger if row.number is None and row.id not in ids)
    open_ = Counter(call.key for call in by_number.values() if call.number not in numbers and not call.ended)
    unnamed: dict[int, list[int]] = {}
    for number in seen:
        if number not in numbers and number in by_number:
            unnamed.setdefault(by_number[number].key, []).append(number)
    for key, waiting in unnamed.items():
        account.unseen += waiting[: max(0, len(waiting) - nameless[key])]
    for key, count in nameless.items():
        account.invented += [-key] * max(0, count - open_[key])


def other_bodies(calls: Iterable[Call], ledger: Iterable[Row], read: Callable[[str], bytes]) -> list[int]:
    """Numbers of the calls whose stored object is not what was asked and answered, or is not there."""
    by_number = {call.number: call for call in calls}
    stored = [row for row in ledger if row.body_state is BodyState.STORED and row.number in by_number]

    def right(row: Row) -> bool:
        assert row.number is not None and row.body_key is not None
        try:
            octets = read(row.body_key)
        except (OSError, BodyNotFound):
            return False
        call = by_number[row.number]
        return hashlib.sha256(octets).hexdigest() == row.body_sha256 and _holds(octets, call, row.truncated)

    with ThreadPoolExecutor(8) as pool:
        return [row.number or 0 for row, same in zip(stored, pool.map(right, stored), strict=True) if not same]


def _holds(octets: bytes, call: Call, truncated: bool) -> bool:
    """Whether a body object holds what the call asked and was answered; where it was cut, the beginning of that."""
    document = orjson.loads(gzip.decompress(octets))
    sides = (
        # A call that was turned away may not have been read to its end.
        (document["request"]["body"], asked(call.number, call.kind), truncated or call.status != 200),
        (document["response"]["body"], _answer(call), truncated or not call.ended),
    )
    return all(_same(kept, expected, cut) for kept, expected, cut in sides)


def _answer(call: Call) -> bytes:
    """The provider's. Ours is none: of a call that was refused, and for whose row there was room a moment later."""
    if call.code:
        return b""
    return b"".join(answered(call.number, call.kind)) if call.status in (0, 200) else call.body


def _same(kept: Any, expected: bytes, cut: bool) -> bool:
    """`kept`: text, or the document where it was JSON."""
    if cut and not kept:
        return True
    if not isinstance(kept, str):
        return bool(kept == orjson.loads(expected))
    return expected.startswith(kept.encode()) if cut else kept.encode() == expected


def assert_nothing_leaked(installation: Installation) -> None:
    """No word of a prompt, an answer or a credential, and no key, stands in the log or in clear on the spool's disk."""
    words = [CANARY.encode(), *(key.encode() for key in installation.keys)]
    said = installation.log.read_bytes()
    assert not [word for word in words if word in said], "content in the log"
    assert b"Traceback" not in said
    for path in installation.spool.rglob("*"):
        try:
            octets = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
        assert not [word for word in words if word in octets], f"in clear: {path.relative_to(installation.spool)}"


def now_and_then(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Asks half of the time at most, so that the question does not hold up what it asks about."""
    not_before = 0.0

    def asked_now() -> bool:
        nonlocal not_before
        began = time.monotonic()
        if began < not_before:
            return False
        answer = condition()
        now = time.monotonic()
        not_before = now + max(now - began, _LOOK_EVERY_S)
        return answer

    return asked_now
