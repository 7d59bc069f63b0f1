"""Records for the ledger's tests: a small one, and one with every field filled. Asserts nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from steward.exchange import BodyState, ErrorCode, Outcome, Record, UsageSource, uuid7

ORG = UUID("0198c0de-0000-7000-8000-000000000001")
OTHER_ORG = UUID("0198c0de-0000-7000-8000-000000000002")
KEY = UUID("0198c0de-0000-7000-8000-00000000000a")
NOON = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)

_numbers = itertools.count()


def new_id(at: datetime = NOON) -> UUID:
    """Ids in the order in which they are made, all of one month."""
    number = next(_numbers)
    return uuid7(int(at.timestamp() * 1000) + number, number.to_bytes(10, "big"))


def a_record(**changes: Any) -> Record:
    """The least a row says, and what the test says."""
    facts: dict[str, Any] = {
        "id": new_id(),
        "org_id": ORG,
        "api_key_id": KEY,
        "provider": "openai",
        "request_path": "/v1/chat/completions",
        "request_method": "POST",
        "requested_at": NOON,
        "outcome": Outcome.COMPLETE,
        "body_state": BodyState.NONE,
        "usage_source": UsageSource.NONE,
    }
    return Record(**(facts | changes))


def a_full_record(**changes: Any) -> Record:
    """Every field holds something, and no two hold the same."""
    record = a_record(
        outcome=Outcome.UPSTREAM_FAILED,
        body_state=BodyState.STORED,
        usage_source=UsageSource.PARTIAL,
        user_id=UUID(int=3),
        registration_id=UUID(int=4),
        provider_api_key_hash="5" * 64,
        provider_api_key_alias="production",
        model="gpt-4o-mini-2024-07-18",
        original_model="gpt-4o-mini",
        responded_at=NOON + timedelta(seconds=6, microseconds=7),
        response_time_ms=8,
        ttft_ms=9,
        sent_us=10,
        head_us=11,
        first_byte_us=12,
        last_byte_us=13,
        input_tokens=14,
        output_tokens=15,
        cached_tokens=16,
        cache_creation_tokens=17,
        reasoning_tokens=18,
        input_cost=Decimal("0.0000019"),
        output_cost=Decimal("20.5"),
        total_cost=Decimal("21.123456789012345678901234"),
        provider_cost=Decimal("1E-9"),
        price_source="genai-prices 0.2.3",
        model_alias_found=True,
        service_tier="priority",
        streamed=True,
        status_code=429,
        error_message=ErrorCode.RATE_LIMITED,
        tags={"User-Id": "u-22", "Feature": "search"},
        tags_dropped=23,
        client="openai-python",
        claude_session_id="24",
        claude_session_name="twenty-five",
        request_bytes=26,
        response_bytes=27,
        truncated=True,
        body_key="2026/11/28",
        body_url="s3://bucket/2026/11/28",
        body_sha256="29" * 32,
        body_bytes=30,
        storage_config_id=OTHER_ORG,
    )
    return replace(record, **changes)
