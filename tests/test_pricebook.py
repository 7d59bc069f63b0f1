"""A list finds the model that a seller means by a name, and answers for no tier it has no price for."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices.types import (
    ClauseEquals,
    ClauseStartsWith,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
)

from steward.exchange import Usage
from steward.pricebook import Listing, PriceList, shown
from steward.rates import Rates

AT = datetime(2026, 11, 20, tzinfo=UTC)


def model(model_id: str, price: int = 1, variants: list[PriceVariant] | None = None) -> ModelInfo:
    prices = ModelPrice(input_mtok=Decimal(price), output_mtok=Decimal(price))
    return ModelInfo(model_id, ClauseStartsWith(model_id), prices=prices, price_variants=variants)


def variant(price: int, constraint: StartDateConstraint | None = None, **when: str) -> PriceVariant:
    return PriceVariant(when, ModelPrice(output_mtok=Decimal(price)), constraint)


MAKER = Provider("maker", "", "", model_match=ClauseStartsWith("m-"), models=[model("m-1"), model("m-2", 2)])
SELLER = Provider("seller", "", "", fallback_model_providers=["maker"], models=[model("m-2", 3)])
EMPTY = Provider("empty", "", "", models=[ModelInfo("none", ClauseEquals("none"))])
BOOK = PriceList([SELLER, MAKER, EMPTY], "list 1", AT, {("maker", "m-2"): "list 0"})


def test_a_seller_s_own_price_goes_before_the_maker_s() -> None:
    own, other = BOOK.own("seller", "m-2"), BOOK.own("seller", "m-1-2026-01-01")
    assert own is not None
    assert other is not None
    assert (own.model, own.borrowed, own.provider) == (SELLER.models[0], False, "seller")
    assert (other.model, other.borrowed, other.provider) == (MAKER.models[0], True, "seller")


@pytest.mark.parametrize(("provider", "name"), [("seller", "x"), ("nobody", "m-1"), ("empty", "none")])
def test_what_nobody_sells_is_not_found(provider: str, name: str) -> None:
    assert BOOK.own(provider, name) is None


@pytest.mark.parametrize(
    ("name", "provider"), [("m-1", "maker"), ("seller/m-2", "seller"), ("x", None), ("none", None)]
)
def test_a_name_may_tell_its_vendor(name: str, provider: str | None) -> None:
    found = BOOK.anywhere(name)
    assert (found.provider if found else None) == provider


def test_a_model_that_stayed_keeps_its_source() -> None:
    kept, new = BOOK.listed("maker", "m-2"), BOOK.listed("maker", "m-1")
    assert kept is not None
    assert new is not None
    assert (kept.source, new.source) == ("list 0", "list 1")
    assert BOOK.listed("maker", "m-3") is None
    assert BOOK.listed("empty", "none") is None


TIERED = model(
    "t",
    variants=[
        variant(2, service_tier="flex"),
        variant(3, processing="batch"),
        variant(4, speed="fast"),
        variant(5, StartDateConstraint(date(2026, 12, 1)), service_tier="priority"),
        PriceVariant({"service_tier": "default"}, ModelPrice()),
    ],
)


@pytest.mark.parametrize(
    ("tier", "price"),
    [
        (None, 1),
        ("", 1),
        ("default", 1),
        ("STANDARD", 1),
        ("flex", 2),
        ("FLEX", 2),
        ("ON_DEMAND_FLEX", 2),
        ("batch", 3),
        ("fast", 4),
        ("priority", None),
        ("unheard-of", None),
    ],
)
def test_a_tier_has_its_price_or_none(tier: str | None, price: int | None) -> None:
    rates = Listing(TIERED, "", "maker").rates(AT, tier)
    assert (rates.prices["output_mtok"] if rates else None) == price


def test_a_tier_begins_on_its_day() -> None:
    rates = Listing(TIERED, "", "maker").rates(datetime(2026, 12, 1, tzinfo=UTC), "priority")
    assert rates is not None
    assert rates.prices == {"input_mtok": 1, "output_mtok": 5}


def test_another_s_tiers_do_not_apply() -> None:
    borrowed = Listing(TIERED, "", "seller", borrowed=True)
    assert borrowed.rates(AT, "flex") is None
    assert borrowed.rates(AT, "default") is not None


def test_steps_are_asked_from_the_highest() -> None:
    price = TieredPrices(Decimal(1), [Tier(200, Decimal(3)), Tier(100, Decimal(2))])
    stepped = ModelInfo("s", ClauseEquals("s"), prices=ModelPrice(input_mtok=price, output_mtok=Decimal(0)))
    rates = Listing(stepped, "", "maker").rates(AT, None)
    assert rates is not None
    sums = [charge.input_usd if (charge := rates.charge(Usage(n, 0), True)) else None for n in (0, 100, 101, 200, 201)]
    assert sums == [Decimal(n) / 1_000_000 for n in (0, 100, 202, 400, 603)]


@pytest.mark.parametrize(
    ("provider", "model_id", "count", "usd"),
    [("google", "gemini-2.5-pro", 4, "0.01"), ("google", "gemini-3-pro", 4, "0.04"), ("openai", "gpt", 4, "0.04")],
)
def test_grounding_was_billed_by_the_prompt(provider: str, model_id: str, count: int, usd: str) -> None:
    rates = Rates({"web_searches_kcount": Decimal(10)})
    assert Listing(model(model_id), "", provider).searches_usd(count, rates) == Decimal(usd)


def test_an_unlisted_fee_is_known_of_two_alone() -> None:
    fees = [
        Listing(model("m"), "", provider).searches_usd(1, Rates({})) for provider in ("openai", "anthropic", "google")
    ]
    assert fees == [Decimal("0.01"), Decimal("0.01"), None]


@pytest.mark.parametrize("text", ["<script>", "", "a b", "x" * 129, None, 7])
def test_an_id_is_shown_only_when_it_is_a_name(text: object) -> None:
    assert shown(text) == "other"
    assert shown("gpt-4o") == "gpt-4o"
