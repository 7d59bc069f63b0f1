"""A call's cost: under its own provider first, at its moment and tier, in its domain; unknown is None, never 0."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steward.errors import PriceListRefused, SettingError
from steward.exchange import MAX_COST_USD, Metered, Usage, UsageSource
from steward.price import MAX_KNOWN_NAMES, HeldPrice, PriceBook, bundled, parse_list, read_aliases
from tests.servers import price_lists as lists
from tests.servers.corpus import Recording

AT = datetime(2026, 11, 20, 8, tzinfo=UTC)
ALIASES = {"my-deployment": "gpt-4o", "gpt-4o-mini": "gpt-4o", "elsewhere": "claude-sonnet-4-5", "dead": "no-such"}


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return bundled(ALIASES)


def metered(model: str | None, usage: Usage | None = None, **more: object) -> Metered:
    """What settle knows of a call of a million tokens in and a million out."""
    source = UsageSource.PROVIDER
    return replace(Metered(source, usage or Usage(1_000_000, 1_000_000), model), **more)  # type: ignore[arg-type]


def total(book: PriceBook, provider: str, call: Metered, at: datetime = AT) -> Decimal | None:
    cost = book.cost(provider, call, at)
    return cost.total_usd if cost else None


@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        ("openai", "gpt-4o", "12.5"),
        ("openai", "gpt-4o-2024-08-06", "12.5"),
        ("openai", "GPT-4o", "12.5"),
        ("openai", "text-embedding-3-small", None),
        ("anthropic", "claude-sonnet-4-5-20250929", "28.5"),
        ("anthropic", "claude-3-5-haiku-20241022", "4.8"),
        ("gemini", "gemini-2.5-flash", "2.8"),
        ("gemini", "models/gemini-2.5-flash", "2.8"),
        ("gemini", "publishers/google/models/gemini-2.5-flash", "2.8"),
        ("openai", "claude-3-5-haiku-20241022", "4.8"),
        ("openai", "anthropic/claude-3-5-haiku-20241022", "4.8"),
        ("nobody", "gpt-4o", "12.5"),
        ("openai", "no-such-model", None),
        ("openai", "", None),
        ("openai", "gpt-4o" * 40, None),
        ("openai", "gpt-4ö", None),
        ("openai", "\ud800", None),
        ("openai", "whisper-1", None),
        ("openai", "omni-moderation-latest", None),
    ],
)
def test_models_are_found_by_the_names_that_answers_give(
    book: PriceBook, provider: str, model: str, usd: str | None
) -> None:
    assert total(book, provider, metered(model)) == (Decimal(usd) if usd else None)


def test_a_cost_says_its_parts_and_its_list(book: PriceBook) -> None:
    cost = book.cost("openai", metered("gpt-4o", Usage(1000, 200, 100)), AT)
    assert cost is not None
    assert (cost.input_usd, cost.output_usd, cost.total_usd) == (
        Decimal("0.002375"),
        Decimal("0.002"),
        Decimal("0.004375"),
    )
    assert cost.source.startswith("genai-prices ")
    assert not cost.alias_found


def test_an_embedding_has_no_output(book: PriceBook) -> None:
    assert total(book, "openai", metered("text-embedding-3-small", Usage(1_000_000))) == Decimal("0.02")


def test_without_usage_there_is_no_cost(book: PriceBook) -> None:
    assert book.cost("openai", replace(metered("gpt-4o"), usage=None), AT) is None
    assert book.cost("openai", metered("gpt-4o", Usage(None, None)), AT) is None


def test_a_partial_answer_without_output_is_unknown(book: PriceBook) -> None:
    assert total(book, "openai", metered("gpt-4o", Usage(1000), source=UsageSource.PARTIAL)) is None
    assert total(book, "openai", metered("gpt-4o", Usage(1000))) == Decimal("0.0025")


@pytest.mark.parametrize(
    ("answered", "asked", "usd", "alias_found"),
    [
        ("my-deployment", None, "12.5", True),
        (None, "my-deployment", "12.5", True),
        ("unheard-of", "my-deployment", "12.5", True),
        ("gpt-4o", "my-deployment", "12.5", False),
        ("gpt-4o-mini", None, "12.5", True),
        ("elsewhere", None, "28.5", True),
        ("dead", None, None, False),
        (None, "gpt-4o", "12.5", False),
        ("", "gpt-4o", "12.5", False),
        ("unheard-of", "gpt-4o", None, False),
        (None, None, None, False),
    ],
)
def test_the_customer_s_names_go_first(
    book: PriceBook, answered: str | None, asked: str | None, usd: str | None, alias_found: bool
) -> None:
    cost = book.cost("openai", metered(answered, request_model=asked), AT)
    assert (cost.total_usd if cost else None) == (Decimal(usd) if usd else None)
    assert bool(cost and cost.alias_found) is alias_found


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usd"),
    [
        ("openai", "gpt-5", None, "11.25"),
        ("openai", "gpt-5", "default", "11.25"),
        ("openai", "gpt-5", "auto", "11.25"),
        ("openai", "gpt-5", "flex", "5.625"),
        ("openai", "gpt-5", "priority", "22.5"),
        ("openai", "gpt-5", "batch", "5.625"),
        ("openai", "gpt-5", "scale", None),
        ("openai", "gpt-3.5-turbo", "flex", None),
        ("anthropic", "claude-haiku-4-5", "standard", "6"),
        ("anthropic", "claude-haiku-4-5", "batch", "3"),
        ("anthropic", "claude-haiku-4-5", "priority", None),
        ("gemini", "gemini-2.5-flash", "ON_DEMAND", "2.8"),
        ("gemini", "gemini-2.5-flash", "PROVISIONED_THROUGHPUT", None),
        ("gemini", "claude-haiku-4-5", "batch", None),
    ],
)
def test_the_tier_decides(book: PriceBook, provider: str, model: str, tier: str | None, usd: str | None) -> None:
    assert total(book, provider, metered(model, service_tier=tier)) == (Decimal(usd) if usd else None)


def test_vertex_names_the_flex_tier_otherwise(book: PriceBook) -> None:
    call = metered("gemini-3.8-flash-tts", service_tier="ON_DEMAND_FLEX")
    assert total(book, "gemini", call) == Decimal("4.75")


def test_a_price_is_that_of_the_day(book: PriceBook) -> None:
    call = metered("claude-opus-4-6", Usage(300_000, 0))
    assert total(book, "anthropic", call, datetime(2026, 3, 12, tzinfo=UTC)) == Decimal(3)
    assert total(book, "anthropic", call, datetime(2026, 3, 13, tzinfo=UTC)) == Decimal("1.5")


def test_long_prompts_cost_more_for_every_token(book: PriceBook) -> None:
    assert total(book, "gemini", metered("gemini-2.5-pro", Usage(200_000, 1000))) == Decimal("0.26")
    assert total(book, "gemini", metered("gemini-2.5-pro", Usage(200_001, 1000))) == Decimal("0.5150025")


def test_writes_that_live_an_hour_cost_more(book: PriceBook) -> None:
    usage = Usage(1_000_000, 0, 100_000, 400_000, 300_000)
    expected = Decimal("0.5") * 1 + Decimal("0.1") * Decimal("0.1") + Decimal("0.1") * Decimal("1.25") + Decimal("0.6")
    assert total(book, "anthropic", metered("claude-haiku-4-5", usage)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "searches", "fee"),
    [
        ("anthropic", "claude-haiku-4-5", 3, "0.03"),
        ("anthropic", "claude-3-haiku", 3, "0.03"),
        ("openai", "gpt-4o", 1, "0.01"),
        ("openai", "gpt-4o-search-preview", 2, "0.02"),
        ("gemini", "gemini-2.5-flash", 5, "0.035"),
        ("gemini", "gemini-3.1-flash-image-preview", 5, "0.07"),
        ("gemini", "gemini-embedding-001", 1, None),
    ],
)
def test_web_searches_are_billed(book: PriceBook, provider: str, model: str, searches: int, fee: str | None) -> None:
    usage = Usage(1000, 0)
    plain = total(book, provider, metered(model, usage))
    assert plain is not None
    searched = total(book, provider, metered(model, replace(usage, web_searches=searches)))
    assert searched == (plain + Decimal(fee) if fee else None)


def test_a_fee_is_neither_input_nor_output(book: PriceBook) -> None:
    cost = book.cost("anthropic", metered("claude-haiku-4-5", Usage(1000, 100, web_searches=2)), AT)
    assert cost is not None
    assert cost.total_usd == cost.input_usd + cost.output_usd + Decimal("0.02")


def test_billed_steps_are_priced_each_under_its_model(book: PriceBook) -> None:
    parts = (("claude-haiku-4-5", Usage(1_000_000, 0)), ("claude-opus-4-5", Usage(0, 1_000_000)))
    call = metered("claude-haiku-4-5", Usage(220, 10, web_searches=1, parts=parts))
    cost = book.cost("anthropic", call, AT)
    assert cost is not None
    assert (cost.input_usd, cost.output_usd, cost.total_usd) == (Decimal(1), Decimal(25), Decimal("26.01"))


def test_a_step_under_no_name_is_the_call_s_own_model_s(book: PriceBook) -> None:
    call = metered("claude-haiku-4-5", Usage(1, 1, parts=(("", Usage(1_000_000, 0)),)))
    assert total(book, "anthropic", call) == Decimal(1)


def test_one_unknown_step_makes_the_whole_unknown(book: PriceBook) -> None:
    parts = (("claude-haiku-4-5", Usage(1_000_000, 0)), ("no-such", Usage(1, 1)))
    assert total(book, "anthropic", metered("claude-haiku-4-5", Usage(1, 1, parts=parts))) is None


def test_a_cost_beyond_its_domain_is_unknown(book: PriceBook) -> None:
    assert total(book, "openai", metered("gpt-4o", Usage(10**9, 0))) == Decimal(2500)
    assert total(book, "openai", metered("gpt-4o", Usage(10**9, 10**9))) is None
    assert MAX_COST_USD == 10_000


def test_a_book_knows_the_names_of_its_lists_and_aliases(book: PriceBook) -> None:
    known = ["gpt-4o", "claude-haiku-4-5", "gemini-2.5-pro", "text-embedding-3-small", "my-deployment"]
    assert all(book.knows(model) for model in known)
    assert book.knows("gpt-4o", "openai")
    assert not any(book.knows(model) for model in ("canary", "", "\ud800", "x" * 500))


def test_the_memory_of_names_is_bounded(book: PriceBook) -> None:
    small = PriceBook(book.base)
    for number in range(MAX_KNOWN_NAMES + 10):
        assert not small.knows(f"canary-{number}", "nobody")
    assert len(small._found) <= MAX_KNOWN_NAMES
    assert small.knows("gpt-4o")


counts = st.none() | st.integers(-1, 10**9 + 1)


@settings(deadline=None)
@given(
    st.sampled_from(["openai", "anthropic", "gemini", "other"]),
    st.none()
    | st.text(max_size=20)
    | st.sampled_from(["gpt-4o", "claude-haiku-4-5", "gemini-2.5-pro", "my-deployment"]),
    st.none() | st.text(max_size=8) | st.sampled_from(["flex", "priority", "batch", "fast", "default"]),
    st.builds(Usage, *[counts] * 12),
    st.datetimes(timezones=st.just(UTC)),
)
def test_whatever_is_metered_a_cost_is_in_its_domain_or_unknown(
    provider: str, model: str | None, tier: str | None, usage: Usage, at: datetime
) -> None:
    cost = bundled(ALIASES).cost(provider, metered(model, usage, service_tier=tier), at)
    assert cost is None or 0 <= cost.total_usd <= MAX_COST_USD


# Fetched lists.


def fetched(document: bytes, good: PriceBook, at: datetime = AT) -> PriceBook:
    return parse_list(document, at, good)[0]


def held(document: bytes, good: PriceBook) -> list[HeldPrice]:
    return parse_list(document, AT, good)[1]


def test_a_fetched_price_goes_before_the_bundled_one(book: PriceBook) -> None:
    new = fetched(lists.openai(lists.model("gpt-4o", prices={"input_mtok": 3, "output_mtok": 12})), book)
    cost = new.cost("openai", metered("gpt-4o"), AT)
    assert cost is not None
    assert (cost.total_usd, cost.source) == (Decimal(15), "genai-prices remote 2026-11-20T08:00:00Z")
    assert new.source == cost.source
    assert total(book, "openai", metered("gpt-4o")) == Decimal("12.5")


def test_what_a_list_does_not_name_stays(book: PriceBook) -> None:
    new = fetched(lists.openai(lists.model("gpt-9", prices={"input_mtok": 1, "output_mtok": 2})), book)
    assert total(new, "openai", metered("gpt-9")) == Decimal(3)
    cost = new.cost("anthropic", metered("claude-haiku-4-5"), AT)
    assert cost is not None
    assert cost.source.startswith("genai-prices ")
    assert "remote" not in cost.source
    assert total(new, "openai", metered("my-deployment")) == Decimal("12.5")


@pytest.mark.parametrize(
    ("prices", "key"),
    [
        ({"input_mtok": 250, "output_mtok": 10, "cache_read_mtok": 1.25}, "input_mtok"),
        ({"input_mtok": 2.5, "output_mtok": 1000, "cache_read_mtok": 1.25}, "output_mtok"),
        ({"input_mtok": 0.025, "output_mtok": 10, "cache_read_mtok": 1.25}, "input_mtok"),
        ({"input_mtok": 0, "output_mtok": 10, "cache_read_mtok": 1.25}, "input_mtok"),
        ({"input_mtok": 2.5, "output_mtok": 10, "cache_read_mtok": 0}, "cache_read_mtok"),
        ({"input_mtok": 12.51, "output_mtok": 10, "cache_read_mtok": 1.25}, "input_mtok"),
        ({"output_mtok": 10}, "input_mtok"),
        ({"input_mtok": 2.5}, "output_mtok"),
    ],
)
def test_a_price_that_moved_too_far_is_held(book: PriceBook, prices: object, key: str) -> None:
    document = lists.openai(lists.model("gpt-4o", prices=prices), lists.model("gpt-9"))
    new, kept = parse_list(document, AT, book)
    assert [(each.provider, each.model, each.reason, each.price) for each in kept] == [
        ("openai", "gpt-4o", "moved", key)
    ]
    assert new.cost("openai", metered("gpt-4o"), AT) == book.cost("openai", metered("gpt-4o"), AT)
    assert total(new, "openai", metered("gpt-9")) == Decimal("12.5")


@pytest.mark.parametrize(("price", "usd"), [(12.5, "22.5"), (0.5, "10.5")])
def test_a_price_that_moved_five_times_is_taken(book: PriceBook, price: float, usd: str) -> None:
    prices = {"input_mtok": price, "output_mtok": 10, "cache_read_mtok": 1.25}
    new, kept = parse_list(lists.openai(lists.model("gpt-4o", prices=prices)), AT, book)
    assert kept == []
    assert total(new, "openai", metered("gpt-4o")) == Decimal(usd)


def test_a_held_price_says_what_it_was_and_what_was_offered(book: PriceBook) -> None:
    (one,) = held(lists.openai(lists.model("gpt-4o", prices={"input_mtok": 250, "output_mtok": 10})), book)
    assert (one.was_usd, one.offered_usd) == (Decimal("2.5"), Decimal(250))


def test_last_good_may_be_a_fetched_one(book: PriceBook) -> None:
    first = fetched(lists.openai(lists.model("gpt-9", prices={"input_mtok": 1, "output_mtok": 2})), book)
    later = AT + timedelta(hours=6)
    poison = lists.openai(lists.model("gpt-9", prices={"input_mtok": 100, "output_mtok": 2}), lists.model("gpt-10"))
    second, kept = parse_list(poison, later, first)
    assert [each.model for each in kept] == ["gpt-9"]
    cost = second.cost("openai", metered("gpt-9"), AT)
    assert cost is not None
    assert (cost.total_usd, cost.source) == (Decimal(3), "genai-prices remote 2026-11-20T08:00:00Z")
    third, kept = parse_list(poison, later, second)
    assert [each.model for each in kept] == ["gpt-9"]
    assert total(third, "openai", metered("gpt-9")) == Decimal(3)


def test_five_times_and_five_times_again_is_held_against_the_bundled_list(book: PriceBook) -> None:
    first = fetched(
        lists.openai(lists.model("gpt-4o", prices={"input_mtok": 10, "output_mtok": 40, "cache_read_mtok": 5})), book
    )
    assert total(first, "openai", metered("gpt-4o")) == Decimal(50)
    second, kept = parse_list(
        lists.openai(lists.model("gpt-4o", prices={"input_mtok": 40, "output_mtok": 160, "cache_read_mtok": 20})),
        AT,
        first,
    )
    assert [each.model for each in kept] == ["gpt-4o"]
    assert total(second, "openai", metered("gpt-4o")) == Decimal("12.5")


@pytest.mark.parametrize(
    "match",
    [
        {"equals": "gpt-4o-2024-08-06"},
        {"starts_with": "gpt-4o"},
        {"contains": "o-2024-08"},
        {"regex": "^gpt-4o-20.*$"},
        {"or": [{"equals": "x"}, {"ends_with": "08-06"}]},
    ],
)
def test_a_name_cannot_be_claimed_under_another_id(book: PriceBook, match: object) -> None:
    cheap = lists.model("bargain", match=match, prices={"input_mtok": 0.0001, "output_mtok": 0.0001})
    new = fetched(lists.openai(cheap, lists.model("gpt-9")), book)
    assert total(new, "openai", metered("gpt-4o-2024-08-06")) == Decimal("12.5")


def test_a_claim_to_a_bundled_model_s_name_is_shown(book: PriceBook) -> None:
    cheap = lists.model("bargain", match={"starts_with": "gpt-4o"}, prices={"input_mtok": 0.1, "output_mtok": 0.1})
    shown = {(each.provider, each.model, each.reason) for each in held(lists.openai(cheap), book)}
    assert ("openai", "gpt-4o", "moved") in shown


@pytest.mark.parametrize(
    "more",
    [
        {
            "prices": [
                {"prices": {"input_mtok": 2.5, "output_mtok": 10, "cache_read_mtok": 1.25}},
                {"constraint": {"start_date": "2026-11-21"}, "prices": {"input_mtok": 0.01, "output_mtok": 10}},
            ]
        },
        {
            "prices": {"input_mtok": 2.5, "output_mtok": 10, "cache_read_mtok": 1.25},
            "price_variants": [{"when": {"service_tier": "default"}, "prices": {"output_mtok": 0.01}}],
        },
        {
            "prices": {
                "input_mtok": {"base": 2.5, "tiers": [{"start": 10, "price": 0.01}]},
                "output_mtok": 10,
                "cache_read_mtok": 1.25,
            }
        },
        {
            "prices": [
                {"prices": {"input_mtok": 2.5, "output_mtok": 10, "cache_read_mtok": 1.25}},
                {
                    "constraint": {"start_time": "16:30:00Z", "end_time": "00:30:00Z"},
                    "prices": {"input_mtok": 2.5, "output_mtok": 0.0},
                },
            ]
        },
    ],
    ids=["tomorrow", "tier", "long-prompt", "at-night"],
)
def test_a_price_that_moves_later_or_elsewhere_is_held_now(book: PriceBook, more: dict[str, object]) -> None:
    assert [each.model for each in held(lists.openai({**lists.model("gpt-4o"), **more}), book)] == ["gpt-4o"]


def test_service_tiers_stay_where_a_list_has_none(book: PriceBook) -> None:
    plain = {"input_mtok": 1.25, "cache_read_mtok": 0.125, "output_mtok": 10, "web_searches_kcount": 10}
    new = fetched(lists.openai(lists.model("gpt-5", prices=plain)), book)
    assert total(new, "openai", metered("gpt-5", service_tier="flex")) == Decimal("5.625")
    moved = fetched(lists.openai(lists.model("gpt-5", prices=plain | {"output_mtok": 12})), book)
    assert total(moved, "openai", metered("gpt-5")) == Decimal("13.25")
    assert total(moved, "openai", metered("gpt-5", service_tier="flex")) is None


def test_llm_prices_are_laid_over_the_bundled_list(book: PriceBook) -> None:
    document = lists.llm_prices(
        ("anthropic", "claude-haiku-4-5", 1, 6, 0.1),
        ("google", "gemini-2.5-pro", 1.5, 10, None),
        ("xai", "grok-99", 1, 2, None),
    )
    new, kept = parse_list(document, AT, book)
    assert kept == []
    cost = new.cost("anthropic", metered("claude-haiku-4-5"), AT)
    assert cost is not None
    assert (cost.total_usd, cost.source) == (Decimal(7), "llm-prices remote 2026-11-20T08:00:00Z")
    writes = Usage(1_000_000, 0, 0, 1_000_000, 0, web_searches=1)
    assert total(new, "anthropic", metered("claude-haiku-4-5", writes)) == Decimal("1.26")
    assert total(new, "anthropic", metered("claude-haiku-4-5-20251001")) == Decimal(6)
    assert total(new, "gemini", metered("gemini-2.5-pro", Usage(100_000, 0))) == Decimal("0.15")
    assert total(new, "gemini", metered("gemini-2.5-pro", Usage(300_000, 0))) == Decimal("0.75")
    assert total(new, "xai", metered("grok-99")) == Decimal(3)


def test_llm_prices_that_move_too_far_are_held(book: PriceBook) -> None:
    new, kept = parse_list(
        lists.llm_prices(("openai", "gpt-4o", 250, 10, None), ("openai", "gpt-9", 1, 1, None)), AT, book
    )
    assert [(each.provider, each.model, each.price) for each in kept] == [("openai", "gpt-4o", "input_mtok")]
    assert total(new, "openai", metered("gpt-4o")) == Decimal("12.5")
    assert total(new, "openai", metered("gpt-9")) == Decimal(2)


def test_a_skipped_model_keeps_what_an_earlier_list_said(book: PriceBook) -> None:
    first = fetched(lists.openai(lists.model("gpt-9", prices={"input_mtok": 1, "output_mtok": 2})), book)
    broken = lists.openai(lists.model("gpt-9", prices={"input_mtok": -1, "output_mtok": 2}), lists.model("gpt-10"))
    second, kept = parse_list(broken, AT + timedelta(hours=6), first)
    assert [(each.model, each.reason) for each in kept] == [("gpt-9", "malformed")]
    assert total(second, "openai", metered("gpt-9")) == Decimal(3)


def test_a_refused_list_changes_nothing(book: PriceBook) -> None:
    before = book.cost("openai", metered("gpt-4o"), AT)
    with pytest.raises(PriceListRefused):
        parse_list(b"<html>", AT, book)
    assert book.cost("openai", metered("gpt-4o"), AT) == before


def test_aliases_are_one_object_of_names() -> None:
    assert read_aliases(b'{"my-deployment": "gpt-4o", "b": "c"}') == {"my-deployment": "gpt-4o", "b": "c"}
    assert read_aliases(b"{}") == {}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"a": null}',
        b'{"": "gpt-4o"}',
        b'{"a": ""}',
        json.dumps({"a" * 201: "b"}).encode(),
        json.dumps({str(n): "b" for n in range(10_001)}).encode(),
        b"[" * 100_000,
    ],
    ids=range(11),
)
def test_an_alias_file_that_is_not_gives_one_line_that_names_it(document: bytes) -> None:
    with pytest.raises(SettingError, match="^PRICING_ALIASES_FILE [^\n]*$"):
        read_aliases(document)


def test_recorded_usage_of_known_models_has_a_price(book: PriceBook, dialect_corpus: list[Recording]) -> None:
    """An order-of-magnitude check on real traffic: a cent or less per thousand tokens and never nothing."""
    seen = 0
    for recording in dialect_corpus:
        truth = recording.truth
        counts = [truth["input_tokens_total"], truth["output_tokens"], truth["cached_tokens"]]
        if not truth["strict"] or not truth["model"] or not all(isinstance(each, int) for each in counts[:2]):
            continue
        given, made, cached = (int(str(each)) if each is not None else None for each in counts)
        usage = Usage(given, made, cached)
        cost = book.cost(recording.provider, metered(str(truth["model"]), usage), AT)
        if cost is None or not usage.input_tokens:
            continue
        seen += 1
        tokens = usage.input_tokens + (usage.output_tokens or 0)
        assert 0 < cost.total_usd <= tokens * Decimal("0.001"), recording.id
    assert seen > 50
