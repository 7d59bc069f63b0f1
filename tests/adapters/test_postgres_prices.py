"""The newest price list in the database: kept once, given to who has not seen it, and believed by nobody."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta

from steward.adapters.postgres_prices import MOST_BYTES, PostgresPrices
from tests.servers.postgres import Database

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_newest_list_is_given_to_who_has_not_seen_it(postgres: Database) -> None:
    shelf = PostgresPrices(postgres.engine)
    assert shelf.newer(None) is None
    shelf.keep(b"[1]", NOW)
    assert shelf.newer(None) == (NOW, b"[1]")
    assert shelf.newer(NOW - HOUR) == (NOW, b"[1]")
    assert shelf.newer(NOW) is None
    shelf.keep(b"[2]", NOW + HOUR)
    assert shelf.newer(NOW) == (NOW + HOUR, b"[2]")


def test_an_older_list_takes_no_newer_one_s_place(postgres: Database) -> None:
    shelf = PostgresPrices(postgres.engine)
    shelf.keep(b"[2]", NOW)
    shelf.keep(b"[1]", NOW - HOUR)
    assert shelf.newer(None) == (NOW, b"[2]")


def test_what_is_no_packed_list_is_none(postgres: Database) -> None:
    shelf = PostgresPrices(postgres.engine)
    bomb = gzip.compress(bytes(MOST_BYTES + 1))
    for planted in (b"", b"CANARY", gzip.compress(b"[1]")[:-9], bomb):
        postgres.run("DELETE FROM price_list")
        postgres.run("INSERT INTO price_list (id, fetched_at, document) VALUES (1, now(), :planted)", planted=planted)
        assert shelf.newer(None) is None
