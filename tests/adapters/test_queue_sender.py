"""The relay's end of a queue, beyond its contract and tests/hostile/test_queues.py: when it leaves a queue alone."""

from __future__ import annotations

import asyncio
import threading
from functools import cache
from uuid import UUID

from steward.adapters.memory import MemoryAfterResponse
from steward.adapters.queue_sender import QueueSender, SenderLimits
from steward.carrier import MemoryCarrier
from steward.claims import Claims
from steward.errors import QueueUnavailable
from steward.exchange import Intent
from steward.price import PriceBook, bundled
from steward.stores import OneStore
from tests.messages import LARGE, MOST_TEXT, House, call


@cache
def prices() -> PriceBook:
    return bundled()


class Counting(MemoryCarrier):
    """How often it was tried."""

    tried = 0

    def send(self, text: str, request_id: UUID) -> None:
        self.tried += 1
        super().send(text, request_id)


def test_a_queue_that_is_away_is_left_alone_for_a_while() -> None:
    queue, fallback, house = Counting(), MemoryAfterResponse(), House(prices())
    queue.fault = QueueUnavailable()

    async def story() -> None:
        limits = SenderLimits(pause_first_s=1e6, pause_s=1e6)
        sender = QueueSender(queue, house.claims, fallback, limits)
        for _ in range(20):
            accepted = sender.submit(call())
            assert accepted is not None
            await accepted
        await sender.close()

    asyncio.run(story())
    assert len(fallback.submitted) == 20
    assert queue.tried == 1


def test_of_a_call_that_has_only_begun_nothing_is_written() -> None:
    queue, house, one = Counting(), House(prices()), call()

    async def story() -> None:
        sender = QueueSender(queue, house.claims, MemoryAfterResponse())
        assert sender.intend(Intent(one.id, one.caller, one.route, one.requested_at, one.method)) is None
        await sender.close()

    asyncio.run(story())
    assert queue.tried == 0


def test_a_database_that_hangs_keeps_no_large_call_beyond_its_time() -> None:
    fallback, house, goes_on = MemoryAfterResponse(), House(prices()), threading.Event()

    def hang() -> None:
        goes_on.wait()

    async def story() -> None:
        claims = Claims(house.sealer, OneStore(house.store), MOST_TEXT, hang)
        sender = QueueSender(MemoryCarrier(), claims, fallback, SenderLimits(accept_s=0.1))
        accepted = sender.submit(call(LARGE))
        assert accepted is not None
        try:
            await asyncio.wait_for(asyncio.ensure_future(accepted), 20)
        finally:
            goes_on.set()
        await sender.close()

    asyncio.run(story())
    assert len(fallback.submitted) == 1
