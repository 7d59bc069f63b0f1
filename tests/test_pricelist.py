"""Documents are read whole or refused; one entry that is not acceptable is skipped, named, and harms no other."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.types import ClauseEquals, ModelPrice, Tier, TieredPrices
from hypothesis import given, settings
from hypothesis import strategies as st

from steward.errors import PriceListRefused
from steward.pricebook import MAX_LIST_BYTES
from steward.pricelist import MAX_ELEMENTS, MAX_MODELS, MAX_PROVIDERS, read_document
from tests.servers import price_lists as lists

AT = datetime(2026, 11, 20, tzinfo=UTC)


def test_genai_prices_shape() -> None:
    document = lists.genai(
        lists.provider(
            "google",
            lists.model(
                "gemini",
                match={"or": [{"equals": "gemini"}, {"regex": "^gemini-[0-9]$"}]},
                prices=[
                    {"prices": {"input_mtok": 1, "output_mtok": 2.5, "unheard_of": 3}},
                    {
                        "constraint": {"start_date": "2026-03-13"},
                        "prices": {"input_mtok": {"base": 1.25, "tiers": [{"start": 200000, "price": 2.5}]}},
                    },
                    {
                        "constraint": {"start_time": "16:30:00Z", "end_time": "00:30:00Z"},
                        "prices": {"input_mtok": 0.5, "output_mtok": None},
                    },
                ],
                price_variants=[{"when": {"service_tier": "flex"}, "prices": {"input_mtok": 0.5}}],
                description="words that nobody reads",
            ),
            model_match={"contains": "gem"},
            fallback_model_providers=["anthropic"],
            extractors=[{"root": "usage"}],
        )
    )
    read = read_document(document)
    (google,) = read.providers
    (gemini,) = google.models
    assert (read.kind, read.skipped) == ("genai-prices", [])
    assert (google.id, google.fallback_model_providers) == ("google", ["anthropic"])
    assert google.model_match is not None
    assert google.model_match.is_match("gemini-2")
    assert gemini.is_match("gemini-2")
    assert gemini.get_prices(datetime(2026, 1, 1, 12, tzinfo=UTC)) == ModelPrice(
        input_mtok=Decimal(1), output_mtok=Decimal("2.5")
    )
    stepped = TieredPrices(Decimal("1.25"), [Tier(200000, Decimal("2.5"))])
    assert gemini.get_prices(AT.replace(hour=12)) == ModelPrice(input_mtok=stepped)
    assert gemini.get_prices(AT.replace(hour=17)) == ModelPrice(input_mtok=Decimal("0.5"))
    assert gemini.get_prices(AT.replace(hour=17), {"service_tier": "flex"}).input_mtok == Decimal("0.5")


def test_llm_prices_shape() -> None:
    read = read_document(lists.llm_prices(("openai", "gpt-4o", 2.5, 10, 1.25), ("openai", "o9", 1, 2, None)))
    (openai,) = read.providers
    assert read.kind == "llm-prices"
    assert [model.match for model in openai.models] == [ClauseEquals("gpt-4o"), ClauseEquals("o9")]
    assert openai.models[0].prices == ModelPrice(
        input_mtok=Decimal("2.5"), output_mtok=Decimal(10), cache_read_mtok=Decimal("1.25")
    )
    assert openai.models[1].prices == ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2))


def test_prices_are_exact() -> None:
    (openai,) = read_document(lists.openai(lists.model("a", prices={"input_mtok": 0.1, "output_mtok": 0.3}))).providers
    assert openai.models[0].prices == ModelPrice(input_mtok=Decimal("0.1"), output_mtok=Decimal("0.3"))


GOOD = lists.model("good")


@pytest.mark.parametrize(
    "bad",
    [
        lists.model("bad", prices={"input_mtok": -1}),
        lists.model("bad", prices={"input_mtok": "1"}),
        lists.model("bad", prices={"input_mtok": True}),
        lists.model("bad", prices={"input_mtok": [1]}),
        lists.model("bad", prices={"input_mtok": 1e9}),
        lists.model("bad", prices={"input_mtok": 10**30}),
        lists.model("bad", prices={"input_mtok": 1e-300}),
        lists.model("bad", prices={"web_searches_kcount": 10_001}),
        lists.model("bad", prices={"input_mtok": {"base": 1, "tiers": [{"start": -1, "price": 1}]}}),
        lists.model("bad", prices={"input_mtok": {"base": 1, "tiers": [{"start": 1.5, "price": 1}]}}),
        lists.model("bad", prices={"input_mtok": {"base": 1, "tiers": [{"start": 1, "price": 1}] * 65}}),
        lists.model("bad", prices={"input_mtok": {"base": -1, "tiers": []}}),
        lists.model("bad", prices={"input_mtok": {"tiers": []}}),
        lists.model("bad", prices=[]),
        lists.model("bad", prices="free"),
        lists.model("bad", prices=[{"prices": {}}] * 65),
        lists.model("bad", prices=[{"constraint": {"start_date": "soon"}, "prices": {}}]),
        lists.model("bad", prices=[{"constraint": {"moon": "full"}, "prices": {}}]),
        lists.model("bad", prices=[{"constraint": {"start_time": "x", "end_time": "y"}, "prices": {}}]),
        lists.model("bad", price_variants=[{"when": {}, "prices": {}}]),
        lists.model("bad", price_variants=[{"when": {"a": 1}, "prices": {}}]),
        lists.model("bad", price_variants=[{"when": {"a": "b"}, "prices": {"input_mtok": -1}}]),
        lists.model("bad", match={"equals": ""}),
        lists.model("bad", match="bad"),
        {"id": "bad"},
    ],
    ids=range(25),
)
def test_a_model_that_is_not_acceptable_is_skipped_alone(bad: object) -> None:
    read = read_document(lists.openai(bad, GOOD))
    assert [model.id for model in read.providers[0].models] == ["good"]
    assert [(each.provider, each.model, each.reason) for each in read.skipped] == [("openai", "bad", "malformed")]


def test_a_model_with_an_unfit_pattern_is_skipped_for_that() -> None:
    read = read_document(lists.openai(lists.model("bad", match={"regex": "(a)\\1"}), GOOD))
    assert [(each.model, each.reason) for each in read.skipped] == [("bad", "pattern")]


@pytest.mark.parametrize("raw", [None, 1, [], "x", {"id": 7}, {"id": "x" * 300}, {"id": "canary words\n<b>"}])
def test_an_id_that_is_no_name_is_not_repeated(raw: object) -> None:
    read = read_document(lists.genai(raw, lists.provider("openai", raw, GOOD)))
    assert {(each.provider, each.model) for each in read.skipped} <= {("other", "other"), ("openai", "other")}
    assert read.skipped


def test_a_provider_without_a_usable_claim_to_names_keeps_its_models() -> None:
    read = read_document(lists.genai(lists.provider("openai", GOOD, model_match={"regex": "("})))
    assert read.providers[0].model_match is None
    assert len(read.providers[0].models) == 1
    assert [each.reason for each in read.skipped] == ["pattern"]


@pytest.mark.parametrize(
    "row",
    [
        ("openai", "bad", -1, 1, None),
        ("openai", "bad", None, 1, None),
        ("openai", "bad", "1", 1, None),
        ("openai", "bad", 1, 1, -1),
    ],
)
def test_a_row_of_llm_prices_that_is_not_acceptable_is_skipped_alone(
    row: tuple[str, str, object, object, object],
) -> None:
    read = read_document(lists.llm_prices(row, ("openai", "good", 1, 1, None)))
    assert [model.id for model in read.providers[0].models] == ["good"]
    assert [(each.provider, each.model) for each in read.skipped] == [("openai", "bad")]


def huge(count: int, entry: bytes) -> bytes:
    return b"[" + b",".join([entry] * count) + b"]"


REFUSED = {
    "nothing": b"",
    "html": b"<!doctype html><html><body>Not found</body></html>",
    "a page in JSON": json.dumps("<html>").encode(),
    "latin-1": b'[{"id": "caf\xe9"}]',
    "half": lists.openai(GOOD)[:-5],
    "NaN": lists.openai(lists.model("a", prices={"input_mtok": float("nan")})),
    "infinity": lists.openai(lists.model("a", prices={"input_mtok": float("inf")})),
    "an exponent": b'[{"id": "openai", "models": [{"id": "a", "prices": {"input_mtok": 1e9999999999999999999}}]}]',
    "digits": b"[" + b"9" * 5000 + b"]",
    "null": b"null",
    "a number": b"1",
    "an object": b'{"a": 1}',
    "prices of another shape": b'{"prices": {"a": 1}}',
    "no provider": b"[]",
    "no models": lists.genai(lists.provider("openai")),
    "nothing acceptable": lists.openai(lists.model("a", prices={"input_mtok": -1})),
    "no prices": b'{"prices": []}',
    "depth": b"[" * 300_000,
    "depth within": b'[{"id": "openai", "models": ' + b"[" * 50_000,
    "objects": b'{"a":' * 100_000,
    "elements": huge(MAX_ELEMENTS + 1, b"1"),
    "providers": huge(MAX_PROVIDERS + 1, json.dumps(lists.provider("a", GOOD)).encode()),
    "models": lists.genai(*(lists.provider(f"p{n}", *[GOOD] * (MAX_MODELS // 4)) for n in range(5))),
    "size": b" " * MAX_LIST_BYTES + lists.openai(GOOD),
}


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_price_list_is_refused(document: bytes) -> None:
    with pytest.raises(PriceListRefused):
        read_document(document)


def test_the_largest_document_stays_in_bounds() -> None:
    """What passes the count of elements cannot fill the memory."""
    entry = b'{"id":"a"}'
    document = huge(MAX_ELEMENTS // 2 - 10, entry)
    tracemalloc.start()
    try:
        with pytest.raises(PriceListRefused):
            read_document(document)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "models", "match", "equals", "prices", "input_mtok", "base", "tiers", "vendor", "input"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(deadline=None)
@given(json_values | st.lists(st.fixed_dictionaries({"id": st.just("openai"), "models": json_values})))
def test_whatever_json_comes_it_is_read_or_refused(value: object) -> None:
    try:
        read = read_document(json.dumps(value).encode())
    except PriceListRefused:
        return
    assert any(provider.models for provider in read.providers)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_refused(document: bytes) -> None:
    with pytest.raises(PriceListRefused):
        read_document(document)
