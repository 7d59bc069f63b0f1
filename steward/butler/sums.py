"""What a batch changes in the hourly sums: new rows are added, an old revision taken away and the new one added.

Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from steward.butler.quantiles import bucket
from steward.butler.reading import Received

NO_KEY: Final = UUID(int=0)
"""Stands in the hourly tables for a call of no key of Butler's."""

_FAILED: Final = frozenset({"upstream_failed", "timed_out", "interrupted"})
_FIRST_FAILURE: Final = 400

Row = dict[str, object]
Measures = list[int | Decimal]
_NAMES: Final = ("calls", "errors", "input_tokens", "output_tokens", "cached_tokens", "cost", "unmetered", "unpriced")


@dataclass(frozen=True, slots=True)
class Change:
    """A row as it was (None: it was not) and as it is now; `requested_at` is the same."""

    old: Received | None
    new: Received


@dataclass(frozen=True, slots=True)
class Seen:
    """A change with the tags that are indexed of it, before and after."""

    change: Change
    before: Mapping[str, str]
    after: Mapping[str, str]


def is_error(record: Received) -> bool:
    """As the column `is_error` says it."""
    if record.error_message is not None and record.error_message != "client_cancelled":
        return True
    return (record.status_code is not None and record.status_code >= _FIRST_FAILURE) or record.outcome in _FAILED


def hours(changes: Iterable[Change]) -> list[Row]:
    """What to add to `hours`; in the order of its key, so that two writers never deadlock."""
    sums: dict[tuple[datetime, str, str, UUID], Measures] = defaultdict(_nothing)
    for record, sign in _signed(changes):
        key = (_hour(record.requested_at), record.provider, record.model, record.api_key_id or NO_KEY)
        _add(sums[key], record, sign)
    names = ("hour", "provider", "model", "api_key_id")
    return [dict(zip((*names, *_NAMES), (*key, *of), strict=True)) for key, of in sorted(sums.items()) if any(of)]


def latencies(changes: Iterable[Change]) -> list[Row]:
    """What to add to `hour_latencies`."""
    counts: dict[tuple[datetime, str, str, str, int], int] = defaultdict(int)
    for record, sign in _signed(changes):
        for kind, ms in (("whole", record.response_time_ms), ("first", record.ttft_ms)):
            if ms is not None:
                counts[_hour(record.requested_at), kind, record.provider, record.model, bucket(ms)] += sign
    names = ("hour", "kind", "provider", "model", "bucket")
    return [dict(zip((*names, "calls"), (*key, of), strict=True)) for key, of in sorted(counts.items()) if of]


def tag_hours(seen: Iterable[Seen]) -> list[Row]:
    """What to add to `tag_hours`."""
    sums: dict[tuple[str, datetime, str], Measures] = defaultdict(_nothing)
    for each in seen:
        old, new = each.change.old, each.change.new
        hour = _hour(new.requested_at)
        if old is not None:
            for name, value in each.before.items():
                _add(sums[name, hour, value], old, -1)
        for name, value in each.after.items():
            _add(sums[name, hour, value], new, 1)
    names = ("name", "hour", "value")
    return [dict(zip((*names, *_NAMES), (*key, *of), strict=True)) for key, of in sorted(sums.items()) if any(of)]


def _signed(changes: Iterable[Change]) -> Iterable[tuple[Received, int]]:
    for each in changes:
        if each.old is not None:
            yield each.old, -1
        yield each.new, 1


def _nothing() -> Measures:
    return [0, 0, 0, 0, 0, Decimal(0), 0, 0]


def _add(sums: Measures, record: Received, sign: int) -> None:
    failed = is_error(record)
    values: Measures = [
        1,
        int(failed),
        record.input_tokens or 0,
        record.output_tokens or 0,
        record.cached_tokens or 0,
        record.total_cost or Decimal(0),
        int(record.input_tokens is None and not failed),
        int(record.total_cost is None and not failed),
    ]
    for place, value in enumerate(values):
        sums[place] += sign * value


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)
