"""What is asked of the records, and what is answered: filters, pages, spans and sums. Frozen, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal
from uuid import UUID

MAX_PAGE = 200
MAX_SPAN = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls. What is None or empty does not narrow; `since <= requested_at < until`."""

    since: datetime
    until: datetime
    provider: str | None = None
    model: str | None = None
    api_key_id: UUID | None = None
    status_code: int | None = None
    outcome: str | None = None
    error: str | None = None
    """One of the closed list of codes."""
    failed: bool | None = None
    """True: only failed calls; False: only others."""
    body_state: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    """Names of active metadata keys with the exact value."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two calls; `newer` looks from there towards now."""

    requested_at: datetime
    id: UUID
    newer: bool = False


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call of the explorer's table; the request's page has `Call`."""

    id: UUID
    requested_at: datetime
    provider: str
    model: str
    api_key_id: UUID | None
    status_code: int | None
    outcome: str | None
    error_message: str | None
    is_error: bool
    response_time_ms: int | None
    ttft_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    usage_source: str | None
    total_cost: Decimal | None
    price_source: str | None
    body_state: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CallPage:
    """Newest first, with the cursors of its neighbours; None where there is none."""

    rows: tuple[CallRow, ...]
    older: Cursor | None
    newer: Cursor | None


@dataclass(frozen=True, slots=True)
class Call:
    """Everything that Butler knows of one call."""

    org_id: UUID
    id: UUID
    requested_at: datetime
    revision: int
    steward_id: UUID
    received_at: datetime
    """When the newest revision came."""
    user_id: UUID | None
    api_key_id: UUID | None
    proxy_key_id: UUID | None
    provider_api_key_hash: str | None
    provider_api_key_alias: str | None
    provider: str
    model: str
    original_model: str | None
    request_path: str
    request_method: str
    responded_at: datetime | None
    response_time_ms: int | None
    ttft_ms: int | None
    status_code: int | None
    outcome: str | None
    error_message: str | None
    usage_source: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_creation_tokens: int | None
    price_source: str | None
    input_cost: Decimal | None
    output_cost: Decimal | None
    total_cost: Decimal | None
    model_alias_found: bool
    tags: Mapping[str, str]
    body_state: str | None
    body_s3_key: str | None
    experiment_id: UUID | None
    experiment_arm_id: UUID | None
    is_error: bool


@dataclass(frozen=True, slots=True)
class Span:
    """A time on the overview, cut into steps. `since` and `until` lie on a step's edge, UTC."""

    since: datetime
    until: datetime
    step: timedelta

    def before(self) -> Span:
        """The same length, right before."""
        return Span(self.since - (self.until - self.since), self.since, self.step)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some calls. Cost and tokens are of those whose cost and tokens are known."""

    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Decimal = Decimal(0)
    unmetered: int = 0
    """Calls without known tokens, failed ones aside: those have none to be known."""
    unpriced: int = 0
    """Calls without known cost, failed ones aside."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Milliseconds, within 5 %; None when no call was timed."""

    p50: int | None = None
    p95: int | None = None
    p99: int | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The overview's figures."""

    sums: Sums
    whole: Quantiles
    """From the request to the answer's last byte."""
    first: Quantiles
    """To the first byte of the answer."""


Dimension = Literal["provider", "model", "api_key_id"]
Measure = Literal["cost", "calls", "tokens", "errors"]


@dataclass(frozen=True, slots=True)
class Point:
    """One step of one group; steps without calls have no point."""

    at: datetime
    group: str
    """The provider, the model, the key's id; empty when not grouped."""
    sums: Sums


@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """One step's latencies."""

    at: datetime
    whole: Quantiles
    first: Quantiles


@dataclass(frozen=True, slots=True)
class GroupSums:
    """Where it goes: one model, key, provider or tag value."""

    group: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Failed calls by code: `error_message`, else `status 503`, else the outcome."""

    code: str
    calls: int
    newest_at: datetime
    newest_id: UUID
