"""Figures as the dashboard writes them: digits that mean something, unknown as a dash, never a 0."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.butler.pages import numbers

N = numbers.NBSP
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("0", "$0"),
        ("0.0031", "$0.0031"),
        ("0.003149", "$0.0031"),
        ("0.0999", "$0.10"),
        ("0.42", "$0.42"),
        ("12.4", "$12.40"),
        ("999.994", "$999.99"),
        ("1204.31", "$1,204"),
        ("1234567.9", "$1,234,568"),
        ("0.000000000001", "<$0.000001"),
        ("-0.5", "\u2212$0.50"),
    ],
)
def test_money_has_the_digits_that_mean_something(usd: str, text: str) -> None:
    assert numbers.cost(Decimal(usd)).text == text


def test_every_digit_of_money_is_a_hover_away() -> None:
    assert numbers.cost(Decimal("0.003125000000")).full == "$0.003125 USD"
    assert numbers.exact(Decimal("1E-12")).text == "$0.000000000001 USD"
    assert numbers.exact(Decimal("1200")).text == "$1,200 USD"
    assert numbers.exact(Decimal("0.000")).text == "$0 USD"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, f"10.0{N}k"),
        (999_999, f"1.0{N}M"),
        (1_204_331, f"1.2{N}M"),
        (123_456_789, f"123{N}M"),
        (999_600_000, f"1.0{N}B"),
    ],
)
def test_tokens_are_short_with_the_full_figure_on_hover(number: int, text: str) -> None:
    assert numbers.tokens(number) == numbers.Figure(text, f"{number:,}")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, f"0{N}ms"),
        (0.25, f"0.25{N}ms"),
        (842, f"842{N}ms"),
        (9_999, f"9,999{N}ms"),
        (12_400, f"12.4{N}s"),
        (125_000, f"2{N}min{N}5{N}s"),
    ],
)
def test_latency_is_in_ms_under_ten_seconds(ms: float, text: str) -> None:
    assert numbers.latency(ms).text == text


def test_unknown_is_a_dash_that_says_so_and_never_zero() -> None:
    kinds = (numbers.cost, numbers.exact, numbers.tokens, numbers.count, numbers.latency)
    for shown in [kind(None) for kind in kinds] + [numbers.share(1, 0), numbers.share(None, 2)]:
        assert (shown.text, shown.full, shown.known) == (numbers.DASH, "unknown", False)


@given(st.integers(0, 10**15))
def test_a_short_number_is_never_long(number: int) -> None:
    assert len(numbers.short(number)) <= 7


def test_a_change_says_which_way_and_whether_that_is_good() -> None:
    assert numbers.change(110, 100) == numbers.Change(f"10{N}%", "up", "plain")
    assert numbers.change(150, 100, more_is="bad") == numbers.Change(f"50{N}%", "up", "bad")
    assert numbers.change(50, 100, more_is="bad") == numbers.Change(f"50{N}%", "down", "good")
    assert numbers.change(50, 100, more_is="good") == numbers.Change(f"50{N}%", "down", "bad")
    assert numbers.change(100.1, 100) == numbers.Change("no change", "same")
    assert numbers.change(5, 0) == numbers.Change("new", "new")
    assert numbers.change(10**9, 1) == numbers.Change(f">999{N}%", "up", "plain")


def test_nothing_is_compared_with_nothing() -> None:
    assert numbers.change(0, 0) is None and numbers.change(None, 3) is None and numbers.change(3, None) is None


@pytest.mark.parametrize(
    ("passed", "text"),
    [(0.4, "just now"), (12, f"12{N}s ago"), (300, f"5{N}min ago"), (11_000, f"3{N}h ago"), (10**6, f"11{N}days ago")],
)
def test_a_moment_past_is_told_in_its_largest_unit(passed: float, text: str) -> None:
    assert numbers.ago(NOW - timedelta(seconds=passed), NOW).text == text


def test_a_moment_says_its_zone_and_a_clock_ahead_is_now() -> None:
    assert numbers.ago(NOW, NOW).full == "2026-03-01 12:00:00 UTC"
    assert numbers.ago(NOW + timedelta(minutes=5), NOW).text == "just now"
    assert numbers.ago(None, NOW).text == "never"


def test_shares_of_a_whole() -> None:
    assert numbers.share(1, 3).text == f"33.3{N}%"
    assert numbers.share(3, 3).text == f"100{N}%"
    assert numbers.share(1, 100_000).text == f"<0.1{N}%"


def test_what_a_million_tokens_cost_on_average() -> None:
    assert numbers.per_million(Decimal("0.003"), 1000).text == "$3.00"
    assert not numbers.per_million(None, 5).known and not numbers.per_million(Decimal(1), 0).known
