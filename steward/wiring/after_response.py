"""What takes calls over once they are relayed, one function for each AFTER_RESPONSE, and what else that needs.

It chooses none of them: `relay.py` does, by the setting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from steward.capture import Spill
from steward.metric_files import Board
from steward.metrics import CallMetrics
from steward.ports import AfterResponse, Stores
from steward.seal import Keyring
from steward.settings import Settings
from steward.stores import DecidedStores, Looking
from steward.wiring.queues import Look, open_queue, queue_claims
from steward.wiring.watching import Background, maintain

if TYPE_CHECKING:
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.adapters.price_feed import PriceFeed

_ACCEPTED_S = 0.5
"""A queue gets this long at least, whatever AFTER_RESPONSE_BUDGET says."""


def _seen() -> None:
    """Somebody else looks."""


@dataclass(frozen=True, slots=True)
class After:
    """What takes calls over once they are relayed, and what else that needs."""

    port: AfterResponse
    spill: Spill | None = None
    prices: PriceFeed | None = None
    """None where another process settles: nothing is priced here."""
    background: tuple[Background, ...] = ()
    """What runs beside it while the process serves."""
    close: Callable[[], None] = lambda: None
    """Gives back what it opened, after `port` was closed."""
    end_alone: bool = False
    """See proxy.Stages."""


def settled_here(
    settings: Settings, ledger: PostgresLedger, stores: DecidedStores, board: Board, kept: Callable[[datetime], None]
) -> After:
    """Settled in this process, which closes `stores` in the end. `kept`: see database.upkeep. Raises SettingError."""
    from steward.adapters.inline import Inline, InlineLimits
    from steward.wiring.prices import open_prices
    from steward.wiring.settler import open_settler

    looking = Looking(stores)
    prices = open_prices(settings)
    settler = open_settler(settings, ledger, stores, lambda: prices.book, CallMetrics(board))
    port = Inline(settler, ledger, InlineLimits(intent_wait_s=settings.after_response_budget_s))

    async def look() -> None:
        looking.start()

    def close() -> None:
        looking.end()
        prices.close()
        stores.close()

    return After(port, None, prices, (look, partial(maintain, kept)), close)


def spooled(settings: Settings, keyring: Keyring) -> After:
    """Handed to the process that settles, by way of the disk."""
    from steward.adapters.spool import Spool, SpoolLimits

    limits = SpoolLimits(
        max_bytes=settings.spool_max_bytes // settings.workers,
        full=settings.spool_full,
        flush_interval_s=settings.spool_flush_interval_s,
        whole_bytes=settings.spool_max_bytes,
    )
    spool = Spool(settings.spool_dir, keyring, limits, _running_loop())
    return After(spool, spill=spool.spill)


def sent_to_queue(settings: Settings, keyring: Keyring, stores: Stores, inner: After, look: Look = _seen) -> After:
    """Handed to whoever reads the queue; what that does not take, to `inner`, which settles it here.

    `look`: before a large call goes to its store.
    """
    from steward.adapters.queue_sender import QueueSender, SenderLimits

    queue = open_queue(settings)
    claims = queue_claims(settings, keyring, stores, look)
    limits = SenderLimits(accept_s=max(settings.after_response_budget_s, _ACCEPTED_S))
    return replace(inner, port=QueueSender(queue, claims, inner.port, limits))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that will relay, where one runs already: not where services are only looked at."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
