"""Single values of a stranger's JSON: in their domain, or unknown."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.exchange import Usage
from steward.providers.reading import (
    at_most,
    count,
    counted,
    dollars,
    known,
    listed,
    mapping,
    model_name,
    summed,
    word,
)

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


@pytest.mark.parametrize(("value", "number"), [(0, 0), (7, 7), (10**9, 10**9), (12.0, 12), (-0.0, 0), (1e9, 10**9)])
def test_counts(value: object, number: int) -> None:
    found = count(value)
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    [-1, 10**9 + 1, 2**63, 2**64, 1e300, math.inf, -math.inf, math.nan, 1.5, True, False, "12", None, [], {}, [5]],
)
def test_what_is_no_count_is_unknown(value: object) -> None:
    assert count(value) is None


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (0, "0"),
        (0.1, "0.1"),
        (1.6e-07, "1.6E-7"),
        (0.00435825, "0.00435825"),
        (10_000, "10000"),
        (3.36e-05, "0.0000336"),
    ],
)
def test_dollars_are_as_they_were_written(value: object, amount: str) -> None:
    assert dollars(value) == Decimal(amount)


@pytest.mark.parametrize("value", [-0.01, 10_000.01, 1e999, math.nan, True, "0.1", None, {}, 10**400])
def test_what_is_no_price_is_unknown(value: object) -> None:
    assert dollars(value) is None


@given(ANYTHING)
def test_no_value_leaves_its_domain(value: object) -> None:
    number, amount, text, name = count(value), dollars(value), word(value), model_name(value)
    assert number is None or 0 <= number <= 10**9
    assert amount is None or 0 <= amount <= 10_000
    assert text is None or (0 < len(text) <= 40 and text.isascii())
    assert name is None or 0 < len(name.encode()) <= 1024


def test_words_and_names() -> None:
    assert word("on_demand-2") == "on_demand-2"
    assert [word(value) for value in ("", "two words", "a" * 41, "caf\u00e9", "x\n", 5, None)] == [None] * 7
    assert model_name("org/modèle:2") == "org/modèle:2"
    assert model_name("a\ud800b") == "a?b"
    assert [model_name(value) for value in ("", None, 5, "m" * 257)] == [None] * 4


def test_the_first_count_of_several_names() -> None:
    assert counted({"b": 2, "c": 3}, "a", "b", "c") == 2
    assert counted({"a": -1, "b": 2}, "a", "b") == 2
    assert counted({"a": "x"}, "a") is None


def test_a_sum_with_a_bad_part_is_unknown() -> None:
    assert summed({"a": 1, "b": 2}, "a", "b", "missing") == 3
    assert summed({"a": 1, "b": None}, "a", "b") == 1
    assert summed({"a": 1, "b": -1}, "a", "b") is None
    assert summed({"a": 10**9, "b": 1}, "a", "b") is None
    assert summed({}, "a") is None


def test_parts_are_never_more_than_the_whole() -> None:
    assert [at_most(5, 3), at_most(2, 3), at_most(5, None), at_most(None, 3)] == [3, 2, 5, None]


def test_shapes() -> None:
    assert [mapping({"a": 1}), mapping([1]), mapping(None)] == [{"a": 1}, {}, {}]
    assert [listed([1]), listed({"a": 1}), listed(None)] == [[1], [], []]
    assert known(Usage()) is None
    assert known(Usage(output_tokens=0)) == Usage(output_tokens=0)
