"""Addresses: every view is one, and no address, however hostile, is more than a view."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.butler.pages import filters
from steward.butler.pages.filters import Filter, Span, View

NOW = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
KEY = "0198c0de-0000-7000-8000-000000000001"


def _read(query: str) -> View:
    return filters.read(parse_qsl(query.removeprefix("?"), keep_blank_values=True))


def test_an_empty_address_is_the_last_day() -> None:
    view = _read("")
    assert view == View() and filters.write(view) == ""
    assert view.span.at(NOW) == (NOW - timedelta(hours=24), NOW)


def test_an_address_says_everything_that_is_shown() -> None:
    view = _read(
        f"range=7d&model=gpt-4o&tag.User-Id=42%20%26&status=503&failed=yes&body=stored&measure=calls&by=key&tag=Team&open={KEY}"
    )
    assert view.filters == (
        Filter("model", "gpt-4o"),
        Filter("tag.User-Id", "42 &"),
        Filter("status", "503"),
        Filter("failed", "yes"),
        Filter("body", "stored"),
    )
    assert (view.span.preset, view.measure, view.by, view.tag) == ("7d", "calls", "key", "Team")
    assert view.panel == UUID(KEY)
    assert (
        view.value("model") == "gpt-4o"
        and view.value("key") is None
        and view.filters[1].tag == "User-Id"
        and not view.dropped
    )


def test_two_moments_are_a_range_in_utc() -> None:
    view = _read("from=2026-02-01T10:00&to=2026-02-02T10:00:30Z")
    expected = datetime(2026, 2, 1, 10, tzinfo=UTC), datetime(2026, 2, 2, 10, 0, 30, tzinfo=UTC)
    assert view.span.at(NOW) == expected
    assert _read(filters.write(view)) == view


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-02-02T10:00&to=2026-02-01T10:00",
        "from=2026-02-01T10:00",
        "from=2001-01-01T00:00&to=2026-01-01T00:00",
        "from=2026-02-31T10:00&to=2026-03-01T10:00",
    ],
)
def test_a_range_that_is_none_is_the_last_day_and_said(query: str) -> None:
    view = _read(query)
    assert view.span == Span() and view.dropped == ("range",)


@pytest.mark.parametrize(
    ("query", "dropped"),
    [
        ("model=%00", "model"),
        ("model=" + "a" * 129, "model"),
        ("tag.User-Id=" + "a" * 257, "other"),
        ("tag.User-Id=a%0Ab", "other"),
        ("tag.User-Id=%ED%A0%80", None),
        ("tag.=x", "other"),
        ("tag.%3Cscript%3E=x", "other"),
        ("key=1%20OR%201=1", "key"),
        ("status=600x", "status"),
        ("status=0", "status"),
        ("failed=maybe", "failed"),
        ("body=gone", "body"),
        ("model=o3&model=gpt-4o", "model"),
        ("outcome=fine", "outcome"),
        ("error=the%20password%20is", "error"),
        ("range=1y", "range"),
        ("measure=body", "measure"),
        ("by=tag.", "by"),
        ("after=%27;--", "after"),
        ("open=../../etc", "open"),
        ("org_id=" + KEY, "other"),
        ("__proto__=1", "other"),
    ],
)
def test_what_is_not_understood_is_left_out_and_named(query: str, dropped: str | None) -> None:
    view = _read(query)
    if dropped is not None:
        assert filters.write(replace(view, filters=view.filters[1:])) == "" and view.dropped == (dropped,)
    else:
        assert _read(filters.write(view)) == replace(view, dropped=())


def test_a_flood_of_filters_is_bounded() -> None:
    view = _read("&".join(f"tag.T{number}=x" for number in range(5_000)))
    assert len(view.filters) == filters.MAX_FILTERS and view.dropped == ("other",)


@given(st.lists(st.tuples(st.text(max_size=90), st.text(max_size=300)), max_size=30))
def test_whatever_is_read_can_be_written_and_read_again(pairs: list[tuple[str, str]]) -> None:
    view = filters.read(pairs)
    assert _read(filters.write(view)) == replace(view, dropped=())


@given(
    st.lists(
        st.sampled_from(
            [("model", "gpt-4o"), ("status", "429"), ("outcome", "complete"), ("tag.A", "ü=&?#"), ("key", KEY)]
        ),
        max_size=6,
    ),
    st.sampled_from(list(filters.PRESETS)),
)
def test_a_view_is_one_link(chosen: list[tuple[str, str]], preset: str) -> None:
    view = filters.read([*chosen, ("range", preset)])
    assert not view.dropped and _read(filters.write(view)) == view


def test_a_chip_comes_and_goes_and_the_list_starts_anew() -> None:
    view = replace(View(), after="here", panel=UUID(KEY))
    chosen = view.toggled("model", "o3")
    assert chosen.filters == (Filter("model", "o3"),) and chosen.after == "" and chosen.panel is None
    assert chosen.toggled("model", "o3").filters == ()
    assert chosen.toggled("model", "gpt-4o").filters == (Filter("model", "gpt-4o"),)


@pytest.mark.parametrize(("preset", "minutes"), [("1h", 1), ("6h", 10), ("24h", 30), ("7d", 180), ("30d", 720)])
def test_a_range_is_cut_into_round_pieces(preset: str, minutes: int) -> None:
    start, end = Span(preset).at(NOW)
    length = filters.step(start, end)
    assert length == timedelta(minutes=minutes)
    assert filters.floor(start, length) <= start < filters.floor(start, length) + length
    assert filters.ceiling(end, length) - length < end <= filters.ceiling(end, length)
    assert 24 <= (end - start) / length <= 60


def test_an_edge_is_its_own_floor_and_ceiling_and_weeks_begin_on_a_monday() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert filters.floor(noon, timedelta(hours=1)) == noon == filters.ceiling(noon, timedelta(hours=1))
    assert filters.floor(noon, timedelta(weeks=1)) == datetime(2026, 2, 23, tzinfo=UTC)


def test_a_link_of_a_figure_narrows_and_starts_anew() -> None:
    view = replace(View(), filters=(Filter("model", "o3"),), after="here", panel=UUID(KEY), measure="calls")
    assert filters.with_filter(view, "status", "429") == "?model=o3&status=429"
    assert filters.with_tag(view, "Team", "a&b") == "?model=o3&tag.Team=a%26b"
    assert filters.only(view, "key", KEY) == f"?key={KEY}"
    assert filters.without_filters(view) == "?measure=calls"
    assert filters.with_range(view, "7d") == "?range=7d&model=o3&measure=calls"
    assert filters.with_panel(view, None) == "?model=o3&measure=calls&after=here"
    assert filters.for_export(replace(view, paused=True)) == "?model=o3&measure=calls"
    assert filters.pairs_without_range(view) == [("model", "o3"), ("measure", "calls")]
    assert filters.field_time(NOW) == "2026-03-01T12:34"
