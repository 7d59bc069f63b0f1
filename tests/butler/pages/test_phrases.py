"""Words for codes: every code that the Steward may send has its own, an unknown one is shown as it came."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from steward.butler.pages import phrases
from steward.butler.views import CallRow
from steward.exchange import BodyState, ErrorCode, Outcome, UsageSource
from tests.butler.pages.test_csv_lines import _call
from tests.butler.pages.test_frame import NOW, STEWARD


def test_every_code_of_the_wire_has_its_words() -> None:
    assert all(phrases.error_words(each.value) for each in ErrorCode)
    assert all(phrases.outcome_words(each.value) != each.value for each in Outcome)
    assert all("did not say" not in phrases.body_words(each.value) for each in BodyState)
    assert all("unknown." not in phrases.usage_words(each.value) for each in UsageSource if each.value != "none")


def test_what_is_unknown_is_said_to_be() -> None:
    assert phrases.outcome_words(None) == "unknown" and phrases.outcome_words("exploded") == "exploded"
    assert phrases.error_words(None) == "" and phrases.body_tone(None) == "plain"
    assert phrases.usage_words(None) == "Where the counts come from is unknown."


@pytest.mark.parametrize(
    ("changes", "tone", "word"),
    [
        ({}, "good", "200"),
        ({"status_code": 429, "is_error": True}, "warn", "429"),
        ({"status_code": 503, "is_error": True}, "bad", "503"),
        ({"status_code": None, "outcome": "upstream_failed", "is_error": True}, "bad", "provider failed"),
        ({"outcome": "client_cancelled", "is_error": True}, "warn", "200, caller left"),
        ({"outcome": None, "status_code": None}, "plain", "unknown"),
    ],
)
def test_a_call_has_a_tone_and_always_a_word(changes: dict[str, object], tone: str, word: str) -> None:
    call: CallRow = _call(**changes)
    assert (phrases.call_tone(call), phrases.call_word(call)) == (tone, word)


def test_actions_read_as_a_person_would_say_them() -> None:
    assert phrases.action_words("api_key.created") == "API key created"
    assert phrases.action_words("user.password_changed") == "User password changed"
    assert phrases.action_words("storage.") == "Storage"


def test_a_stewards_health_goes_from_never_to_well_to_late_to_silent_to_revoked() -> None:
    assert phrases.steward_health(replace(STEWARD, last_seen_at=None), NOW).word == "never seen"
    assert phrases.steward_health(STEWARD, NOW) == phrases.State("good", "healthy")
    late = replace(STEWARD, newest_record_at=NOW - timedelta(minutes=6))
    assert phrases.steward_health(late, NOW) == phrases.State("warn", "behind by 6\u00a0min")
    assert phrases.steward_health(replace(STEWARD, last_seen_at=NOW - timedelta(hours=3)), NOW).tone == "bad"
    assert phrases.steward_health(replace(STEWARD, revoked_at=NOW), NOW).word == "revoked"


def test_a_lag_is_unknown_before_the_first_report() -> None:
    assert not phrases.steward_lag(replace(STEWARD, last_ingest_at=None)).known
    assert phrases.steward_lag(STEWARD).text == "3,000\u00a0ms"
    ahead = replace(STEWARD, newest_record_at=NOW + timedelta(hours=1))
    assert phrases.steward_lag(ahead).text == "0\u00a0ms"
