"""Makes calls as ingest has read them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from steward.butler.reading import Received

_CALL = Received(
    id=UUID(int=0),
    revision=1,
    requested_at=datetime(2026, 11, 18, 11, 0, tzinfo=UTC),
    user_id=None,
    api_key_id=None,
    proxy_key_id=None,
    provider_api_key_hash=None,
    provider_api_key_alias=None,
    provider="openai",
    model="gpt-5",
    original_model=None,
    request_path="/v1/chat/completions",
    request_method="POST",
    responded_at=datetime(2026, 11, 18, 11, 0, 1, tzinfo=UTC),
    response_time_ms=1000,
    ttft_ms=250,
    status_code=200,
    outcome="complete",
    error_message=None,
    usage_source="provider",
    input_tokens=100,
    output_tokens=10,
    cached_tokens=0,
    cache_creation_tokens=0,
    price_source="genai-prices 0.0.70",
    input_cost=Decimal("0.01"),
    output_cost=Decimal("0.02"),
    total_cost=Decimal("0.03"),
    model_alias_found=True,
    tags={},
    body_state="stored",
    body_s3_key=None,
    experiment_id=None,
    experiment_arm_id=None,
)


def received(**changed: Any) -> Received:
    """A call with an id of its own."""
    return replace(_CALL, **{"id": uuid4(), **changed})
