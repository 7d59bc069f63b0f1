"""The overview's sums as figures, charts and bars: by rate, in colours that stay, unknown never as 0."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from steward.butler.pages import filters, numbers, overview
from steward.butler.pages.filters import Span as Chosen
from steward.butler.pages.filters import View
from steward.butler.pages.overview import Compared, Sight
from steward.butler.store_overview import REST
from steward.butler.views import ErrorCount, GroupSums, LatencyPoint, Point, Quantiles, Span, Sums, Totals

NOW = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPAN = Span(datetime(2026, 3, 1, 8, tzinfo=UTC), datetime(2026, 3, 1, 13, tzinfo=UTC), HOUR)


def _sums(calls: int, cost: str = "0", errors: int = 0, **more: int) -> Sums:
    return Sums(calls=calls, cost=Decimal(cost), errors=errors, **more)


def _sight(points: list[Point] | None = None, view: View | None = None, passed: float = 1, **totals: Totals) -> Sight:
    whole = Totals(_sums(100, "10", 5), Quantiles(100, 900, 2000), Quantiles(50, 400, 800))
    both = Compared(totals.get("now", whole), totals.get("before", whole), passed)
    return Sight(view or View(), SPAN, both, points or [], [], {"k1": "checkout"})


def _point(hour: int, group: str, **sums: object) -> Point:
    return Point(SPAN.since + hour * HOUR, group, Sums(**sums))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preset", "step", "steps"),
    [
        ("1h", timedelta(minutes=1), 60),
        ("6h", timedelta(minutes=10), 36),
        ("24h", HOUR, 24),
        ("7d", 3 * HOUR, 56),
        ("30d", 12 * HOUR, 60),
    ],
)
def test_a_range_is_of_whole_steps_up_to_now(preset: str, step: timedelta, steps: int) -> None:
    span = overview.span_of(View(Chosen(preset)), NOW)
    assert span.step == step and span.until >= NOW > span.until - step
    assert steps <= len(overview.steps(span)) + 1 <= steps + 1
    assert span.since.timestamp() % step.total_seconds() == 0


def test_two_moments_are_covered_whole() -> None:
    chosen = Chosen(None, datetime(2026, 2, 1, 0, 30, tzinfo=UTC), datetime(2026, 2, 2, 0, 30, tzinfo=UTC))
    span = overview.span_of(View(chosen), NOW)
    assert (span.since.minute, span.until.hour, span.until.minute) == (0, 1, 0)


def test_the_period_before_is_compared_by_rate() -> None:
    before = Totals(_sums(200, "20", 10), Quantiles(100, 450, 900), Quantiles())
    sight = _sight(passed=0.5, before=before)
    cost, calls, _, delay, errors = overview.cards(sight)
    assert cost.change == numbers.Change("no change", "same") == calls.change
    assert delay.change == numbers.Change(f"100{numbers.NBSP}%", "up", "bad")
    assert errors.value.text == f"5.0{numbers.NBSP}%" and errors.change == numbers.Change("no change", "same")


def test_of_next_to_nothing_before_there_is_no_percentage() -> None:
    """A few calls the day before made every figure of the first real day `>999 %`."""
    before = Totals(_sums(4, "0.01", 1, input_tokens=3), Quantiles(1, 2, 3), Quantiles())
    now = Totals(_sums(101, "10", 5, input_tokens=900), Quantiles(100, 900, 2000), Quantiles())
    cost, calls, tokens, delay, errors = overview.cards(_sight(now=now, before=before))
    assert [each.change for each in (cost, calls, tokens)] == [numbers.Change("new", "new")] * 3
    assert delay.change is None and errors.change is None
    enough = Totals(_sums(8, "0.2", 1), Quantiles(1, 2, 3), Quantiles())
    assert overview.cards(_sight(now=now, before=enough))[1].change == numbers.Change(f">999{numbers.NBSP}%", "up")


def test_what_failed_alone_cost_an_unknown_amount() -> None:
    failed = Sums(calls=3, errors=3)
    assert not overview.shown(failed, "cost").known and not overview.shown(failed, "tokens").known
    assert overview.shown(Sums(calls=3, errors=2, unpriced=0), "cost").text == "$0"


def test_figures_of_nothing_are_nothing_and_of_the_unknown_unknown() -> None:
    nothing = Totals(Sums(), Quantiles(), Quantiles())
    values = [each.value.text for each in overview.cards(_sight(now=nothing, before=nothing))]
    assert values == ["$0", "0", "0", numbers.DASH, numbers.DASH]
    unknown = Totals(_sums(3, unpriced=3, unmetered=3), Quantiles(), Quantiles())
    shown = [each.value.known for each in overview.cards(_sight(now=unknown))]
    assert shown == [False, True, False, False, True]


def test_a_card_leads_to_its_chart() -> None:
    cards = overview.cards(_sight(view=View(Chosen("7d"), measure="calls")))
    assert [each.current for each in cards] == [False, True, False, False, False]
    assert cards[3].href == "/?range=7d&measure=latency"


def test_the_largest_seven_are_stacked_and_the_rest_is_one() -> None:
    points = [_point(hour, f"m{index}", calls=1, cost=Decimal(20 - index)) for hour in (0, 1) for index in range(12)]
    drawn = overview.composition(_sight(points))
    assert [each.name for each in drawn.chart.shapes] == [*(f"m{index}" for index in range(7)), overview.OTHER]
    assert [each.colour for each in drawn.chart.shapes] == list(range(8))
    assert drawn.table.columns[-1] == overview.OTHER
    assert drawn.table.rows[-1][1][0].text == "$20.00" and drawn.table.rows[0][0] == SPAN.since + 4 * HOUR
    assert len(drawn.tips) == len(drawn.links) == 5


def test_the_stores_own_rest_is_everything_else_however_large() -> None:
    points = [_point(0, REST, calls=1, cost=Decimal(90)), _point(0, "m", calls=1, cost=Decimal(1))]
    drawn = overview.composition(_sight(points))
    assert [each.name for each in drawn.chart.shapes] == ["m", overview.OTHER]


def test_a_step_leads_to_its_calls() -> None:
    drawn = overview.composition(_sight([_point(1, "m", calls=2, errors=1)], View(measure="errors")))
    assert drawn.links[1] == "/requests?from=2026-03-01T09%3A00%3A00Z&to=2026-03-01T10%3A00%3A00Z&failed=yes"
    assert drawn.tips[1] == "2026-03-01 09:00 UTC\n1  m" and drawn.tips[0].endswith("nothing")


def test_nothing_to_draw_draws_nothing() -> None:
    assert overview.composition(_sight()).chart.shapes == ()
    assert overview.delays_drawn(_sight()).chart.shapes == ()


def test_latency_is_three_lines_with_gaps() -> None:
    at = SPAN.since
    delays = [
        LatencyPoint(at, Quantiles(10, 20, 30), Quantiles()),
        LatencyPoint(at + 2 * HOUR, Quantiles(11, 21, 31), Quantiles()),
    ]
    drawn = overview.delays_drawn(replace(_sight(), delays=delays))
    assert [each.name for each in drawn.chart.shapes] == ["p99", "p95", "p50"]
    assert all(each.path.count("M") == 2 for each in drawn.chart.shapes)
    assert not drawn.table.rows[1][1][0].known


def test_bars_have_the_charts_colours_when_it_is_stacked_by_the_same() -> None:
    points = [_point(0, "b", calls=1, cost=Decimal(3)), _point(0, "a", calls=1, cost=Decimal(7))]
    groups = [GroupSums("a", _sums(1, "7")), GroupSums("b", _sums(1, "3")), GroupSums("c", _sums(1, "0"))]
    first, second = overview.bars(_sight(points), groups, "model")
    assert (first.name, first.colour, first.percent, first.keyed) == ("a", 0, 100, True)
    assert (second.name, second.colour, second.part.text) == ("b", 1, f"30.0{numbers.NBSP}%")
    assert first.href == "/requests?model=a"
    assert not overview.bars(_sight(points), groups, "provider")[0].keyed


def test_a_key_is_named_and_a_call_of_no_key_is_unknown() -> None:
    groups = [GroupSums("k1", _sums(1, "2")), GroupSums("", _sums(1, "1"))]
    named, nobody = overview.bars(_sight(), groups, "key")
    assert (named.name, nobody.name) == ("checkout", "unknown") and nobody.href == "/requests"


def test_errors_are_newest_first_and_lead_to_their_calls() -> None:
    found = [
        ErrorCount("rate_limited", 9, NOW - HOUR, uuid4()),
        ErrorCount("status 503", 1, NOW, uuid4()),
        ErrorCount("timed_out", 2, NOW - 2 * HOUR, uuid4()),
        ErrorCount("what", 1, NOW - 3 * HOUR, uuid4()),
    ]
    rows = overview.error_rows(View(), found, 100)
    assert [each.href for each in rows] == [
        "/requests?status=503",
        "/requests?error=rate_limited",
        "/requests?outcome=timed_out",
        "/requests?failed=yes",
    ]
    assert rows[1].meaning == "the provider's rate limit was reached" and rows[1].part.text == f"9.0{numbers.NBSP}%"
    assert filters.read([("error", "rate_limited")]).filters
