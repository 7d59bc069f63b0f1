"""What the stores are asked for an address, and filters that were typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.butler.pages import asked, filters
from steward.butler.pages.filters import View
from steward.butler.views import Cursor

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = "0198c0de-0000-7000-8000-000000000001"


def _view(*pairs: tuple[str, str]) -> View:
    return filters.read(pairs)


def test_every_filter_of_an_address_narrows_what_is_asked() -> None:
    view = _view(
        *[("model", "o3"), ("provider", "openai"), ("key", KEY), ("status", "429"), ("outcome", "complete")],
        *[("error", "rate_limited"), ("failed", "yes"), ("body", "stored"), ("tag.Team", "a b"), ("range", "1h")],
    )
    which = asked.which(view, NOW)
    assert (which.since, which.until) == (NOW - timedelta(hours=1), NOW)
    assert (which.model, which.provider, which.api_key_id) == ("o3", "openai", UUID(KEY))
    assert (which.status_code, which.outcome, which.error) == (429, "complete", "rate_limited")
    assert (which.failed, which.body_state, which.tags) == (True, "stored", (("Team", "a b"),))


def test_no_filter_narrows_nothing() -> None:
    which = asked.which(View(), NOW)
    assert which.failed is None and which.tags == () and which.status_code is None
    assert asked.which(_view(("failed", "no")), NOW).failed is False


def test_a_tag_that_is_not_active_is_left_out_and_said() -> None:
    view, said = asked.only_active(_view(("tag.Team", "a"), ("tag.User-Id", "7"), ("model", "o3")), frozenset({"Team"}))
    assert [each.name for each in view.filters] == ["tag.Team", "model"]
    assert said.startswith("User-Id cannot be filtered by")
    assert asked.only_active(view, frozenset({"Team"})) == (view, "")


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("model=gpt-5", "model", "gpt-5"),
        (" Model : gpt-5 ", "model", "gpt-5"),
        ("status=429", "status", "429"),
        ("Team=payments", "tag.Team", "payments"),
        ("tag.Team=a=b", "tag.Team", "a=b"),
    ],
)
def test_a_typed_filter_becomes_a_chip(typed: str, name: str, value: str) -> None:
    view, said = asked.added(View(), typed)
    assert view.filters == (filters.Filter(name, value),) and said == ""


@pytest.mark.parametrize("typed", ["gpt-5", "=", "model=", "a" * 5000, "model=<script>", "<b>=1", "\x00=\x00"])
def test_what_is_no_filter_is_said_and_changes_nothing(typed: str) -> None:
    view, said = asked.added(View(), typed)
    assert view.filters == () or view.filters[0].tag is not None
    assert bool(said) == (view.filters == ())


def test_nothing_typed_is_nothing() -> None:
    assert asked.added(View(), "   ") == (View(), "")


_AT = st.integers(1_700_000_000_000_000, 3_700_000_000_000_000).map(lambda us: datetime.fromtimestamp(us / 10**6, UTC))


@given(_AT, st.uuids(), st.booleans())
def test_a_place_in_a_list_can_be_written_and_read(at: datetime, call_id: UUID, newer: bool) -> None:
    cursor = Cursor(at, call_id, newer)
    text = asked.cursor_text(cursor)
    assert asked.cursor_of(text) == cursor
    assert filters.read([("after", text)]).after == text


@pytest.mark.parametrize(
    "said", ["", "older", f"older_2026-13-45T00:00:00Z_{KEY}", "older_2026-01-01T00:00:00Z_" + "-" * 36]
)
def test_what_is_no_place_is_the_beginning(said: str) -> None:
    assert asked.cursor_of(said) is None
