"""A row of the ledger as it leaves: what may be told of it, and nothing else.

Refuses a row that holds anything outside the domains of `egress.py` (NotExportable, without a word of it). Numbers
that nobody knows leave as 0, and the sources beside them say so. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, cast
from uuid import UUID

from pydantic import ValidationError

from steward import domains
from steward.egress import MetadataRecord, Method
from steward.errors import NotExportable
from steward.exchange import BodyState
from steward.ports import LedgerRow
from steward.providers import TEMPLATES

_STEP: Final = Decimal("1e-12")


@dataclass(frozen=True, slots=True)
class ExportRules:
    """What the settings say of it."""

    tags: frozenset[str] | None = None
    """Names of the tags that leave; None: all."""
    managed: bool = False
    """Managed mode: calls with keys made inside go nowhere."""


def export_record(row: LedgerRow, org_id: UUID, rules: ExportRules) -> MetadataRecord:
    """The record of a row, for the organisation whose registration it goes to. Raises NotExportable."""
    record = row.record
    try:
        return MetadataRecord(
            id=record.id,
            revision=row.revision,
            org_id=org_id,
            user_id=record.user_id,
            majordomo_api_key_id=None if record.registration_id is None else record.api_key_id,
            provider_api_key_hash=record.provider_api_key_hash,
            provider_api_key_alias=_line(record.provider_api_key_alias),
            provider=record.provider,
            model=domains.model_name(record.model, known=True) or domains.OTHER_MODEL,
            original_model=domains.model_name(record.original_model, known=True),
            request_path=domains.route_template(record.request_path, TEMPLATES),
            request_method=cast(Method, domains.method(record.request_method)),
            requested_at=record.requested_at,
            responded_at=_answered(record.requested_at, record.responded_at),
            response_time_ms=record.response_time_ms or 0,
            ttft_ms=record.ttft_ms,
            status_code=record.status_code or 0,
            outcome=record.outcome,
            error_message=record.error_message,
            usage_source=record.usage_source,
            input_tokens=record.input_tokens or 0,
            output_tokens=record.output_tokens or 0,
            cached_tokens=record.cached_tokens or 0,
            cache_creation_tokens=record.cache_creation_tokens or 0,
            price_source=record.price_source,
            input_cost=_usd(record.input_cost),
            output_cost=_usd(record.output_cost),
            total_cost=_usd(record.total_cost),
            model_alias_found=record.model_alias_found,
            raw_metadata=leaving_tags(record.tags, rules.tags) or None,
            body_state=record.body_state,
            body_s3_key=record.body_key if record.body_state is BodyState.STORED else None,
        )
    except (ValidationError, ArithmeticError):
        raise NotExportable from None


def leaving_tags(tags: Mapping[str, str], allowed: frozenset[str] | None) -> dict[str, str]:
    """Those that leave: allowed by name, a line of at most 256 characters, and nothing like a credential."""
    return {
        name: value
        for name, value in tags.items()
        if (allowed is None or name in allowed)
        and domains.tag_name(name) == name
        and domains.tag_value(value) is not None
        and not domains.looks_like_credential(name, value)
    }


def _line(text: str | None) -> str | None:
    if text is None or domains.looks_like_credential("", text):
        return None
    return domains.tag_value(text)


def _answered(requested_at: datetime, responded_at: datetime | None) -> datetime:
    """A call that was never answered ends, for Butler, where it began; its outcome says more."""
    return responded_at or requested_at


def _usd(amount: Decimal | None) -> Decimal:
    """To a millionth of a millionth, without the zeros at its end."""
    return Decimal(0) if amount is None else amount.quantize(_STEP, ROUND_HALF_EVEN).normalize()
