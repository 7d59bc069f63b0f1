"""Views: a span and the one before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from steward.butler.views import Span, Sums


def test_the_span_before_ends_where_this_one_begins() -> None:
    since = datetime(2026, 11, 18, tzinfo=UTC)
    span = Span(since, since + timedelta(days=7), timedelta(hours=6))
    before = span.before()
    assert (before.until, before.since, before.step) == (since, since - timedelta(days=7), span.step)


def test_sums_begin_at_nothing() -> None:
    assert set(vars(Sums) if hasattr(Sums, "__dict__") else ()) >= {"calls", "cost"}
    assert Sums() == Sums(0, 0, 0, 0, 0)
