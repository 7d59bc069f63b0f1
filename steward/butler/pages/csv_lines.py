"""Calls as lines of CSV (RFC 4180), for a spreadsheet.

Refuses to write a cell that a spreadsheet would run: one that begins with `= + - @`, a tab or a carriage return gets an
apostrophe before it (SECURITY F22). Unknown is an empty cell, never 0. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from steward.butler.pages import filters
from steward.butler.views import CallRow

COLUMNS: Final = (
    *("id", "requested_at", "provider", "model", "api_key_id", "api_key", "status_code", "outcome", "error"),
    *("response_time_ms", "ttft_ms", "input_tokens", "output_tokens", "usage_source", "total_cost_usd"),
    *("price_source", "body_state", "tags"),
)
HEAD: Final = ",".join(COLUMNS) + "\r\n"
_QUOTED: Final = re.compile(r'[,"\r\n\t]')
_RUN: Final = ("=", "+", "-", "@", "\t", "\r")


def cell(value: object) -> str:
    """One cell, quoted where it must be."""
    if value is None:
        return ""
    text = f"{value}"
    if text.startswith(_RUN):
        text = f"'{text}"
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(text) else text


def line_of(call: CallRow, keys: Mapping[UUID, str]) -> str:
    """One call; its tags in one cell, as `name=value` by name."""
    tags = "; ".join(f"{name}={value}" for name, value in sorted(call.tags.items()))
    cost = None if call.total_cost is None else f"{call.total_cost:f}"
    cells = (
        *(call.id, filters.iso(call.requested_at), call.provider, call.model, call.api_key_id),
        *(keys.get(call.api_key_id) if call.api_key_id else None, call.status_code, call.outcome, call.error_message),
        *(call.response_time_ms, call.ttft_ms, call.input_tokens, call.output_tokens, call.usage_source, cost),
        *(call.price_source, call.body_state, tags),
    )
    return ",".join(cell(each) for each in cells) + "\r\n"
