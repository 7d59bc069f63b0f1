"""What Stewards send, as it is read: the same fields as egress has, exact money, bounded depth."""

from __future__ import annotations

import json
import time
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.butler.errors import NotAcceptable, TooLong
from steward.butler.reading import MAX_BODY_BYTES, MAX_TAGS, RECORD_FIELDS, Received, SentRecord, parsed, records
from steward.butler.store_records import _KINDS
from steward.egress import MAX_RECORDS, MetadataRecord

ORG = UUID(int=5)
SENT = {
    "id": "8f14e45f-ceea-467f-a2d5-1f3b9e0c7a11",
    "provider": "openai",
    "model": "gpt-5",
    "request_path": "/v1/chat/completions",
    "request_method": "POST",
    "requested_at": "2026-11-18T13:00:00.000001+02:00",
}


def read(**changed: Any) -> Received:
    (record,) = records(json.dumps({"records": [{**SENT, **changed}]}).encode(), ORG)
    return record


def test_the_fields_are_those_that_leave_a_steward() -> None:
    assert set(SentRecord.model_fields) == set(MetadataRecord.model_fields) == set(RECORD_FIELDS)


def test_every_field_that_is_kept_has_its_column() -> None:
    assert tuple(_KINDS) == tuple(Received.__dataclass_fields__)


def test_times_are_in_utc() -> None:
    assert read().requested_at == datetime(2026, 11, 18, 11, 0, 0, 1, tzinfo=UTC)
    assert read().requested_at.tzinfo is UTC


@given(st.decimals(0, 10_000, allow_nan=False, allow_infinity=False, places=12))
def test_money_is_exact(money: Decimal) -> None:
    document = json.dumps({"records": [{**SENT, "total_cost": 0}]}).replace(
        '"total_cost": 0', f'"total_cost": {money:f}'
    )
    (record,) = records(document.encode(), ORG)
    assert record.total_cost == money


def test_money_finer_than_a_millionth_of_a_millionth_is_rounded() -> None:
    assert read(total_cost=0.1234567890123456).total_cost == Decimal("0.123456789012")


def test_the_own_organisation_may_be_named_and_no_other() -> None:
    assert read(org_id=str(ORG)).id == UUID(SENT["id"])
    with pytest.raises(NotAcceptable):
        read(org_id=str(UUID(int=6)))


def test_tags_of_both_fields_are_one_set() -> None:
    record = read(raw_metadata={"A": "1", "B": "2"}, indexed_metadata={"B": "2", "C": True})
    assert record.tags == {"A": "1", "B": "2", "C": "true"}
    assert len(read(raw_metadata={f"T{n}": "x" for n in range(99)}).tags) == 64


@given(st.binary(max_size=300))
def test_any_octets_are_read_or_refused(document: bytes) -> None:
    refused = ""
    try:
        parsed(document)
    except NotAcceptable as fault:
        refused = fault.field
    assert refused == ""


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_json_in_place_of_a_record_is_refused_by_place(said: Any) -> None:
    with pytest.raises(NotAcceptable) as caught:
        records(json.dumps({"records": [said]}).encode("utf-8", "surrogatepass"), ORG)
    assert caught.value.index in {0, None}


@pytest.mark.parametrize("deep", [b"[" * 9 + b"]" * 9, b'{"a":' * 9 + b"1" + b"}" * 9, b"[" * 1_000_000])
def test_what_is_too_deep_is_refused(deep: bytes) -> None:
    with pytest.raises(NotAcceptable):
        parsed(deep)


@pytest.mark.parametrize("small", [b"{}", b"[]", b"1", b'""'])
def test_millions_of_small_values_are_refused_before_they_are_made(small: bytes) -> None:
    document = b'{"records":[' + b",".join([small] * (2 << 20)) + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(NotAcceptable):
            parsed(document)
        assert tracemalloc.get_traced_memory()[1] < len(document)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b'"' + b'\\"' * (32 << 10), b'"\\\n' * (16 << 10), b'"' + b"\\" * (64 << 10) + b"\\"])
def test_a_string_that_never_ends_takes_no_time(text: bytes) -> None:
    """Anybody may send 64 KiB to sign in; this took a minute of the whole process."""
    began = time.process_time()
    with pytest.raises(NotAcceptable):
        parsed(text)
    assert time.process_time() - began < 1


def test_a_full_batch_of_full_records_is_read() -> None:
    tags = {f"t{number}": "v" for number in range(MAX_TAGS)}
    full = {**SENT, "raw_metadata": tags, "indexed_metadata": tags}
    document = json.dumps({"records": [{**full, "id": str(UUID(int=number))} for number in range(MAX_RECORDS)]})
    assert len(records(document.encode(), ORG)) == MAX_RECORDS


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
@pytest.mark.parametrize("field", ["requested_at", "responded_at"])
def test_a_moment_that_no_calendar_has_in_utc_is_refused(field: str, at: str) -> None:
    with pytest.raises(NotAcceptable):
        read(**{field: at})


def test_brackets_within_a_string_are_no_depth() -> None:
    assert parsed(b'["[[[[[[[[[[[[ \\" [[[[["]') == ['[[[[[[[[[[[[ " [[[[[']


def test_what_is_too_long_is_not_read() -> None:
    with pytest.raises(TooLong):
        parsed(b" " * (MAX_BODY_BYTES + 1))
