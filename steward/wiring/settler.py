"""What the settling process runs on: `handlers/settler.py` runs it.

It relays nothing and opens no port.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from steward import metrics
from steward.clockwork import Clockwork
from steward.counted_calls import CountedCalls
from steward.destination import FilesDestination
from steward.metric_files import Board
from steward.metrics import CallMetrics, QueueMetrics
from steward.ports import Ledger, Settled, Stores
from steward.price import PriceBook
from steward.seal import Keyring
from steward.settings import Settings
from steward.settle import Settler
from steward.settling import AT_ONCE, AT_ONCE_FILES, RoundLimits, Rounds
from steward.stores import Looking
from steward.wiring.body_stores import decided_stores
from steward.wiring.database import directory_on, open_database, settler_conns, upkeep
from steward.wiring.prices import open_prices
from steward.wiring.schedule import open_clockwork

if TYPE_CHECKING:
    from steward.adapters.price_feed import PriceFeed


@dataclass(frozen=True, slots=True)
class SettlerServices:
    """Everything the settling process runs on."""

    rounds: Rounds
    acquire: Callable[[], bool]
    """Whether this process may settle what it is for, from now to its end: one a spool. Never waits."""
    maintain: Callable[[datetime], None]
    """See database.upkeep."""
    prices: PriceFeed
    looking: Looking
    """Keeps the stores as the directory has them, once it is started."""
    queue_metrics: QueueMetrics
    clockwork: Clockwork
    """What runs on a schedule."""
    close: Callable[[], None]


def open_settler(
    settings: Settings, ledger: Ledger, stores: Stores, prices: Callable[[], PriceBook], counts: CallMetrics
) -> Settler:
    """The stages after the last byte, for whoever settles, wherever its calls come from. Starts nothing."""
    return Settler(ledger, stores, prices, settings.capture == "full", metrics=counts)


def build_settler(settings: Settings, board: Board | None = None) -> SettlerServices:
    """Puts a settling process together. Connects to nothing yet. Raises SettingError.

    `board`: where all processes of this Steward count; None: this one counts for itself.
    """
    from steward.adapters.postgres_ledger import PostgresLedger

    engine, keyring = open_database(settings, settler_conns(settings))
    ledger = PostgresLedger(engine)
    stores = decided_stores(settings, directory_on(settings, engine, keyring))
    looking = Looking(stores)
    prices = open_prices(settings)
    board = board or metrics.prepare(None)
    queued = settings.after_response in {"sqs", "pubsub"}
    counts = CallMetrics(board, CountedCalls(board.folder / "counted", comes_again=queued))
    settler = open_settler(settings, ledger, stores, lambda: prices.book, counts)
    queue, acquire = _opened_queue(settings, keyring, stores, board)
    in_files = isinstance(settings.body_store, FilesDestination)
    at_once = AT_ONCE_FILES if in_files else AT_ONCE
    rounds = Rounds(queue, settler, ledger, RoundLimits(body_retry_s=settings.body_retry_for_s, at_once=at_once))
    clockwork = open_clockwork(settings, engine, keyring, board)

    def close() -> None:
        looking.end()
        rounds.close()
        queue.close()
        prices.close()
        stores.close()
        engine.dispose()
        board.close()

    return SettlerServices(
        rounds=rounds,
        acquire=acquire,
        maintain=upkeep(settings, engine, keyring),
        prices=prices,
        looking=looking,
        queue_metrics=QueueMetrics(board, settings.spool_max_bytes),
        clockwork=clockwork,
        close=close,
    )


def _opened_queue(
    settings: Settings, keyring: Keyring, stores: Stores, board: Board
) -> tuple[Settled, Callable[[], bool]]:
    """What is settled, and `acquire`: of a cloud's queue there may be any number of settlers."""
    if settings.after_response in {"sqs", "pubsub"}:
        from steward.wiring.queues import open_reader

        reader = open_reader(settings, keyring, stores, metrics.queue_refused(board))

        def begin() -> bool:
            reader.start(lambda: stores.changes() > 0)
            return True

        return reader, begin
    from steward.adapters.spool_reader import SpoolReader

    spool = SpoolReader(settings.spool_dir, keyring)
    return spool, spool.acquire
