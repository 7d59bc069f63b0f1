"""The audit log: who changed what, newest first; an owner says there that he has seen what owners are told."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Response

from steward.butler.errors import NotAcceptable
from steward.butler.nouns import AuditEntry
from steward.butler.pages import phrases
from steward.butler.pages.door import Looking
from steward.butler.pages.serving import away, page_of, pages_router, show
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
    told = audit.notices(session.org_id, session.user_id)
    return show(
        visitor,
        "audit.html",
        page_of(visitor, "Audit", "audit"),
        told=told,
        told_until=told[0].at.isoformat() if told else "",
        entries=entries[:PAGE],
        older=_older(entries, actor, wanted),
        actors=actors,
        actor=actor,
        objects=[(each, phrases.action_words(f"{each}.")) for each in OBJECTS],
        object=wanted,
    )


@router.post("/audit/seen")
def notices_seen(visitor: Looking) -> Response:
    """He has seen what was shown with the button, and nothing that came after it."""
    session, audit = visitor.session, visitor.services.audit
    until = _moment(visitor.form.needed("until", 40))
    told = audit.notices(session.org_id, session.user_id)
    if told:
        audit.notices_seen(session.org_id, session.user_id, min(until, told[0].at))
    return away("/audit")


def _moment(said: str) -> datetime:
    try:
        at = datetime.fromisoformat(said)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise NotAcceptable("until")
    return at


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
