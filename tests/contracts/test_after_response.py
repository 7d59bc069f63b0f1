"""What every AfterResponse promises the relay: it never fails or holds the caller, and what it takes is settled."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from steward.adapters.inline import Inline, InlineLimits
from steward.adapters.memory import MemoryAfterResponse, MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.queue_reader import QueueReader
from steward.adapters.queue_sender import QueueSender, SenderLimits
from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.carrier import Carrier, MemoryCarrier
from steward.claims import Claims
from steward.errors import LedgerUnavailable, StoreUnavailable
from steward.exchange import LOCAL_ORG, Exchange, Intent, Outcome
from steward.ports import AfterResponse, Handed
from steward.price import bundled
from steward.sealed_message import MessageSealer
from steward.settle import Settler
from steward.stores import OneStore
from tests.exchanges import exchange, route
from tests.spooled import KEYRING

CHAT = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
COUNT = 50


class Taken:
    """One implementation, and how to see what became of what it took."""

    def __init__(self, port: AfterResponse, settled: Callable[[], set[UUID]]) -> None:
        self.port = port
        self.settled = settled


def in_memory() -> Taken:
    kept = MemoryAfterResponse()
    return Taken(kept, lambda: {each.id for each in kept.submitted})


class LostLedger(MemoryLedger):
    """A ledger whose database is away."""

    def record(self, batch: object) -> list[object]:  # type: ignore[override]
        raise LedgerUnavailable


def inline() -> Taken:
    ledger = MemoryLedger()
    return Taken(inline_over(ledger, MemoryBodyStore()), lambda: finished(ledger))


def inline_over(ledger: MemoryLedger, store: MemoryBodyStore) -> Inline:
    book = bundled()
    return Inline(
        Settler(ledger, OneStore(store), lambda: book), ledger, InlineLimits(backoff_s=0.01, intent_wait_s=0.2)
    )


def spool() -> Taken:
    """What it took, its settler hands out; the ledger makes twice once."""
    folder = Path(tempfile.mkdtemp()) / "spool"
    limits = SpoolLimits(max_bytes=1 << 26, reserve_bytes=1 << 16)
    return Taken(Spool(folder, KEYRING, limits), lambda: handed_out(folder))


def turns() -> Taken:
    """As a busy relay has it: what comes within one turn of the loop is written together."""
    folder = Path(tempfile.mkdtemp()) / "spool"
    limits = SpoolLimits(max_bytes=1 << 26, reserve_bytes=1 << 16)
    return Taken(Spool(folder, KEYRING, limits, asyncio.get_running_loop()), lambda: handed_out(folder))


def handed_out(folder: Path) -> set[UUID]:
    reader = SpoolReader(folder, KEYRING)
    assert reader.acquire()
    handed: list[Handed] = []
    while more := reader.take(1000, 1 << 20):
        handed += more
    assert all(isinstance(each.item, Exchange) for each in handed), "no intent beside its end"
    reader.done(handed)
    reader.close()
    shutil.rmtree(folder.parent)
    return {each.item.id for each in handed}


def finished(ledger: MemoryLedger) -> set[UUID]:
    rows = (row.record for row in ledger.newest(LOCAL_ORG, 10_000))
    return {record.id for record in rows if record.outcome is Outcome.COMPLETE}


class Kept(Carrier):
    """A carrier that its sender may close: the reader behind it is another's."""

    def __init__(self, carrier: Carrier) -> None:
        self.send, self.receive, self.done = carrier.send, carrier.receive, carrier.done  # type: ignore[method-assign]
        self.hide, self.depth, self.dead = carrier.hide, carrier.depth, carrier.dead  # type: ignore[method-assign]

    def close(self) -> None:
        """Not now."""


def queued(carrier: Carrier) -> Taken:
    """What the queue acknowledged, whoever reads it has."""
    claims = Claims(MessageSealer(KEYRING, "calls"), OneStore(MemoryBodyStore()), 1 << 18)
    sender = QueueSender(Kept(carrier), claims, MemoryAfterResponse(), SenderLimits(accept_s=20))

    def read() -> set[UUID]:
        reader = QueueReader(Kept(carrier), claims)
        handed: list[Handed] = []
        while more := reader.take(1000, 1 << 20):
            handed += more
        reader.done(handed)
        assert reader.poll() == 0
        return {each.item.id for each in handed}

    return Taken(sender, read)


@pytest.fixture(params=["memory", "inline", "spool", "turns", "carrier", "sqs", "pubsub", "emulated"])
def made(request: pytest.FixtureRequest) -> Callable[[], Taken]:
    """Makes the implementation, inside the running loop."""
    simple = {"memory": in_memory, "inline": inline, "spool": spool, "turns": turns}
    name: str = request.param
    if name in simple:
        return simple[name]
    carrier: Carrier = MemoryCarrier() if name == "carrier" else request.getfixturevalue(f"{name}_carrier")
    return lambda: queued(carrier)


def call() -> Exchange:
    one = exchange(route("/v1/chat/completions"), CHAT, asked={"model": "gpt-4o-mini"})
    one.id = uuid4()
    return one


def intent(of: Exchange) -> Intent:
    return Intent(of.id, of.caller, of.route, of.requested_at, of.method)


async def intend(port: AfterResponse, one: Exchange) -> None:
    intended = port.intend(intent(one))
    if intended is not None:
        await intended


async def submit(port: AfterResponse, one: Exchange) -> None:
    accepted = port.submit(one)
    if accepted is not None:
        await accepted


def test_what_it_takes_is_settled_by_the_time_it_is_closed(made: Callable[[], Taken]) -> None:
    async def story() -> tuple[set[UUID], set[UUID]]:
        taken = made()
        calls = [call() for _ in range(COUNT)]
        await asyncio.gather(*(intend(taken.port, one) for one in calls))
        await asyncio.gather(*(submit(taken.port, one) for one in calls))
        await taken.port.close()
        return {one.id for one in calls}, taken.settled()

    submitted, settled = asyncio.run(story())
    assert settled == submitted


def test_a_call_without_an_intent_is_taken_too(made: Callable[[], Taken]) -> None:
    async def story() -> tuple[UUID, set[UUID]]:
        taken, one = made(), call()
        await submit(taken.port, one)
        await taken.port.close()
        return one.id, taken.settled()

    one, settled = asyncio.run(story())
    assert settled == {one}


def test_the_same_call_twice_is_settled_once(made: Callable[[], Taken]) -> None:
    async def story() -> tuple[UUID, set[UUID]]:
        taken, one = made(), call()
        await submit(taken.port, one)
        await submit(taken.port, one)
        await taken.port.close()
        return one.id, taken.settled()

    one, settled = asyncio.run(story())
    assert settled == {one}


def test_the_caller_is_served_while_database_and_store_are_away() -> None:
    async def story() -> int:
        store = MemoryBodyStore()
        store.fail(StoreUnavailable)
        port = inline_over(LostLedger(), store)
        served = 0
        for _ in range(COUNT):
            one = call()
            await intend(port, one)
            await submit(port, one)
            served += 1
        await port.close(grace_s=0.2)
        return served

    assert asyncio.run(asyncio.wait_for(story(), 20)) == COUNT
