"""Five times is taken and more is held, in every price that a call could be billed at; less history is no move."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
)

from steward.pricemoves import Move, moved

AT = datetime(2026, 11, 20, tzinfo=UTC)


def prices(**named: float) -> ModelPrice:
    """Prices by their short names."""
    keys = {name: name if name.endswith("kcount") else f"{name}_mtok" for name in named}
    return ModelPrice(**{keys[name]: Decimal(str(price)) for name, price in named.items()})


def model(*dated: ModelPrice, variants: list[ModelPrice] | None = None) -> ModelInfo:
    """A model whose last price is today's."""
    listed = [
        ConditionalPrice(StartDateConstraint(date(2026, 1, day)), prices=each) for day, each in enumerate(dated, 1)
    ]
    tiers = [PriceVariant({"service_tier": f"t{n}"}, each) for n, each in enumerate(variants or ())]
    return ModelInfo("m", ClauseEquals("m"), prices=listed, price_variants=tiers or None)


GOOD = model(prices(input=2, output=8, cache_read=0.2))


@pytest.mark.parametrize(
    "offered",
    [
        prices(input=2, output=8, cache_read=0.2),
        prices(input=10, output=40, cache_read=1),
        prices(input=0.4, output=1.6, cache_read=0.04),
        prices(input=2, output=8, cache_read=0.2, cache_write=2.5, cache_write_1h=4),
        prices(input=2, output=8, cache_read=0.2, input_audio=40, output_audio=80, output_image=240),
        prices(input=2, output=8, cache_read=0.2, web_searches_kcount=25),
        prices(input=0.8, output=8),
    ],
)
def test_what_may_be_believed(offered: ModelPrice) -> None:
    assert moved(GOOD, model(offered), AT) is None


@pytest.mark.parametrize(
    ("offered", "key"),
    [
        (prices(input=10.01, output=8, cache_read=0.2), "input_mtok"),
        (prices(input=0.39, output=8, cache_read=0.2), "input_mtok"),
        (prices(input=2, output=41, cache_read=0.2), "output_mtok"),
        (prices(input=2, output=0, cache_read=0.2), "output_mtok"),
        (prices(input=2, cache_read=0.2), "output_mtok"),
        (prices(input=2, output=8), "cache_read_mtok"),
        (prices(input=2, output=8, cache_read=0.2, cache_write=11), "cache_write_mtok"),
        (prices(input=2, output=8, cache_read=0.2, cache_write=0), "cache_write_mtok"),
        (prices(input=2, output=8, cache_read=0.2, cache_write=0.01), "cache_write_mtok"),
        (prices(input=2, output=8, cache_read=0.2, output_image=481), "output_image_mtok"),
        (prices(input=2, output=8, cache_read=0.2, web_searches_kcount=51), "web_searches_kcount"),
        (prices(input=2, output=8, cache_read=0.2, requests_kcount=1), "requests_kcount"),
    ],
)
def test_what_moved_too_far(offered: ModelPrice, key: str) -> None:
    move = moved(GOOD, model(offered), AT)
    assert move is not None
    assert move.key == key


def test_a_move_says_from_what_to_what() -> None:
    assert moved(GOOD, model(prices(input=200, output=8)), AT) == Move("input_mtok", Decimal(2), Decimal(200))
    assert moved(GOOD, model(prices(input=2, cache_read=0.2)), AT) == Move("output_mtok", Decimal(8), None)


def test_nothing_becomes_something_only_by_hand() -> None:
    free = model(prices(input=0, output=0))
    assert moved(free, model(prices(input=1, output=0)), AT) == Move("input_mtok", Decimal(0), Decimal(1))


def test_a_first_price_is_news() -> None:
    by_the_hour = model(ModelPrice())
    assert moved(by_the_hour, model(prices(input=2, output=8)), AT) is None


def test_history_that_is_forgotten_is_no_move() -> None:
    old = model(prices(input=20, output=80), prices(input=2, output=8), variants=[prices(input=0.5)])
    assert moved(old, model(prices(input=2, output=8)), AT) is None


def test_a_price_within_history_but_far_from_today_s_is_held() -> None:
    old = model(prices(input=20, output=80), prices(input=2, output=8))
    assert moved(old, model(prices(input=20, output=8)), AT) == Move("input_mtok", Decimal(2), Decimal(20))


@pytest.mark.parametrize("cheap", [0, 0.01])
def test_no_tier_is_nearly_free(cheap: float) -> None:
    offered = model(prices(input=2, output=8, cache_read=0.2), variants=[prices(output=cheap)])
    assert moved(GOOD, offered, AT) == Move("output_mtok", Decimal(8), Decimal(str(cheap)))


def test_no_long_prompt_is_out_of_bounds() -> None:
    stepped = ModelPrice(
        input_mtok=TieredPrices(Decimal(2), [Tier(1000, Decimal(11))]),
        output_mtok=Decimal(8),
        cache_read_mtok=Decimal("0.2"),
    )
    assert moved(GOOD, model(stepped), AT) == Move("input_mtok", Decimal(2), Decimal(11))


def test_no_model_of_the_bundled_list_has_moved_from_itself() -> None:
    for provider in providers:
        for each in provider.models:
            if each.prices:
                assert moved(each, deepcopy(each), AT) is None
