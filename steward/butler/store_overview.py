"""The overview's figures: sums, series and shares of a time, from the hourly sums that ingest keeps.

Steps below an hour are summed from the calls themselves, which is for a time of some hours; everything else reads the
hourly tables alone, so that a month of a million calls is as quick as a day. It refuses to sum
what it would have to guess: calls of unknown cost or tokens are counted apart.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Row

from steward.butler.database import Database
from steward.butler.quantiles import quantiles
from steward.butler.views import (
    Dimension,
    ErrorCount,
    GroupSums,
    LatencyPoint,
    Measure,
    Point,
    Span,
    Sums,
    Totals,
)

HOUR: Final = timedelta(hours=1)
NO_KEY: Final = UUID(int=0)
"""Stands in the hourly tables for a call of no key of Butler's."""

REST: Final = "\u2026"
"""Stands for all groups but the largest; no model, provider or key is called so."""

_COUNTED: Final = (
    "calls",
    "errors",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost",
    "unmetered",
    "unpriced",
)
_OF_HOURS: Final = ", ".join(
    f"coalesce(sum(h.{name}), 0){'' if name == 'cost' else '::bigint'} AS {name}" for name in _COUNTED
)
_OF_CALLS: Final = """
    count(*) AS calls, count(*) FILTER (WHERE h.is_error) AS errors,
    coalesce(sum(h.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(h.output_tokens), 0)::bigint AS output_tokens,
    coalesce(sum(h.cached_tokens), 0)::bigint AS cached_tokens, coalesce(sum(h.total_cost), 0) AS cost,
    count(*) FILTER (WHERE h.input_tokens IS NULL AND NOT h.is_error) AS unmetered,
    count(*) FILTER (WHERE h.total_cost IS NULL AND NOT h.is_error) AS unpriced
"""
_HOURLY: Final = "butler.hours h WHERE h.org_id = :org_id AND h.hour >= :since AND h.hour < :until"
_EACH: Final = "butler.requests h WHERE h.org_id = :org_id AND h.requested_at >= :since AND h.requested_at < :until"
_STEP: Final = "date_bin(make_interval(secs => :step), h.{time}, :since)"
_GROUPS: Final = {
    "": "''",
    "provider": "h.provider",
    "model": "h.model",
    "api_key_id": f"coalesce(nullif(h.api_key_id, '{NO_KEY}')::text, '')",
}

_ORDERS: Final[Mapping[Measure, str]] = {
    "cost": "cost DESC, calls DESC",
    "calls": "calls DESC",
    "tokens": "sum(h.input_tokens) + sum(h.output_tokens) DESC NULLS LAST, calls DESC",
    "errors": "errors DESC, calls DESC",
}

_TAG_HOURS: Final = f"""
    SELECT h.value AS name, {_OF_HOURS} FROM butler.tag_hours h
    WHERE h.org_id = :org_id AND h.name = :name AND h.hour >= :since AND h.hour < :until
"""
_TAG_CALLS: Final = f"SELECT h.tags ->> :name AS name, {_OF_CALLS} FROM {_EACH} AND h.tags ->> :name IS NOT NULL"

_ERRORS: Final = text("""
    SELECT code, count(*) AS calls, max(requested_at) AS newest_at,
        (array_agg(id ORDER BY requested_at DESC, id DESC))[1] AS newest_id
    FROM (
        SELECT coalesce(error_message, 'status ' || status_code, outcome, 'other') AS code, requested_at, id
        FROM butler.requests
        WHERE org_id = :org_id AND requested_at >= :since AND requested_at < :until AND is_error
        ORDER BY requested_at DESC, id DESC LIMIT 10000
    ) newest
    GROUP BY code ORDER BY calls DESC, newest_at DESC LIMIT :limit
""")

_LATENCY_HOURS: Final = f"""
    SELECT {_STEP.format(time="hour")} AS at, h.kind, h.bucket, sum(h.calls)::bigint AS calls
    FROM butler.hour_latencies h WHERE h.org_id = :org_id AND h.hour >= :since AND h.hour < :until
    GROUP BY 1, 2, 3
"""
_LATENCY_CALLS: Final = f"""
    SELECT {_STEP.format(time="requested_at")} AS at, l.kind, butler.latency_bucket(l.ms) AS bucket, count(*) AS calls
    FROM butler.requests h
    CROSS JOIN LATERAL (VALUES ('whole', h.response_time_ms), ('first', h.ttft_ms)) AS l(kind, ms)
    WHERE h.org_id = :org_id AND h.requested_at >= :since AND h.requested_at < :until AND l.ms IS NOT NULL
    GROUP BY 1, 2, 3
"""
_FIRST: Final = text("SELECT min(hour) AS hour FROM butler.hours WHERE org_id = :org_id")


class Overview:
    """Reads `hours`, `hour_latencies` and `tag_hours`; for short steps `requests`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def totals(self, org_id: UUID, span: Span) -> Totals:
        """The figures of the whole span; ask again with `span.before()` for the change."""
        (row,) = self._database.rows(text(f"SELECT {self._sums(span)}"), **_facts(org_id, span))
        whole: dict[int, int] = defaultdict(int)
        first: dict[int, int] = defaultdict(int)
        for each in self._latencies(org_id, span):
            (whole if each.kind == "whole" else first)[each.bucket] += each.calls
        return Totals(_of(row), quantiles(whole), quantiles(first))

    def series(
        self, org_id: UUID, span: Span, by: Dimension | None = None, first: Measure = "cost", most: int = 20
    ) -> list[Point]:
        """Sums by step, and by group where asked; oldest first. Steps without calls are not there.

        All but the `most` groups with most of `first` are one, REST: ten thousand keys are not ten thousand lines.
        """
        time = "hour" if _is_hourly(span) else "requested_at"
        name = _GROUPS[by or ""]
        statement = f"""
            WITH largest AS (SELECT {name} AS name, {self._sums(span)} {_largest(first)})
            SELECT {_STEP.format(time=time)} AS at,
                CASE WHEN {name} IN (SELECT name FROM largest) THEN {name} ELSE '{REST}' END AS name, {self._sums(span)}
            GROUP BY 1, 2 ORDER BY 1, 2
        """
        facts = {**_facts(org_id, span), "step": span.step.total_seconds(), "limit": most}
        return [Point(row.at, row.name, _of(row)) for row in self._database.rows(text(statement), **facts)]

    def latency(self, org_id: UUID, span: Span) -> list[LatencyPoint]:
        """Quantiles by step, oldest first. Steps without timed calls are not there."""
        steps: dict[datetime, dict[str, dict[int, int]]] = defaultdict(lambda: {"whole": {}, "first": {}})
        for row in self._latencies(org_id, span):
            steps[row.at][row.kind][row.bucket] = row.calls
        return [LatencyPoint(at, quantiles(of["whole"]), quantiles(of["first"])) for at, of in sorted(steps.items())]

    def breakdown(
        self, org_id: UUID, span: Span, by: Dimension, limit: int = 20, first: Measure = "cost"
    ) -> list[GroupSums]:
        """Where it goes: those with most of `first`, so that the largest is there whatever is asked."""
        statement = f"SELECT {_GROUPS[by]} AS name, {self._sums(span)} {_largest(first)}"
        rows = self._database.rows(text(statement), **_facts(org_id, span), limit=limit)
        return [GroupSums(row.name, _of(row)) for row in rows]

    def tag_breakdown(
        self, org_id: UUID, span: Span, name: str, limit: int = 20, first: Measure = "cost"
    ) -> list[GroupSums]:
        """The same by the values of an active metadata key, of exactly the span's calls."""
        statement = f"{_TAG_HOURS if _is_hourly(span) else _TAG_CALLS} {_largest(first)}"
        rows = self._database.rows(text(statement), **_facts(org_id, span), name=name, limit=limit)
        return [GroupSums(row.name, _of(row)) for row in rows]

    def errors(self, org_id: UUID, span: Span, limit: int = 10) -> list[ErrorCount]:
        """Failed calls by code, of the newest 10,000 of the span."""
        rows = self._database.rows(_ERRORS, org_id=org_id, since=span.since, until=span.until, limit=limit)
        return [ErrorCount(**row._mapping) for row in rows]

    def first_hour(self, org_id: UUID) -> datetime | None:
        """The hour of the oldest call; None when there was none: the page then says how to begin."""
        row = self._database.one(_FIRST, org_id=org_id)
        at: datetime | None = None if row is None else row.hour
        return at

    def _sums(self, span: Span) -> str:
        return f"{_OF_HOURS} FROM {_HOURLY}" if _is_hourly(span) else f"{_OF_CALLS} FROM {_EACH}"

    def _latencies(self, org_id: UUID, span: Span) -> Iterable[Row[Any]]:
        statement = _LATENCY_HOURS if _is_hourly(span) else _LATENCY_CALLS
        return self._database.rows(text(statement), **_facts(org_id, span), step=span.step.total_seconds())


def _largest(first: Measure) -> str:
    return f"GROUP BY 1 ORDER BY {_ORDERS[first]}, 1 LIMIT :limit"


def _is_hourly(span: Span) -> bool:
    whole = span.since.timestamp() % 3600 == 0
    return whole and span.step >= HOUR and span.step % HOUR == timedelta(0)


def _facts(org_id: UUID, span: Span) -> dict[str, Any]:
    return {"org_id": org_id, "since": span.since, "until": span.until}


def _of(row: Row[Any]) -> Sums:
    return Sums(**{name: getattr(row, name) for name in _COUNTED})
