"""The audit log: who changed what, newest first; an owner who opens it has seen what owners are told."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Response

from steward.butler.nouns import AuditEntry
from steward.butler.pages import phrases
from steward.butler.pages.door import Looking
from steward.butler.pages.serving import page_of, pages_router, show
from steward.butler.store_audit import AuditFilter

router = pages_router()

PAGE: Final = 50
OBJECTS: Final = (
    *("api_key", "steward", "storage", "provider_key", "metadata_key"),
    *("member", "invitation", "user", "session", "organisation"),
)
_BEFORE: Final = re.compile(r"(2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15})Z_([0-9a-f-]{36})")


@router.get("/audit")
def audit_page(visitor: Looking) -> Response:
    """One page, narrowed by person and kind of object."""
    session, audit, said = visitor.session, visitor.services.audit, visitor.request.query_params
    actors = audit.actors(session.org_id)
    actor = said.get("actor", "") if said.get("actor", "") in actors else ""
    wanted = said.get("object", "") if said.get("object", "") in OBJECTS else ""
    which = AuditFilter(_before(said.get("before", "")), actor or None, wanted or None)
    entries = audit.page(session.org_id, which, PAGE + 1)
    page = page_of(visitor, "Audit", "audit")
    told = audit.notices(session.org_id, session.user_id)
    if told and which == AuditFilter():
        audit.notices_seen(session.org_id, session.user_id, told[0].at)
    return show(
        visitor,
        "audit.html",
        page,
        entries=entries[:PAGE],
        older=_older(entries, actor, wanted),
        actors=actors,
        actor=actor,
        objects=[(each, phrases.action_words(f"{each}.")) for each in OBJECTS],
        object=wanted,
    )


def _older(entries: list[AuditEntry], actor: str, wanted: str) -> str:
    if len(entries) <= PAGE:
        return ""
    last = entries[PAGE - 1]
    at = last.at.astimezone(UTC).replace(tzinfo=None).isoformat()
    said = {"actor": actor, "object": wanted, "before": f"{at}Z_{last.id}"}
    return f"/audit?{urlencode({name: value for name, value in said.items() if value})}"


def _before(said: str) -> tuple[datetime, UUID] | None:
    found = _BEFORE.fullmatch(said)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC), UUID(found[2])
    except ValueError:
        return None
