"""The closed list of log fields: the checker's names are the program's, and no domain lets free text pass."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from steward.exchange import Outcome
from steward.log_fields import DOMAINS, MASK, Facts, Sentence, event_name


class Foreign(StrEnum):
    CANARY = "CANARY"


def test_the_checkers_names_are_the_programs() -> None:
    assert set(DOMAINS) == Facts.__optional_keys__
    assert not Facts.__required_keys__


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("count", 3, 3),
        ("seconds", 0.5, 0.5),
        ("count", True, None),
        ("count", 2**63, None),
        ("count", "3", None),
        ("seconds", float("nan"), None),
        ("seconds", float("inf"), None),
        ("streamed", True, True),
        ("streamed", 1, None),
        ("cost_usd", Decimal("0.000001"), "0.000001"),
        ("cost_usd", Decimal("NaN"), None),
        ("cost_usd", 0.1, None),
        ("id", UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("id", "00000000-0000-0000-0000-000000000001", None),
        ("until", datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
        ("outcome", Outcome.COMPLETE, "complete"),
        ("outcome", "complete", None),
        ("outcome", Foreign.CANARY, None),
        ("code", "upstream_broke", "upstream_broke"),
        ("code", "rate_limited", "rate_limited"),
        ("code", "no_code_of_ours", None),
        ("sqlstate", "23505", "23505"),
        ("sqlstate", "23505\n", None),
        ("sentence", Sentence("ours"), "ours"),
        ("sentence", "anyone's", None),
        ("tags_refused", ["Api-Key", "not a name"], ["Api-Key", MASK]),
        ("frames", ["steward/log.py:1 say", "prompt text"], ["steward/log.py:1 say", MASK]),
        ("template", "/v1/files/{id}/content", "/v1/files/{id}/content"),
        ("template", "/v1/files?key=1", None),
        ("model", "ft:gpt-4o:org::id", "ft:gpt-4o:org::id"),
        ("model", "two words", None),
    ],
)
def test_a_domain(name: str, value: object, written: object) -> None:
    assert DOMAINS[name](value) == written


@examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(DOMAINS)), st.text(max_size=300))
def test_text_with_a_space_or_a_control_character_is_no_fact(name: str, text: str) -> None:
    frames = name in {"frames", "price_source"}
    for said in (f"{text} {text} {text}", f"{text}\n", f"\0{text}"):
        assert DOMAINS[name](said) is None or frames


def test_a_list_is_bounded() -> None:
    assert DOMAINS["tags_refused"](["A"] * 1000) == ["A"] * 64


@pytest.mark.parametrize("event", ["call", "key_poll_recovered", "a1"])
def test_events_are_words(event: str) -> None:
    assert event_name(event) == event


@pytest.mark.parametrize("event", ["", "Call", "call\n", "a b", "a__b", "_a", "a" + "_b" * 9])
def test_what_is_no_event(event: str) -> None:
    assert event_name(event) == MASK
