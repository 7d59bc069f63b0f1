"""The sums are genai-prices' own wherever it can be asked, and unknown where a count or a price is."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Provider
from hypothesis import given, settings
from hypothesis import strategies as st

from steward.exchange import MAX_TOKENS, Usage
from steward.pricebook import Listing
from steward.rates import Charge, Price, Rates

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
OURS = [each for each in providers if each.id in ("openai", "anthropic", "google")]


def rates(**prices: str | tuple[tuple[int, str], ...]) -> Rates:
    """Rates by their short names."""
    compiled: dict[str, Price] = {}
    for name, price in prices.items():
        key = name if name.endswith("kcount") else f"{name}_mtok"
        compiled[key] = Decimal(price) if isinstance(price, str) else tuple((start, Decimal(p)) for start, p in price)
    return Rates(compiled)


PLAIN = rates(input="2", output="8", cache_read="1", cache_write="3", cache_write_1h="4")


def priced(model: ModelInfo) -> bool:
    """Whether our sums and theirs are of the same things: text with its cache, billed by the token."""
    keys = {key for key, price in model.get_prices(AT).__dict__.items() if price is not None}
    told_apart = {"output_image_mtok", "output_video_mtok", "requests_kcount"}
    return {"input_mtok", "output_mtok"} <= keys and not keys & told_apart


MODELS = [(each, model) for each in OURS for model in each.models if model.prices and priced(model)]


@settings(deadline=None)
@given(
    st.sampled_from(MODELS),
    st.integers(0, 400_000),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
)
def test_the_sum_is_genai_prices_own(
    chosen: tuple[Provider, ModelInfo], text: int, cached: int, written: int, hour: int, output: int
) -> None:
    seller, model = chosen
    prices = model.get_prices(AT).__dict__
    written = written if "cache_write_mtok" in prices else 0
    hour = min(hour, written) if "cache_write_1h_mtok" in prices else 0
    total = text + cached + written
    theirs = model.calc_price(
        TheirUsage(
            input_tokens=total,
            output_tokens=output,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
        ),
        seller,
        genai_request_timestamp=AT,
    )
    ours = Listing(model, "", seller.id).rates(AT, None)
    assert ours is not None
    charge = ours.charge(Usage(total, output, cached, written, hour), complete=True)
    assert charge == Charge(theirs.input_price, theirs.output_price)


def test_most_models_of_the_release_are_compared() -> None:
    assert len(MODELS) > 150


def test_audio_is_billed_as_genai_prices_does() -> None:
    seller = next(each for each in OURS if each.id == "openai")
    model = seller.find_model("gpt-4o-audio-preview")
    assert model is not None
    theirs = model.calc_price(
        TheirUsage(input_tokens=1000, input_audio_tokens=300, output_tokens=500, output_audio_tokens=400),
        seller,
        genai_request_timestamp=AT,
    )
    ours = Listing(model, "", seller.id).rates(AT, "default")
    assert ours is not None
    usage = Usage(1000, 500, input_audio_tokens=300, output_audio_tokens=400)
    assert ours.charge(usage, complete=True) == Charge(theirs.input_price, theirs.output_price)


def test_each_kind_of_input_has_its_price() -> None:
    usage = Usage(1_000_000, 1_000_000, 300_000, 200_000, 50_000)
    charge = PLAIN.charge(usage, complete=True)
    assert charge == Charge(Decimal("0.5") * 2 + Decimal("0.3") + Decimal("0.15") * 3 + Decimal("0.05") * 4, Decimal(8))


@pytest.mark.parametrize(
    ("usage", "input_usd"),
    [
        (Usage(7, 0, cached_tokens=163), "0.000007"),
        (Usage(2168, 0, 2161, 2161), "0.002182"),
        (Usage(10, 0, None, 20, 30), "0.00004"),
        (Usage(10, 0, -5, -5, -5), "0.00002"),
    ],
)
def test_parts_that_exceed_the_whole_are_cut_to_it(usage: Usage, input_usd: str) -> None:
    charge = PLAIN.charge(usage, complete=True)
    assert charge is not None
    assert charge.input_usd == Decimal(input_usd)


def test_cached_tokens_without_a_price_of_their_own_are_input() -> None:
    charge = rates(input="2", output="8").charge(Usage(100, 0, cached_tokens=50), complete=True)
    assert charge == Charge(Decimal("0.0002"), Decimal(0))


@pytest.mark.parametrize("usage", [Usage(100, 0, 0, 50), Usage(100, 0, 0, 50, 50)])
def test_written_tokens_without_a_price_make_the_sum_unknown(usage: Usage) -> None:
    assert rates(input="2", output="8").charge(usage, complete=True) is None


def test_crossing_a_step_moves_every_token() -> None:
    stepped = rates(input=((200_000, "4"), (-1, "2")), output=((200_000, "12"), (-1, "10")))
    assert stepped.charge(Usage(200_000, 1000), complete=True) == Charge(Decimal("0.4"), Decimal("0.01"))
    assert stepped.charge(Usage(200_001, 1000), complete=True) == Charge(Decimal("0.800004"), Decimal("0.012"))


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(None, 5),
        Usage(-1, 5),
        Usage(5, -1),
        Usage(MAX_TOKENS + 1, 5),
        Usage(5, MAX_TOKENS + 1),
        Usage(2**63, 2**63),
    ],
)
def test_a_count_outside_its_domain_makes_the_sum_unknown(usage: Usage) -> None:
    assert PLAIN.charge(usage, complete=True) is None


def test_output_that_is_not_mentioned_is_none_only_in_a_whole_answer() -> None:
    assert PLAIN.charge(Usage(10, None), complete=True) == Charge(Decimal("0.00002"), Decimal(0))
    assert PLAIN.charge(Usage(10, None), complete=False) is None
    assert rates(input="2").charge(Usage(10, None), complete=False) == Charge(Decimal("0.00002"), Decimal(0))


def test_output_without_a_price_makes_the_sum_unknown() -> None:
    assert rates(input="2").charge(Usage(10, 1), complete=True) is None


def test_no_price_for_tokens_is_no_price() -> None:
    assert rates(requests_kcount="5").charge(Usage(0, 0), complete=True) is None
    assert Rates({}).charge(Usage(0, 0), complete=True) is None


def test_images_are_told_apart_or_unknown() -> None:
    drawing = rates(input="1", output="3", output_image="30", input_image="2")
    assert drawing.charge(Usage(10, 1000), complete=True) is None
    charge = drawing.charge(Usage(10, 1000, input_image_tokens=5, output_image_tokens=900), complete=True)
    assert charge == Charge(Decimal("0.000015"), Decimal("0.0273"))
    assert drawing.charge(Usage(10, 0), complete=True) == Charge(Decimal("0.00001"), Decimal(0))


def test_a_film_is_unknown() -> None:
    assert rates(input="1", output="3", output_video="30").charge(Usage(10, 1000), complete=True) is None


def test_fees_are_counted_by_the_thousand() -> None:
    assert rates(input="1", web_searches_kcount="10").searches(3) == Decimal("0.03")
    assert rates(input="1").searches(3) is None
    charge = rates(input="1", requests_kcount="5").charge(Usage(0, 0), complete=True)
    assert charge == Charge(Decimal(0), Decimal(0), Decimal("0.005"))


counts = st.none() | st.integers(-(2**70), 2**70)


@settings(deadline=None)
@given(st.builds(Usage, *[counts] * 12), st.booleans())
def test_whatever_is_counted_nothing_is_raised_and_nothing_is_negative(usage: Usage, complete: bool) -> None:
    audio = rates(input="1", output="3", input_audio="9", cache_audio_read="2", output_audio="20", cache_read="0.1")
    for each in (PLAIN, audio):
        charge = each.charge(usage, complete)
        assert charge is None or (charge.input_usd >= 0 and charge.output_usd >= 0)
