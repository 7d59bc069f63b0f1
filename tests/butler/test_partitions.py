"""Monthly partitions: made once, whoever comes; rows that waited in the default one are moved."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from steward.butler.partitions import ensure_month
from tests.butler.calls import received
from tests.servers.butler import ButlerBench

NAMES = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'butler.requests'::regclass ORDER BY 1
"""


def names(butler: ButlerBench) -> list[object]:
    return [name for (name,) in butler.postgres.run(NAMES)]


def test_a_month_is_made_once(butler: ButlerBench) -> None:
    database, now = butler.services.database, butler.clock()
    assert [ensure_month(database, (2026, 12), now) for _ in range(2)] == [True, False]
    assert names(butler) == ["requests_2026_12", "requests_default"]


def test_months_out_of_reason_are_not_made(butler: ButlerBench) -> None:
    database, now = butler.services.database, butler.clock()
    assert not any(ensure_month(database, month, now) for month in ((2019, 1), (2027, 2), (9999, 12)))
    assert names(butler) == ["requests_default"]


def test_two_at_once_make_one(butler: ButlerBench) -> None:
    made: list[bool] = []
    now = butler.clock()

    def make() -> None:
        made.append(ensure_month(butler.services.database, (2026, 12), now))

    makers = [threading.Thread(target=make) for _ in range(3)]
    for each in makers:
        each.start()
    for each in makers:
        each.join()
    assert len(made) == 3
    assert names(butler) == ["requests_2026_12", "requests_default"]


def test_what_waited_in_the_default_one_is_moved(butler: ButlerBench) -> None:
    acme, at = butler.tenant("acme"), datetime(2027, 3, 5, tzinfo=UTC)
    butler.services.records.ingest(acme.bearer, [received(requested_at=at)], butler.clock())
    where = "SELECT tableoid::regclass::text FROM butler.requests"
    assert butler.postgres.run(where) == [("butler.requests_default",)]
    assert ensure_month(butler.services.database, (2027, 3), at - timedelta(days=9))
    assert butler.postgres.run(where) == [("butler.requests_2027_03",)]
