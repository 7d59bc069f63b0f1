"""A list's words for names mean what genai-prices means by them; what is hostile is unfit, and never runs on `re`."""

from __future__ import annotations

import time

import pytest
from genai_prices.data import providers
from genai_prices.types import ClauseRegex
from hypothesis import given, settings
from hypothesis import strategies as st

from steward.errors import PriceListRefused
from steward.pricenames import MAX_CLAUSE_DEPTH, MAX_CLAUSES, MAX_PATTERNS, Clauses, Unfit


def matches(raw: object, name: str) -> bool:
    return Clauses().read(raw).is_match(name)


@pytest.mark.parametrize(
    ("raw", "yes", "no"),
    [
        ({"equals": "gpt-4o"}, "gpt-4o", "gpt-4o-mini"),
        ({"starts_with": "gpt-4o"}, "gpt-4o-mini", "my-gpt-4o"),
        ({"ends_with": "-mini"}, "gpt-4o-mini", "gpt-4o-minimal"),
        ({"contains": "4o"}, "gpt-4o-mini", "gpt-5"),
        ({"regex": "^gpt-[45]$"}, "gpt-4", "gpt-6"),
        ({"or": [{"equals": "a"}, {"equals": "b"}]}, "b", "c"),
        ({"and": [{"starts_with": "a"}, {"ends_with": "z"}]}, "abz", "ab"),
        ({"or": [{"and": [{"contains": "x"}, {"regex": "[0-9]"}]}]}, "x1", "xy"),
        ({"regex": "^(?!.*-tts(?:$|-))gemini"}, "gemini-2.5-pro", "gemini-2.5-tts-pro"),
        ({"regex": "^(?![^)/]+/)(?:labs-)?mistral"}, "labs-mistral", "vendor/mistral"),
    ],
)
def test_each_clause_says_what_it_says(raw: object, yes: str, no: str) -> None:
    assert matches(raw, yes)
    assert not matches(raw, no)


def _patterns(clause: object) -> list[str]:
    if isinstance(clause, ClauseRegex):
        return [clause.regex]
    within = getattr(clause, "or_", None) or getattr(clause, "and_", None) or ()
    return [pattern for each in within for pattern in _patterns(each)]


PUBLISHED = sorted(
    {
        pattern
        for provider in providers
        for clause in (provider.model_match, *(model.match for model in provider.models))
        for pattern in _patterns(clause)
    }
)
NAMES = sorted({model.id.lower() for provider in providers for model in provider.models if model.id.isascii()})


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_every_published_pattern_runs_on_re2_and_means_the_same(pattern: str) -> None:
    read = Clauses().read({"regex": pattern})
    theirs = ClauseRegex(pattern)
    assert not [name for name in NAMES if read.is_match(name) != theirs.is_match(name)]


def test_patterns_are_published_at_all() -> None:
    assert any(pattern.startswith("^(?!") for pattern in PUBLISHED)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        [],
        "gpt",
        {"equals": ""},
        {"equals": 1},
        {"equals": "x" * 201},
        {"equals": "ü"},
        {"equals": "a", "contains": "b"},
        {"glob": "*"},
        {"or": "a"},
        {"or": {}},
        {"and": []},
        {"or": [None]},
    ],
)
def test_what_is_no_clause_is_unfit(raw: object) -> None:
    with pytest.raises(Unfit) as unfit:
        Clauses().read(raw)
    assert unfit.value.reason == "malformed"


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        None,
        7,
        "(",
        "a" * 201,
        "a(?=b)",
        "x(?!y)",
        "(?<=a)b",
        r"(a)\1",
        "^(?!",
        "^(?!(a",
        "^(?!a)b(?!c)",
        "(((a{100}){100}){100}){100}",
        "\ud800",
    ],
)
def test_a_pattern_that_re2_does_not_take_is_unfit(pattern: object) -> None:
    with pytest.raises(Unfit) as unfit:
        Clauses().read({"regex": pattern})
    assert unfit.value.reason == "pattern"


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(.*a){20}$", "^(?!(a+)+$)b"])
def test_a_pattern_that_would_take_years_takes_no_time(pattern: str) -> None:
    clause = Clauses().read({"regex": pattern})
    began = time.process_time()
    clause.is_match("a" * 200 + "!")
    assert time.process_time() - began < 1


def test_depth_is_bounded() -> None:
    deep: object = {"equals": "a"}
    for _ in range(MAX_CLAUSE_DEPTH):
        deep = {"or": [deep]}
    assert matches(deep, "a")
    with pytest.raises(Unfit):
        Clauses().read({"or": [deep]})


def test_a_list_s_clauses_and_patterns_are_counted() -> None:
    with pytest.raises(PriceListRefused):
        Clauses().read({"or": [{"equals": "a"}] * MAX_CLAUSES})
    many = Clauses()
    for _ in range(MAX_PATTERNS):
        many.read({"regex": "a"})
    with pytest.raises(PriceListRefused):
        many.read({"regex": "a"})


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["or", "and", "equals", "regex", "contains", "x"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(json, st.text(max_size=10))
def test_whatever_is_given_it_is_a_clause_or_unfit(raw: object, name: str) -> None:
    try:
        clause = Clauses().read(raw)
    except Unfit:
        return
    assert clause.is_match(name.encode("ascii", "ignore").decode()) in (True, False)
