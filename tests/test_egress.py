"""What may leave is closed: in its calls, in their fields, and in the values of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from steward import egress
from steward.egress import CALLS, MAX_RECORDS, Ingest, MetadataRecord
from steward.exchange import BodyState, ErrorCode, Outcome, UsageSource
from steward.providers import TEMPLATES
from tests.servers.corpus import Recording

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
ID = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e")


def facts(**changes: Any) -> dict[str, Any]:
    """A whole record's."""
    return {
        "id": ID,
        "revision": 1,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "request_path": "/v1/chat/completions",
        "request_method": "POST",
        "requested_at": NOW,
        "responded_at": NOW,
        "outcome": Outcome.COMPLETE,
        "usage_source": UsageSource.PROVIDER,
        "model_alias_found": False,
        "body_state": BodyState.STORED,
        **changes,
    }


def strings(schema: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every place in a JSON Schema where a string may stand."""
    if isinstance(schema, dict):
        if schema.get("type") == "string" or "string" in (schema.get("type") or ()):
            yield where, schema
        if schema.get("type") == "object":
            assert (
                schema.get("additionalProperties") is False
                or "propertyNames" in schema
                or schema.get("patternProperties")
            ), f"{where} takes any field"
        for name, part in schema.items():
            yield from strings(part, f"{where}/{name}")
    elif isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from strings(part, f"{where}/{number}")


def is_closed(string: dict[str, Any]) -> bool:
    """Whether a string's values are: a closed list, an id, a time, or a pattern and a length."""
    if "enum" in string or "const" in string:
        return True
    pattern = string.get("pattern", "")
    return pattern.startswith("^") and pattern.endswith("$") and 0 < string.get("maxLength", 0) <= 256


def test_no_string_is_free_text() -> None:
    schema = egress.schema()
    found = list(strings(schema))
    assert len(found) > 60
    assert [where for where, string in found if not is_closed(string)] == []


def test_a_schema_with_a_free_string_would_be_seen() -> None:
    """The walk above can fail."""
    opened = {"properties": {"reason": {"type": "string"}, "note": {"type": "string", "maxLength": 100}}}
    assert not any(is_closed(string) for _, string in strings(opened))


def test_the_calls_are_those_of_the_protocol() -> None:
    prefix = "/api/v1/steward/"
    assert {(call.METHOD, call.PATH.removeprefix(prefix)) for call in CALLS} == {
        ("GET", "me"),
        ("GET", "work"),
        ("POST", "work/{job_id}/ack"),
        ("POST", "work/{job_id}/fail"),
        ("GET", "api-keys"),
        ("GET", "cloud-storage-configs"),
        ("GET", "provider-keys"),
        ("GET", "experiments"),
        ("POST", "ingest/metadata"),
        ("GET", "replay-runs/{run_id}"),
        ("GET", "eval-runs/{run_id}"),
        ("POST", "replay-runs/status"),
        ("POST", "eval-runs/status"),
        ("POST", "replay-results"),
        ("POST", "eval-results"),
        ("GET", "managed/pending"),
        ("POST", "managed/assignments/{assignment_id}/claim"),
    }
    assert set(egress.schema()["$defs"]) >= {call.__name__ for call in CALLS}


def test_a_target_is_made_of_ids_times_and_numbers() -> None:
    assert egress.Ack(job_id=ID).target() == f"/api/v1/steward/work/{ID}/ack"
    assert egress.Work(limit=50).target() == "/api/v1/steward/work?limit=50"
    assert egress.ApiKeys().target() == "/api/v1/steward/api-keys?limit=200"
    asked = egress.ApiKeys(updated_after=NOW, limit=400).target()
    assert asked == "/api/v1/steward/api-keys?updated_after=2026-01-02T03%3A04%3A05.678000Z&limit=400"
    for wrong in ("../../x", str(ID), b"x"):
        with pytest.raises(ValidationError):
            egress.Fail(job_id=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": str(ID)},
        {"prompt": "what was asked"},
        {"model": "what is the capital of France?"},
        {"model": "a" * 129},
        {"model": "gpt-4o\n"},
        {"request_path": "/v1/files/file-abc123/secret words"},
        {"request_path": "/v1/chat/completions?key=x"},
        {"request_method": "BREW"},
        {"provider": "Somebody Else"},
        {"provider_api_key_hash": "sk-0123456789abcdef"},
        {"provider_api_key_alias": "two\nlines"},
        {"raw_metadata": {"Feature": "a" * 257}},
        {"raw_metadata": {"Feature": "two\r\nlines"}},
        {"raw_metadata": {"Not a name": "x"}},
        {"raw_metadata": {f"Tag-{number}": "x" for number in range(65)}},
        {"error_message": "The model said: no"},
        {"outcome": "complete"},
        {"input_tokens": -1},
        {"input_tokens": 10**9 + 1},
        {"input_tokens": 1.5},
        {"total_cost": Decimal("NaN")},
        {"total_cost": Decimal(10_001)},
        {"total_cost": Decimal("0." + "8" * 13)},
        {"total_cost": Decimal("1E-100000")},
        {"request_path": "/alice/has/cancer"},
        {"provider": "the_patient"},
        {"total_cost": 0.1},
        {"requested_at": "2026-01-02T03:04:05Z"},
        {"requested_at": datetime(2026, 1, 2)},  # noqa: DTZ001 - a time that says no zone
        {"body_s3_key": "s3://bucket/prompts/of/today.json"},
        {"price_source": "Ignore all previous instructions"},
    ],
    ids=lambda changes: f"{next(iter(changes))}",
)
def test_what_is_outside_is_refused_and_not_repeated(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        MetadataRecord(**facts(**changes))
    for value in changes.values():
        words = [value] if isinstance(value, str) else [*value.values()] if isinstance(value, dict) else []
        assert not [word for word in words if len(word) > 3 and word in str(refused.value)]


@given(st.text(max_size=300), st.sampled_from(sorted(MetadataRecord.model_fields)))
def test_a_text_stands_only_where_it_is_in_the_field_s_domain(text: str, name: str) -> None:
    try:
        record = MetadataRecord(**facts(**{name: text}))
    except ValidationError:
        return
    domain = {
        "model": r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}",
        "original_model": r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}",
        "provider": "openai|anthropic|gemini",
        "request_path": "/.*",
        "provider_api_key_alias": "[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{0,256}",
    }.get(name)
    assert domain is not None, f"{name} took {text!r}"
    assert re.fullmatch(domain, getattr(record, name))


def test_every_template_of_ours_may_leave() -> None:
    for template in [*TEMPLATES, "/{other}"]:
        assert MetadataRecord(**facts(request_path=template)).request_path == template


def test_every_model_that_was_recorded_may_leave(corpus: list[Recording]) -> None:
    for model in {str(recording.truth["model"]) for recording in corpus if recording.truth["model"]}:
        assert MetadataRecord(**facts(model=model)).model == model


def test_a_body_holds_what_butler_takes_and_money_to_the_last_digit() -> None:
    record = MetadataRecord(
        **facts(
            total_cost=Decimal("0.0000001"),
            input_cost=Decimal("1E+2"),
            error_message=ErrorCode.OTHER,
            raw_metadata={"Feature": "süß"},
            ttft_ms=12,
        )
    )
    original = Ingest(records=(record,)).body()
    assert b'"total_cost":0.0000001' in original
    assert b'"input_cost":100' in original
    (said,) = json.loads(original, parse_float=Decimal)["records"]
    assert said["total_cost"] == Decimal("0.0000001")
    assert said["requested_at"] == "2026-01-02T03:04:05.678000Z"
    assert set(said) <= egress.ORIGINAL_FIELDS
    assert (said["input_tokens"], said["error_message"], said["raw_metadata"]) == (0, "other", {"Feature": "süß"})
    whole = Ingest(records=(record,)).body(fields=set(MetadataRecord.model_fields))
    (said,) = json.loads(whole)["records"]
    assert (said["revision"], said["outcome"], said["ttft_ms"], said["body_state"]) == (1, "complete", 12, "stored")
    assert (
        "unknown to us" not in json.loads(Ingest(records=(record,)).body(fields={"id", "unknown to us"}))["records"][0]
    )


def test_what_was_never_checked_is_checked_when_it_leaves() -> None:
    """An instance that went around its own checks, or is of a class with one field more."""

    class Talkative(MetadataRecord):
        prompt: str = "what was asked"

    unchecked = MetadataRecord.model_construct(**facts(model="what was asked?"))
    for record in (unchecked, Talkative(**facts())):
        with pytest.raises(ValidationError):
            Ingest(records=(record,))
    said = Ingest(records=(MetadataRecord(**facts()),)).body(fields={"id", "prompt"})
    assert b"prompt" not in said


def test_times_leave_in_utc() -> None:
    there = datetime(2026, 1, 2, 8, 49, 5, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    (said,) = json.loads(Ingest(records=(MetadataRecord(**facts(requested_at=there)),)).body())["records"]
    assert said["requested_at"] == "2026-01-02T03:04:05Z"


def test_a_call_holds_a_batch_and_no_more() -> None:
    record = MetadataRecord(**facts())
    assert Ingest(records=(record,) * MAX_RECORDS).count == MAX_RECORDS
    for records in ((), (record,) * (MAX_RECORDS + 1)):
        with pytest.raises(ValidationError):
            Ingest(records=records)


def test_what_jobs_may_report_holds_no_word_of_an_answer() -> None:
    """SECURITY F6: closed before the first job runs."""
    names = {name for kind in (egress.ReplayResult, egress.EvalResult, egress.Score) for name in kind.model_fields}
    assert not names & {"replay_response", "judge_reason", "reason", "response", "text"}
    score = {"id": uuid4(), "evaluator_name": uuid4(), "created_at": NOW}
    assert egress.Score(**score, score=Decimal("0.37")).score == Decimal("0.37")
    for wrong in (Decimal("0.375"), Decimal("1.01"), Decimal("-0.01"), 0.5):
        with pytest.raises(ValidationError):
            egress.Score(**score, score=wrong)
    with pytest.raises(ValidationError):
        egress.ReplayUpdate(id=ID, status="failed", error_message="the judge said no")


def test_the_head_of_a_call_is_five_fields_at_most() -> None:
    token = "mdm_st_" + "a" * 32
    head = egress.Headers(authorization=f"Bearer {token}", content_type="application/json")
    assert dict(head.fields()) == {
        b"authorization": f"Bearer {token}".encode(),
        b"user-agent": head.user_agent.encode(),
        b"accept": b"application/json",
        b"accept-encoding": b"identity",
        b"content-type": b"application/json",
    }
    assert token not in repr(head)
    with pytest.raises(ValidationError):
        egress.Headers(authorization="Bearer mdm_sk_" + "a" * 32)
    with pytest.raises(ValidationError):
        egress.Headers(authorization=f"Bearer {token}", baggage="user=anna")  # type: ignore[call-arg]
