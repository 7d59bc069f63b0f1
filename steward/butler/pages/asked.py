"""From an address to what the stores are asked: filters, the place in a list, a filter that was typed.

Refuses nothing: what cannot be asked is left out, and a sentence says so. Pure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from steward.butler.pages import filters
from steward.butler.pages.filters import View
from steward.butler.views import Cursor, Filter

_CURSOR: Final = re.compile(r"(older|newer)_(2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15})Z_([0-9a-f-]{36})")
_TYPED: Final = re.compile(r"\s*([A-Za-z0-9.-]{1,68})\s*[=:]\s*(.{1,256}?)\s*")


def which(view: View, now: datetime) -> Filter:
    """What the explorer is asked."""
    start, end = view.span.at(now)
    status, key, failed = view.value("status"), view.value("key"), view.value("failed")
    return Filter(
        since=start,
        until=end,
        provider=view.value("provider"),
        model=view.value("model"),
        api_key_id=UUID(key) if key else None,
        status_code=int(status) if status else None,
        outcome=view.value("outcome"),
        error=view.value("error"),
        failed=None if failed is None else failed == "yes",
        body_state=view.value("body"),
        tags=tuple((each.tag, each.value) for each in view.filters if each.tag is not None),
    )


def only_active(view: View, active: frozenset[str]) -> tuple[View, str]:
    """Without tags that are not indexed, and a sentence when there were some."""
    kept = tuple(each for each in view.filters if each.tag is None or each.tag in active)
    gone = [each.tag for each in view.filters if each not in kept]
    if not gone:
        return view, ""
    said = f"{', '.join(str(name) for name in gone)} cannot be filtered by: switch it on under Metadata keys first."
    return replace(view, filters=kept), said


def added(view: View, typed: str) -> tuple[View, str]:
    """With a filter that was typed as `name=value`, and a sentence when it could not be one."""
    if not typed.strip():
        return view, ""
    found = _TYPED.fullmatch(typed[:400])
    if found is not None:
        known = found[1].lower() if found[1].lower() in filters.NAMES else found[1]
        for name in (known, filters.TAG + found[1]):
            if filters.understood(name, found[2]):
                kept = tuple(each for each in view.filters if each.name != name)
                return replace(view, filters=(*kept, filters.Filter(name, found[2])), after="", panel=None), ""
    return view, "A filter is a name, an equals sign and a value: model=gpt-5, status=429, failed=yes, Team=payments."


def cursor_text(cursor: Cursor) -> str:
    """A place in a list, as an address has it."""
    way = "newer" if cursor.newer else "older"
    at = cursor.requested_at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return f"{way}_{at}Z_{cursor.id}"


def cursor_of(said: str) -> Cursor | None:
    """The place that an address says; None for none, and for what is none."""
    found = _CURSOR.fullmatch(said)
    if found is None:
        return None
    try:
        at, call_id = datetime.fromisoformat(found[2]).replace(tzinfo=UTC), UUID(found[3])
    except ValueError:
        return None
    return Cursor(at, call_id, found[1] == "newer")
