"""What the dashboard says of codes: how a call ended, where its body lies, whether a Steward is well.

Refuses to say more than is known: a code that is not here is shown as it came. A state has a tone and always a word
beside it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from steward.butler.nouns import StewardToken
from steward.butler.pages import numbers
from steward.butler.pages.numbers import Figure
from steward.butler.views import Call, CallRow

QUIET_AFTER: Final = timedelta(minutes=2)
"""A Steward asks for work every few seconds; one that did not for this long is not well."""

LATE_AFTER: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class State:
    """A tone (good, warn, bad, plain) and its word."""

    tone: str
    word: str


_OUTCOMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "complete": "complete: the answer reached the caller whole",
        "client_cancelled": "the caller left before the answer ended",
        "upstream_failed": "the provider's answer broke off or never came",
        "timed_out": "the provider did not answer in time",
        "interrupted": "the Steward was stopped during the call",
    }
)
_BRIEF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "client_cancelled": "caller left",
        "upstream_failed": "provider failed",
        "timed_out": "timed out",
        "interrupted": "interrupted",
    }
)
_ERRORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rate_limited": "the provider's rate limit was reached",
        "invalid_request": "the provider refused what was asked",
        "overloaded": "the provider had too much to do",
        "auth": "the provider refused the credential",
        "not_found": "the provider knows no such model or object",
        "context_length": "the prompt is longer than the model takes",
        "content_filter": "the provider's filter stopped it",
        "server_error": "the provider failed",
        "timeout": "no answer in time",
        "client_cancelled": "the caller left before the answer ended",
        "upstream_failed": "the provider could not be reached, or broke off",
        "other": "an error outside the known list",
    }
)
_BODIES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "stored": ("good", "The request and response lie in your bucket."),
        "pending": ("plain", "The Steward still holds the body and is about to store it."),
        "none": ("plain", "No bucket was set when this call came, so no body was kept."),
        "off": ("plain", "The Steward keeps metadata alone, by its own setting."),
        "failed": ("bad", "The bucket refused the body for a day. See steward storage check."),
        "shed": ("warn", "The body was given up to keep calls running: the Steward's disk was full."),
        "lost": ("bad", "The body was lost with the disk it waited on."),
    }
)
_USAGE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "provider": "The counts are the provider's own.",
        "partial": "Partial: the answer broke off, and the counts are those reported until then.",
        "estimated": "Estimated: the provider reported no counts.",
        "none": "The provider reported no counts, so the tokens are unknown.",
    }
)
_ACTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {"api_key": "API key", "steward": "Steward token", "metadata_key": "Metadata key", "provider_key": "Provider key"}
)


def outcome_words(outcome: str | None) -> str:
    """How the call ended, as a sentence's end."""
    return _OUTCOMES.get(outcome, outcome) if outcome is not None else "unknown"


def error_words(code: str | None) -> str:
    """What a code of the closed list means; nothing for another."""
    return _ERRORS.get(code or "", "")


def usage_words(source: str | None) -> str:
    """Whose word the counts are."""
    return _USAGE.get(source or "", "Where the counts come from is unknown.")


def body_tone(state: str | None) -> str:
    """The tone of a body's state."""
    return _BODIES.get(state or "", ("plain", ""))[0]


def body_words(state: str | None) -> str:
    """Where the body is."""
    return _BODIES.get(state or "", ("plain", "The Steward did not say where the body is."))[1]


def call_tone(call: Call | CallRow) -> str:
    """Good, warn for what the caller did, bad for what broke."""
    if not call.is_error:
        return "good" if call.outcome == "complete" else "plain"
    return "warn" if call.outcome == "client_cancelled" or 400 <= (call.status_code or 0) < 500 else "bad"


def call_word(call: Call | CallRow) -> str:
    """The status, and the way it ended when that says more."""
    brief = _BRIEF.get(call.outcome or "")
    if brief is not None and call.status_code in {None, 0}:
        return brief
    status = str(call.status_code) if call.status_code else "unknown"
    return f"{status}, {brief}" if brief is not None else status


def action_words(action: str) -> str:
    """`api_key.created`: API key created."""
    noun, _, verb = action.partition(".")
    return f"{_ACTIONS.get(noun, noun.replace('_', ' ').capitalize())} {verb.replace('_', ' ')}".strip()


def steward_health(steward: StewardToken, now: datetime) -> State:
    """Whether it still asks for work."""
    if steward.revoked_at is not None:
        return State("plain", "revoked")
    if steward.last_seen_at is None:
        return State("plain", "never seen")
    if now - steward.last_seen_at > QUIET_AFTER:
        return State("bad", f"silent for {numbers.span(now - steward.last_seen_at)}")
    lag = steward_delay(steward)
    if lag is not None and lag > LATE_AFTER:
        return State("warn", f"behind by {numbers.span(lag)}")
    return State("good", "healthy")


def steward_delay(steward: StewardToken) -> timedelta | None:
    """From its newest call to the report that brought it; None before the first."""
    if steward.last_ingest_at is None or steward.newest_record_at is None:
        return None
    return max(steward.last_ingest_at - steward.newest_record_at, timedelta())


def steward_lag(steward: StewardToken) -> Figure:
    """The same as a figure."""
    delay = steward_delay(steward)
    return numbers.UNKNOWN if delay is None else numbers.latency(delay / timedelta(milliseconds=1))
