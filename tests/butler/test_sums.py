"""What a batch changes in the sums: add the new, take away the old, and say nothing where nothing changes."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest

from steward.butler.sums import NO_KEY, Change, Seen, hours, is_error, latencies, tag_hours
from tests.butler.calls import received


def test_a_new_call_is_added_to_its_hour() -> None:
    call = received(api_key_id=UUID(int=9), input_tokens=None, status_code=429)
    (row,) = hours([Change(None, call)])
    (answered,) = hours([Change(None, received(input_tokens=None, total_cost=None))])
    assert (answered["unmetered"], answered["unpriced"]) == (1, 1)
    assert (row["hour"], row["api_key_id"]) == (call.requested_at.replace(minute=0), UUID(int=9))
    assert (row["calls"], row["errors"], row["input_tokens"], row["unmetered"], row["cost"]) == (
        1,
        1,
        0,
        0,
        Decimal("0.03"),
    )
    assert hours([Change(None, received())])[0]["api_key_id"] == NO_KEY


def test_a_revision_that_changes_no_sum_adds_nothing() -> None:
    call = received()
    again = replace(call, revision=2, body_state="stored")
    assert hours([Change(call, again)]) == latencies([Change(call, again)]) == []


def test_a_revision_moves_a_call_to_another_model_and_bucket() -> None:
    old, new = received(model="a", response_time_ms=100), received(model="b", response_time_ms=None, ttft_ms=None)
    assert [(row["model"], row["calls"]) for row in hours([Change(old, new)])] == [("a", -1), ("b", 1)]
    assert [(row["kind"], row["calls"]) for row in latencies([Change(old, new)])] == [("first", -1), ("whole", -1)]


def test_tags_follow_what_is_indexed() -> None:
    old, new = received(total_cost=None), received(total_cost=Decimal(2))
    (row,) = tag_hours([Seen(Change(old, new), {"Team": "a"}, {"Team": "a"})])
    assert (row["calls"], row["cost"], row["unpriced"]) == (0, Decimal(2), -1)
    rows = tag_hours([Seen(Change(old, new), {"Team": "a"}, {"Team": "b"})])
    assert [(row["value"], row["calls"]) for row in rows] == [("a", -1), ("b", 1)]


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, False),
        ({"status_code": 399}, False),
        ({"status_code": 400}, True),
        ({"status_code": None}, False),
        ({"error_message": "timeout"}, True),
        ({"error_message": "client_cancelled", "outcome": "client_cancelled"}, False),
        ({"outcome": "interrupted"}, True),
        ({"outcome": None}, False),
    ],
)
def test_what_is_a_failed_call(changed: dict[str, object], failed: bool) -> None:
    assert is_error(received(**changed)) is failed
