"""Shapes of charts: ticks are round, stacks add up, gaps stay gaps, and nothing leaves the box."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.butler.pages import svg
from steward.butler.pages.svg import Series

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
_NUMBER = re.compile(r"-?[0-9.]+(?:e-?[0-9]+)?")


def _starts(count: int) -> list[datetime]:
    return [START + index * HOUR for index in range(count)]


@pytest.mark.parametrize(
    ("top", "values"),
    [
        (0, (0, 1)),
        (1, (0, 0.25, 0.5, 0.75, 1)),
        (7, (0, 2, 4, 6, 8)),
        (97, (0, 25, 50, 75, 100)),
        (0.0031, (0, 0.001, 0.002, 0.003, 0.004)),
        (1_204_331, (0, 500_000, 1_000_000, 1_500_000)),
        (float("nan"), (0, 1)),
        (float("inf"), (0, 1)),
        (-3, (0, 1)),
    ],
)
def test_ticks_are_round(top: float, values: tuple[float, ...]) -> None:
    assert svg.ticks(top) == values


@given(st.floats(1e-9, 1e15))
def test_three_to_five_ticks_cover_every_figure(top: float) -> None:
    found = svg.ticks(top)
    assert 3 <= len(found) <= 5 and found[0] == 0 and found[-1] >= top * (1 - 1e-6)


@given(st.lists(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), min_size=8, max_size=8), min_size=1, max_size=8))
def test_every_shape_stays_in_its_box(rows: list[list[float | None]]) -> None:
    series = [Series(f"s{index}", index, tuple(row)) for index, row in enumerate(rows)]
    for chart in (svg.stacked(series, _starts(8), HOUR), svg.lines(series, _starts(8), HOUR)):
        for shape in chart.shapes:
            numbers = [float(each) for each in _NUMBER.findall(shape.path)]
            assert all(-0.1 <= each <= svg.WIDTH + 0.1 for each in numbers)
        assert sum(hit.width for hit in chart.hits) == pytest.approx(svg.WIDTH, abs=0.1)


def test_a_stack_adds_up() -> None:
    chart = svg.stacked([Series("a", 0, (1, 1)), Series("b", 1, (3, 1))], _starts(2), HOUR, height=100)
    lower, upper = chart.shapes
    assert chart.top == 4
    assert lower.path == "M0 75L250 75L750 75L1000 75L1000 100L750 100L250 100L0 100Z"
    assert upper.path == "M0 0L250 0L750 50L1000 50L1000 75L750 75L250 75L0 75Z"


def test_a_name_stands_where_its_band_is_high() -> None:
    values = tuple([1.0] * 10 + [10.0] * 5 + [1.0] * 10)
    thin = tuple([0.01] * 25)
    wide, narrow = svg.stacked([Series("wide", 0, values), Series("thin", 1, thin)], _starts(25), HOUR).shapes
    assert wide.label is not None and 45 <= wide.label[0] <= 55
    assert narrow.label is None


def test_a_line_has_a_gap_where_nothing_is_known_and_its_name_at_its_end() -> None:
    (line,) = svg.lines([Series("p95", 0, (1, None, 1, 1, None))], _starts(5), HOUR, height=100).shapes
    assert line.path == "M100 0h0.1M500 0L700 0"
    assert line.label == (70.0, 0.0)


def test_nothing_is_drawn_of_nothing() -> None:
    chart = svg.stacked([], [], HOUR)
    assert chart.shapes == () and chart.hits == () and chart.times == ()
    assert svg.lines([Series("p50", 0, (None,))], _starts(1), HOUR).shapes[0].path == ""
    assert svg.sparkline([None, 3, None]) == "" and svg.sparkline([0, 0]) == "" and svg.sparkline([]) == ""


def test_a_sparkline_spans_the_width() -> None:
    assert svg.sparkline([1, 2], height=108) == "M250 58L750 8"


@pytest.mark.parametrize(("value", "long"), [(0, 0), (-1, 0), (5, 50), (10, 100), (0.0001, 0.6), (20, 100)])
def test_a_bar_that_is_something_can_be_seen(value: float, long: float) -> None:
    assert svg.share(value, 10) == long
    assert svg.share(value, 0) == 0


@pytest.mark.parametrize(
    ("count", "length", "texts"),
    [
        (48, timedelta(minutes=30), ("06:00", "12:00", "18:00")),
        (60, timedelta(minutes=1), ("00:10", "00:20", "00:30", "00:40", "00:50")),
        (14, timedelta(days=1), ("2 Mar", "7 Mar", "12 Mar")),
    ],
)
def test_the_time_axis_has_round_moments(count: int, length: timedelta, texts: tuple[str, ...]) -> None:
    found = svg.time_ticks([START + index * length for index in range(count)], length)
    assert tuple(each.text for each in found) == texts
    assert all(2 <= each.percent <= 97 for each in found)
