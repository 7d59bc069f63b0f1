"""The request explorer: pages of calls by filter, newest first, and one call whole.

Every filter that can stand alone has an index in the order of the page, so that a page reads little more than its rows,
however many there are. Refuses to count them all.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Row

from steward.butler.database import Database
from steward.butler.errors import NotThere
from steward.butler.views import MAX_PAGE, Call, CallPage, CallRow, Cursor, Filter

_ROW: Final = ", ".join(f"r.{each.name}" for each in fields(CallRow))
_CALL: Final = ", ".join(f"r.{each.name}" for each in fields(Call))

_NARROWER: Final = {
    "provider": "r.provider = :provider",
    "model": "r.model = :model",
    "api_key_id": "r.api_key_id = :api_key_id",
    "outcome": "r.outcome = :outcome",
    "error": "r.error_message = :error",
    "body_state": "r.body_state = :body_state",
}
_PLAIN: Final = "butler.requests r"
_TAGGED: Final = (
    "butler.request_tags t CROSS JOIN LATERAL (SELECT * FROM butler.requests q WHERE q.org_id = t.org_id "
    "AND q.id = t.id AND q.requested_at = t.requested_at AND q.requested_at >= :since "
    "AND q.requested_at {before} :until LIMIT 1) r"
)

_GET: Final = text(f"SELECT {_CALL} FROM butler.requests r WHERE r.org_id = :org_id AND r.id = :id")

_CHOICES: Final = text("""
    SELECT DISTINCT provider, model FROM butler.hours
    WHERE org_id = :org_id AND hour >= :since AND hour < :until ORDER BY provider, model LIMIT 500
""")

_VALUES: Final = text("""
    SELECT value, sum(calls)::bigint AS calls FROM butler.tag_hours
    WHERE org_id = :org_id AND name = :name AND hour >= :since AND hour < :until AND starts_with(value, :prefix)
    GROUP BY value ORDER BY calls DESC, value LIMIT :limit
""")


class Explorer:
    """Reads the table `requests`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, org_id: UUID, which: Filter, cursor: Cursor | None = None, limit: int = 50) -> CallPage:
        """At most `limit` (1 to 200) calls, newest first, on one side of the cursor."""
        limit = max(1, min(limit, MAX_PAGE))
        newer = cursor is not None and cursor.newer
        statement, facts = statement_of(org_id, which, cursor, limit + 1)
        found = self._database.rows(text(statement), **facts)
        more, found = len(found) > limit, found[:limit]
        rows = tuple(_row(each) for each in (reversed(found) if newer else found))
        return _page(rows, cursor, more)

    def get(self, org_id: UUID, request_id: UUID) -> Call:
        """Everything of one call. Raises NotThere."""
        row = self._database.one(_GET, org_id=org_id, id=request_id)
        if row is None:
            raise NotThere
        return Call(**row._mapping)

    def choices(self, org_id: UUID, which: Filter) -> list[tuple[str, str]]:
        """Providers with their models in the filter's time: for pickers."""
        rows = self._database.rows(_CHOICES, org_id=org_id, since=which.since, until=which.until)
        return [(row.provider, row.model) for row in rows]

    def values(self, org_id: UUID, which: Filter, name: str, prefix: str = "") -> list[tuple[str, int]]:
        """An active key's values in the filter's time with their calls, most used first, at most 50: for pickers."""
        facts = {"name": name, "prefix": prefix, "limit": 50, "since": which.since, "until": which.until}
        return [(row.value, row.calls) for row in self._database.rows(_VALUES, org_id=org_id, **facts)]


def statement_of(org_id: UUID, which: Filter, cursor: Cursor | None, limit: int) -> tuple[str, dict[str, object]]:
    """The page's statement and its parameters: tests ask PostgreSQL how it would go about it."""
    since, until, before = _bounds(which, cursor)
    facts: dict[str, object] = {"org_id": org_id, "since": since, "until": until, "limit": limit}
    narrower = ["r.org_id = :org_id", "r.requested_at >= :since", f"r.requested_at {before} :until"]
    for name, condition in _NARROWER.items():
        if (value := getattr(which, name)) is not None:
            facts[name] = value
            narrower.append(condition)
    if which.outcome not in {None, "complete"}:
        narrower.append("r.outcome <> 'complete'")  # as the index says it
    if which.error is not None:
        narrower.append("r.error_message IS NOT NULL")
    if which.status_code is not None:
        facts["status_code"] = which.status_code
        narrower.append("r.status_code = :status_code")
        narrower += ["r.status_code <> 200"] if which.status_code != 200 else []
    if which.failed is not None:
        narrower.append("r.is_error" if which.failed else "NOT r.is_error")
    tags, order = _tags(which.tags, facts, before), "t" if which.tags else "r"
    if cursor is not None:
        facts |= {"at": cursor.requested_at, "at_id": cursor.id}
        sign = ">" if cursor.newer else "<"
        narrower.append(f"({order}.requested_at, {order}.id) {sign} (:at, CAST(:at_id AS uuid))")
    direction = "ASC" if cursor is not None and cursor.newer else "DESC"
    table = _TAGGED.format(before=before) if which.tags else _PLAIN
    statement = (
        f"SELECT {_ROW} FROM {table} WHERE {' AND '.join([*narrower, *tags])} "
        f"ORDER BY {order}.requested_at {direction}, {order}.id {direction} LIMIT :limit"
    )
    return statement, facts


def _bounds(which: Filter, cursor: Cursor | None) -> tuple[datetime, datetime, str]:
    """From when and until when the page's calls are, and how the end is compared: the cursor narrows it.

    One bound a side and no more: of two, PostgreSQL may begin at the looser and walk the index up to the tighter. By
    these it also leaves partitions out.
    """
    if cursor is None:
        return which.since, which.until, "<"
    if cursor.newer:
        return max(which.since, cursor.requested_at), which.until, "<"
    if cursor.requested_at < which.until:
        return which.since, cursor.requested_at, "<="
    return which.since, which.until, "<"


def _tags(tags: Sequence[tuple[str, str]], facts: dict[str, object], before: str) -> list[str]:
    """The first tag leads, by its index; the others are looked for in what it finds."""
    narrower = []
    for number, (name, value) in enumerate(tags):
        facts |= {f"tag{number}": name, f"value{number}": value}
        if number:
            narrower.append(f"r.tags ->> CAST(:tag{number} AS text) = :value{number}")
        else:
            narrower += [
                "t.org_id = :org_id AND t.name = :tag0 AND t.value = :value0",
                f"t.requested_at >= :since AND t.requested_at {before} :until",
            ]
    return narrower


def _page(rows: tuple[CallRow, ...], cursor: Cursor | None, more: bool) -> CallPage:
    if not rows:
        return CallPage((), None, None)
    first, last = rows[0], rows[-1]
    looked_newer = cursor is not None and cursor.newer
    has_newer = more if looked_newer else cursor is not None
    has_older = True if looked_newer else more
    return CallPage(
        rows,
        Cursor(last.requested_at, last.id) if has_older else None,
        Cursor(first.requested_at, first.id, newer=True) if has_newer else None,
    )


def _row(row: Row[Any]) -> CallRow:
    return CallRow(**row._mapping)
