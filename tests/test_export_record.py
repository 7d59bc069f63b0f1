"""A row as it leaves: every string in its domain, whatever the ledger holds, or the row stays."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.egress import Ingest, MetadataRecord
from steward.errors import NotExportable
from steward.exchange import BodyState, ErrorCode, Outcome, Record, UsageSource
from steward.export_record import ExportRules, export_record, leaving_tags
from steward.ports import LedgerRow
from steward.providers import TABLES, TEMPLATES
from tests.contracts.records import KEY, NOON, a_full_record, a_record

ORG = uuid4()
ALL = ExportRules()


def left(record: Record, revision: int = 1, rules: ExportRules = ALL) -> dict[str, Any]:
    """The record as Butler reads it, with every field."""
    made = export_record(LedgerRow(record, revision), ORG, rules)
    body = Ingest(records=(made,)).body(frozenset(MetadataRecord.model_fields))
    (said,) = json.loads(body, parse_float=Decimal)["records"]
    return dict(said)


def a_stored_record(**changes: Any) -> Record:
    """A row with all there is to tell."""
    record = a_full_record(**changes)
    return a_full_record(
        **{"id": record.id, "body_key": f"{record.api_key_id}/2026-11-20/{record.id}.json.gz", **changes}
    )


def test_what_is_known_is_told() -> None:
    record = a_stored_record()
    assert left(record, 7) == {
        "id": str(record.id),
        "revision": 7,
        "org_id": str(ORG),
        "user_id": str(record.user_id),
        "majordomo_api_key_id": str(KEY),
        "provider_api_key_hash": "5" * 64,
        "provider_api_key_alias": "production",
        "provider": "openai",
        "model": "gpt-4o-mini-2024-07-18",
        "original_model": "gpt-4o-mini",
        "request_path": "/v1/chat/completions",
        "request_method": "POST",
        "requested_at": "2026-11-20T12:00:00.123456Z",
        "responded_at": "2026-11-20T12:00:06.123463Z",
        "response_time_ms": 8,
        "ttft_ms": 9,
        "status_code": 429,
        "outcome": "upstream_failed",
        "error_message": "rate_limited",
        "usage_source": "partial",
        "input_tokens": 14,
        "output_tokens": 15,
        "cached_tokens": 16,
        "cache_creation_tokens": 17,
        "price_source": "genai-prices 0.2.3",
        "input_cost": Decimal("0.0000019"),
        "output_cost": Decimal("20.5"),
        "total_cost": Decimal("21.123456789012"),
        "model_alias_found": True,
        "raw_metadata": {"User-Id": "u-22", "Feature": "search"},
        "body_state": "stored",
        "body_s3_key": record.body_key,
    }


def test_what_is_not_known_is_zero_and_the_sources_say_so() -> None:
    said = left(a_record(registration_id=uuid4()))
    assert {name: said[name] for name in said if name.endswith(("tokens", "cost", "_ms", "_code"))} == {
        **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens", "cache_creation_tokens"), 0),
        **dict.fromkeys(("input_cost", "output_cost", "total_cost", "response_time_ms", "status_code"), 0),
    }
    assert (said["usage_source"], said["model"], said["responded_at"]) == ("none", "other", said["requested_at"])
    assert not {"price_source", "ttft_ms", "error_message", "raw_metadata", "body_s3_key", "user_id"} & set(said)


def test_a_call_with_a_key_made_inside_does_not_name_it() -> None:
    said = left(a_record())
    assert "majordomo_api_key_id" not in said
    assert said["org_id"] == str(ORG)


@pytest.mark.parametrize("state", [state for state in BodyState if state is not BodyState.STORED])
def test_where_a_body_lies_is_told_of_stored_ones_alone(state: BodyState) -> None:
    said = left(a_stored_record(body_state=state))
    assert (said["body_state"], "body_s3_key" in said) == (state.value, False)


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        ("0", "0"),
        ("10000", "10000"),
        ("0.10", "0.1"),
        ("1E-20", "0"),
        ("1E-12", "0.000000000001"),
        ("9999.999999999999499", "9999.999999999999"),
        ("1E+2", "100"),
    ],
)
def test_money_is_a_number_to_a_millionth_of_a_millionth(amount: str, told: str) -> None:
    made = export_record(LedgerRow(a_record(total_cost=Decimal(amount)), 1), ORG, ALL)
    body = Ingest(records=(made,)).body(frozenset({"id", "total_cost"}))
    found = re.search(rb'"total_cost":([^,}]+)', body)
    assert found is not None
    assert found[1].decode() == told


# words

TAGS = {
    "User-Id": "u-22",
    "Feature": "Suche, größer 😀",
    "Long": "x" * 256,
    "Too-Long": "x" * 257,
    "Two-Lines": "a\nb",
    "Separated": "a\u2028b",
    "Nul": "a\x00b",
    "not a name": "x",
    "lower": "x",
    "Api-Key": "harmless",
    "Note": "sk-0123456789abcdef0123",
    "Surrogate": "\ud800",
}


def test_tags_leave_as_lines_of_at_most_256_characters() -> None:
    assert leaving_tags(TAGS, None) == {name: TAGS[name] for name in ("User-Id", "Feature", "Long")}
    assert left(a_record(tags=TAGS))["raw_metadata"] == leaving_tags(TAGS, None)


def test_only_tags_that_the_settings_name_leave() -> None:
    record = a_record(tags=TAGS)
    assert left(record, rules=ExportRules(frozenset({"Feature", "Absent"})))["raw_metadata"] == {
        "Feature": TAGS["Feature"]
    }
    assert "raw_metadata" not in left(record, rules=ExportRules(frozenset()))


@pytest.mark.parametrize("alias", ["a\nb", "x" * 257, "sk-0123456789abcdef0123", "Bearer abc"])
def test_an_alias_that_may_not_leave_is_absent(alias: str) -> None:
    assert "provider_api_key_alias" not in left(a_record(provider_api_key_alias=alias))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "what is the capital of France?"},
        {"model": "<model>"},
        {"model": "a" * 129},
        {"model": "sk-0123456789abcdef0123"},
        {"model": None},
        {"model": "gpt\n"},
    ],
)
def test_a_model_outside_the_grammar_is_other(changes: dict[str, Any]) -> None:
    assert left(a_record(**changes))["model"] == "other"
    if changes["model"]:
        assert left(a_record(original_model=changes["model"]))["original_model"] == "other"


def test_a_path_of_no_template_and_a_method_of_no_list_are_other() -> None:
    said = left(a_record(request_path="/alice/has/cancer", request_method="BREW"))
    assert (said["request_path"], said["request_method"]) == ("/{other}", "OTHER")


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "the patient"},
        {"provider_api_key_hash": "sk-0123456789abcdef"},
        {"price_source": "CANARY, it said"},
        {"body_state": BodyState.STORED, "body_key": "../../CANARY"},
        {"body_state": BodyState.STORED, "body_key": "CANARY/2026-11-20/x.json.gz"},
        {"total_cost": Decimal("NaN")},
        {"total_cost": Decimal("Infinity")},
        {"total_cost": Decimal(10_001)},
        {"input_cost": Decimal("1E+30")},
        {"input_tokens": 10**9 + 1},
        {"output_tokens": -1},
        {"status_code": 1000},
        {"error_message": "The model said: CANARY"},
        {"outcome": "CANARY"},
        {"requested_at": NOON.replace(tzinfo=None)},
        {"user_id": "CANARY"},
    ],
)
def test_a_row_that_holds_something_else_stays_and_nothing_of_it_is_told(changes: dict[str, Any]) -> None:
    with pytest.raises(NotExportable) as refused:
        export_record(LedgerRow(a_record(**changes), 1), ORG, ALL)
    assert refused.value.__cause__ is None
    assert "CANARY" not in f"{refused.value!r} {refused.value.message}"


MODEL = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+\-]{0,127}")
LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,256}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]{0,63}")
DOMAINS: dict[str, Any] = {
    "provider": lambda text: text in TABLES,
    "model": MODEL.fullmatch,
    "original_model": MODEL.fullmatch,
    "request_path": lambda text: text in TEMPLATES | {"/{other}"},
    "request_method": re.compile(r"[A-Z]{3,7}").fullmatch,
    "provider_api_key_hash": re.compile(r"[0-9a-f]{64}").fullmatch,
    "provider_api_key_alias": LINE.fullmatch,
    "price_source": re.compile(r"[a-z][a-z-]{0,31}(?: remote)? [0-9A-Za-z.:+-]{1,40}").fullmatch,
    "body_s3_key": re.compile(r"[0-9a-f-]{36}/[0-9-]{10}/[0-9a-f-]{36}\.json\.gz").fullmatch,
    "outcome": lambda text: text in set(Outcome),
    "usage_source": lambda text: text in set(UsageSource),
    "error_message": lambda text: text in set(ErrorCode),
    "body_state": lambda text: text in set(BodyState),
    "requested_at": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z").fullmatch,
    "responded_at": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z").fullmatch,
}
"""Written down a second time."""

WORDS = st.text(max_size=300) | st.sampled_from(
    ["gpt-4o", "other", "/v1/chat/completions", "POST", "openai", "anthropic", "5" * 64, "genai-prices 0.2.3", "\ud800"]
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "provider": st.sampled_from(["openai", "anthropic", "gemini"]) | WORDS,
        "model": st.none() | WORDS,
        "original_model": st.none() | WORDS,
        "request_path": WORDS,
        "request_method": WORDS,
        "provider_api_key_hash": st.none() | WORDS,
        "provider_api_key_alias": st.none() | WORDS,
        "price_source": st.none() | WORDS,
        "body_key": st.none() | WORDS,
        "body_state": st.sampled_from(BodyState),
        "error_message": st.none() | st.sampled_from(ErrorCode) | WORDS,
        "tags": st.dictionaries(WORDS, WORDS, max_size=70),
        "total_cost": st.none() | st.decimals(allow_nan=True, allow_infinity=True),
        "input_tokens": st.none() | st.integers(),
        "responded_at": st.none() | st.datetimes(timezones=st.just(NOON.tzinfo)),
        "client": WORDS,
        "claude_session_name": WORDS,
        "service_tier": WORDS,
    },
)


@given(ROWS)
def test_whatever_the_ledger_holds_every_string_that_leaves_lies_in_its_domain(changes: dict[str, Any]) -> None:
    try:
        said = left(a_record(**changes))
    except NotExportable:
        return
    for name, value in said.items():
        if name == "raw_metadata":
            assert all(NAME.fullmatch(tag) and LINE.fullmatch(text) for tag, text in value.items())
            assert len(value) <= 64
        elif isinstance(value, str):
            assert DOMAINS[name](value) if name in DOMAINS else UUID(value), name


def test_the_property_can_see_something() -> None:
    """Most rows of the kind above leave: else it would prove nothing."""
    assert left(a_record(responded_at=NOON + timedelta(seconds=1)))["responded_at"].endswith("01.123456Z")
    assert not DOMAINS["model"]("no model")
