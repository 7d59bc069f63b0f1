"""What settles a queue's messages where a host hands them over: `handlers/` knows which host it is.

Nothing runs in its background, and it connects to nothing before the first batch.
"""

from __future__ import annotations

from steward.consuming import Around, Consumer
from steward.metric_files import Board
from steward.metrics import CallMetrics, queue_refused
from steward.settings import Settings
from steward.wiring.body_stores import decided_stores
from steward.wiring.hosted import Elapsed, LookedAt, Schedule
from steward.wiring.prices import SharedPrices
from steward.wiring.queues import queue_claims, queue_name
from steward.wiring.relay import open_ground
from steward.wiring.settler import open_settler


def build_consumer(settings: Settings, board: Board | None = None) -> Consumer:
    """Puts it together; its caller hands it batches, and closes it. Connects to nothing yet. Raises SettingError.

    Which queue the messages come from is the settings' affair: AFTER_RESPONSE, and SQS_QUEUE_URL or PUBSUB_TOPIC.
    """
    queue_name(settings)
    ground = open_ground(settings, settings.postgres_max_conns, board)
    stores, asleep = decided_stores(settings, ground.directory), Elapsed()
    prices = SharedPrices(settings, ground.engine, asleep)
    looked = LookedAt(stores, asleep)
    schedule = Schedule(settings, ground, prices.feed)
    settler = open_settler(settings, ground.ledger, stores, lambda: prices.feed.book, CallMetrics(ground.board))

    def before() -> None:
        looked.look()  # first: where bodies go must not hang on a list of prices that cannot be read
        prices.look()

    def close() -> None:
        schedule.close()
        prices.feed.close()
        stores.close()
        ground.engine.dispose()
        ground.board.close()

    claims = queue_claims(settings, ground.keyring, stores, looked.look)
    around = Around(before, schedule.export, queue_refused(ground.board), close)
    return Consumer(claims, settler, ground.ledger.ready, around)
