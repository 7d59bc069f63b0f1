"""The price book of the settings, with their aliases."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from steward.adapters.postgres_prices import PostgresPrices
from steward.errors import SettingError
from steward.wiring.prices import SharedPrices, price_book
from steward.wiring.relay import build
from tests.servers import price_lists as lists
from tests.servers.postgres import Database
from tests.servers.price_lists import replying, serving
from tests.services import settings


def test_an_alias_file_that_is_none_is_one_line_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_text('{"my-deployment": "gpt-4o"}')
    assert price_book(settings(PRICING_ALIASES_FILE=str(file))).knows("my-deployment")
    found = settings(PRICING_ALIASES_FILE=str(file))
    for content in (b"", b"CANARY", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(SettingError) as refused:
            build(found)
        assert refused.value.message.startswith("PRICING_ALIASES_FILE")
        assert "CANARY" not in refused.value.message
    file.unlink()
    with pytest.raises(SettingError, match="PRICING_ALIASES_FILE"):
        build(found)


def test_one_process_fetches_the_list_and_the_others_read_it(postgres: Database) -> None:
    """Of hosts whose processes are short-lived: none of them asks the feed but who sweeps."""
    now = [0.0]
    newest = lists.openai(lists.model("gpt-9", prices={"input_mtok": 1, "output_mtok": 2}))
    with serving([replying(200, newest)]) as (url, asked):
        found = settings(postgres, PRICING_REMOTE_URL=url)
        sweeps, other = (SharedPrices(found, postgres.engine, lambda: now[0]) for _ in range(2))
        other.look()
        assert not other.feed.book.knows("gpt-9")
        sweeps.feed.refresh_once()
        other.look()
        assert not other.feed.book.knows("gpt-9")  # it looked a moment ago
        now[0] += 601
        other.look()
        assert other.feed.book.knows("gpt-9")
        assert other.feed.state.fetched_at == sweeps.feed.state.fetched_at
    assert len(asked.paths) == 1


def test_a_list_that_somebody_planted_is_read_as_carefully_as_from_the_network(postgres: Database) -> None:
    prices = SharedPrices(settings(postgres, PRICING_REMOTE_URL="https://prices.example.com/x"), postgres.engine, float)
    before = prices.feed.book
    PostgresPrices(postgres.engine).keep(b'[{"id": "openai"}]', datetime(2026, 11, 28, tzinfo=UTC))
    prices.look()
    assert prices.feed.book is before


def test_with_the_feed_off_nobody_s_list_is_read(postgres: Database) -> None:
    newest = lists.openai(lists.model("gpt-9", prices={"input_mtok": 1, "output_mtok": 2}))
    PostgresPrices(postgres.engine).keep(newest, datetime(2026, 11, 28, tzinfo=UTC))
    prices = SharedPrices(settings(postgres), postgres.engine, float)
    prices.look()
    assert not prices.feed.book.knows("gpt-9")
