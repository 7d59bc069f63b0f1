"""Hands calls to a queue: sealed, acknowledged by the queue before the piece that ends the response is sent.

Nothing is settled here while the queue takes what it is given. What it does not take in time, or cannot (no store for a
large call), goes to the fallback there and then: never lost, never shed. Of a call that has only begun it writes
nothing: a message before the provider would cost as much again, and a process that dies within a call breaks off the
answer, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from steward import log
from steward.backoff import Backoff
from steward.carrier import Carrier
from steward.claims import Claims, Letter
from steward.exchange import Exchange, Intent
from steward.ports import AfterResponse


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """Times in seconds."""

    accept_s: float = 2.0
    """The longest a caller waits for the queue; then his call goes to the fallback."""
    at_once: int = 32
    """Messages on their way at a time."""
    pause_first_s: float = 1.0
    pause_s: float = 30.0
    """A queue that was away is left alone for so long, at most: meanwhile callers do not wait for it."""


class QueueSender(AfterResponse):
    """AfterResponse by a queue. One event loop calls it."""

    def __init__(
        self, carrier: Carrier, claims: Claims, fallback: AfterResponse, limits: SenderLimits = SenderLimits()
    ) -> None:
        """Closes `carrier` and `fallback` in the end."""
        self._carrier = carrier
        self._claims = claims
        self._fallback = fallback
        self._limits = limits
        self._away = Backoff(limits.pause_first_s, limits.pause_s)
        self._threads = ThreadPoolExecutor(limits.at_once, "steward-queue")
        self._under_way: set[asyncio.Task[None]] = set()

    def intend(self, intent: Intent) -> Awaitable[None] | None:
        """See ports.AfterResponse. Nothing."""
        return None

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """See ports.AfterResponse. It goes on though nobody waits for it any more."""
        task = asyncio.ensure_future(self._hand_over(exchange))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return asyncio.shield(task)

    async def close(self) -> None:
        """What is on its way arrives, or goes to the fallback."""
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._fallback.close()
        await asyncio.to_thread(self._threads.shutdown, wait=False, cancel_futures=True)
        self._carrier.close()

    async def _hand_over(self, exchange: Exchange) -> None:
        if self._away.waits() <= 0 and await self._sent(exchange):
            exchange.request.close()
            exchange.response.close()
            return
        accepted = self._fallback.submit(exchange)
        if accepted is not None:
            await accepted

    async def _sent(self, exchange: Exchange) -> bool:
        """Whether the queue has it. The call's files are this loop's again when it returns."""
        loop = asyncio.get_running_loop()
        until = time.monotonic() + self._limits.accept_s
        try:
            letter = await loop.run_in_executor(self._threads, self._claims.message, exchange)
        except Exception as exc:  # no room for it on the disk, or nothing that can be sealed
            log.error("message_not_made", exc, id=exchange.id)
            return False
        sending = loop.run_in_executor(self._threads, self._send, letter, exchange)
        done, _ = await asyncio.wait({sending}, timeout=max(0.0, until - time.monotonic()))
        if not done:
            # It may still arrive: settled twice is settled once.
            sending.add_done_callback(_heard)
            self._away.failed()
            log.say("queue_too_slow", logging.WARNING, id=exchange.id)
            return False
        return sending.result()

    def _send(self, letter: Letter, exchange: Exchange) -> bool:
        """In a thread; raises nothing. It looks at the call's id alone."""
        try:
            text = letter.text()
            if text is None:
                log.say("message_too_large", logging.WARNING, id=exchange.id)
                return False
            self._carrier.send(text, exchange.id)
        except Exception as exc:  # of a vendor's library, too
            self._away.failed()
            log.error("message_not_sent", exc, id=exchange.id)
            return False
        finally:
            letter.close()
        self._away.worked()
        return True


def _heard(sending: asyncio.Future[bool]) -> None:
    """Nobody waits for it any more."""
    if not sending.cancelled():
        sending.exception()
